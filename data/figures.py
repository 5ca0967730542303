"""How every picture looks, and how one is written: a theme-aware SVG, a light PNG and the numbers drawn."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.store import atomic_path, write_json
from data.theme_svg import COLOURS, GRID, GROUND, INK, SOFT, themed_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCHES = 4.8
"""Of a picture: shown on a phone about as large as it is drawn."""
MOST_POINTS = 500
"""Of a curve that is drawn."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DPI = 150
_LABEL_SIZE = 8.5
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "patch.edgecolor": INK,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8.5,
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What is drawn, and in words."""

    name: str
    """File stem: lower-case letters, digits and hyphens."""
    title: str
    caption: str
    """Plain text: what is drawn, of what, intervals of what."""
    data: dict[str, Any]
    """The numbers drawn, as JSON has them."""
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (WIDTH_INCHES, 3.2)
    """Inches."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9-]+", self.name):
            raise ValueError(f"picture name: {self.name!r} may only have a-z, 0-9 and hyphens")
        for key in ("title", "caption"):
            object.__setattr__(self, key, plain(getattr(self, key)))


def write_picture(picture: Picture, folder: Path) -> str:
    """Write NAME.svg (follows the viewer's theme), NAME.png (light) and NAME.json into a folder.

    Returns:
        The SVG to be put into a page that has `PICTURE_CSS`; its ids begin with the picture's name.
    """
    with _drawn(picture) as figure:
        with atomic_path(folder / f"{picture.name}.png") as path:
            _save_png(figure, path)
        inline, alone = themed_svg(figure, picture.name, picture.title, picture.caption)
    with atomic_path(folder / f"{picture.name}.svg") as path:
        path.write_text(alone, encoding="utf-8")
    write_json(folder / f"{picture.name}.json", _json_value(picture.data))
    return inline


def write_png(picture: Picture, path: Path) -> None:
    """Write only the light PNG, for the plots of a stage."""
    with _drawn(picture) as figure, atomic_path(path) as temporary:
        _save_png(figure, temporary)


@contextmanager
def _drawn(picture: Picture) -> Iterator[Figure]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": picture.name}
    with warnings.catch_warnings(), matplotlib.rc_context(style):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # an SVG has them by its viewer's fonts
        figure = Figure(figsize=picture.size, dpi=_DPI)
        FigureCanvasAgg(figure)
        picture.draw(figure)
        lay_out(figure)
        figure.set_layout_engine("none")  # once is enough
        yield figure


def _save_png(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=_DPI, facecolor=GROUND, metadata={"Software": None})


def _json_value(value: Any) -> Any:
    """With null for what is no finite number."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(content) for content in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- parts of pictures


def numbers(row: Any, *keys: str) -> tuple[float, ...]:
    """The values of a row that is to be drawn.

    Raises:
        ValueError: one of them is no finite number.
    """
    found = tuple(finite(row[key]) for key in keys)
    known = tuple(value for value in found if value is not None)
    if len(known) < len(keys):
        raise ValueError(f"{keys[found.index(None)]}: {row[keys[found.index(None)]]!r} is no finite number")
    return known


def finite(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


def styles() -> Iterator[tuple[str, str]]:
    """A colour and a marker for each line; the markers repeat later than the colours."""
    return zip(cycle(COLOURS), cycle(MARKERS), strict=False)


def plain(text: object) -> str:
    """Words with one space between them, without control characters and halves of letters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def short(text: object, letters: int = 24) -> str:
    """A name as a picture has room for it."""
    text = plain(text)
    return text if len(text) <= letters else text[: letters - 1] + "…"


def thinned(values: Sequence[Any], most: int = MOST_POINTS) -> list[Any]:
    """At most so many of the values, evenly spaced, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def logarithmic(axes: Any, direction: str, narrow: bool = True) -> None:
    """A logarithmic axis, x or y, whose numbers are plain: 0.5, 20, 5k.

    Args:
        narrow: also 2 and 5 of each decade have a number.
    """
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    getattr(axes, f"set_{direction}scale")("log")
    axis, large = getattr(axes, f"{direction}axis"), EngFormatter(sep="")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}" if at < 1000 else large(at)))
    axis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, axes: Any, columns: int = 3, title: str | None = None) -> None:
    """The legend of one of the axes, below the picture."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(labels), columns), title=title
        )
        legend.get_title().set_fontsize(8)


def lay_out(figure: Figure) -> None:
    """Fix where the axes are, so that places in pixels are known."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def label_ends(figure: Figure, ends: Mapping[Any, Sequence[tuple[float, float, str, str]]]) -> None:
    """Name lines at their right ends, beside their axes, none above another.

    To be called when limits are set.

    Args:
        ends: (x, y, name, colour) of each line of each of the axes, in its units.
    """
    lay_out(figure)
    for axes, lines in ends.items():
        gap = 1.25 * _LABEL_SIZE / (axes.get_window_extent().height * 72 / figure.dpi)
        to_axes = axes.transData + axes.transAxes.inverted()
        wanted = sorted((to_axes.transform(line[:2])[1], line) for line in lines)
        places = _apart([place for place, _ in wanted], gap)
        for (_, (x, y, name, colour)), place in zip(wanted, places, strict=True):
            leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.8, "relpos": (0, 0.5)}
            axes.annotate(
                name,
                (x, y),
                xytext=(1.05, place),
                textcoords="axes fraction",
                va="center",
                fontsize=_LABEL_SIZE,
                arrowprops=leader,
                annotation_clip=False,
            )


def _apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places within 0 and 1, at least a gap apart where there is room, near the wanted ones."""
    places: list[float] = []
    for at in wanted:
        places.append(max(at, places[-1] + gap) if places else max(at, 0.0))
    limit = max(1.0, gap * (len(places) - 1))
    for i in reversed(range(len(places))):
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    return places
