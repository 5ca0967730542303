"""How every picture looks, and how one is written: a theme-aware SVG, a light PNG and the numbers drawn.

Drawing code takes its colours from here. In an SVG each becomes a CSS variable (`var(--c0)`, ink is
`currentColor`), so that a picture follows its page into the dark. matplotlib is imported on demand only.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from data.store import atomic_path, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours of Okabe and Ito (2008), told apart by every kind of colour vision; grey stands for their black,
# which is the ink, and yellow is too pale for lines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6b6b6b")
BLUE, ORANGE, GREEN, PINK, SKY, AMBER, GREY = COLOURS
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
INK, SOFT, GRID, GROUND = "#1f2328", "#59636e", "#dfe3e8", "#ffffff"
_LIGHT = {f"c{i}": colour for i, colour in enumerate(COLOURS)} | {
    "ink": INK,
    "soft": SOFT,
    "grid": GRID,
    "ground": GROUND,
}
_DARK = {
    "c0": "#4ea3e0",
    "c1": "#ff8c42",
    "c2": "#2cc295",
    "c3": "#e3a3c6",
    "c4": "#9bd8fb",
    "c5": "#f2bd4a",
    "c6": "#a3a3a3",
    "ink": "#e6edf3",
    "soft": "#9aa5b1",
    "grid": "#343b44",
    "ground": "#12161c",
}
LIGHT_CSS, DARK_CSS = (
    ";".join(f"--{name}:{colour}" for name, colour in theme.items()) for theme in (_LIGHT, _DARK)
)
"""Declarations of every variable that a picture uses, for a page's `:root`."""
PICTURE_CSS = (
    f":root{{{LIGHT_CSS}}}@media (prefers-color-scheme: dark){{:root{{{DARK_CSS}}}}}"
    ".picture{color:var(--ink);width:100%;max-width:40rem;height:auto;display:block}"
)
"""What a page with inline pictures needs, at least."""

WIDTH_INCHES = 4.8
"""Of a picture: shown on a phone about as large as it is drawn."""
MOST_POINTS = 500
"""Of a curve that is drawn."""
_DPI = 150
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
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
    "xtick.labelsize": 8,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 8,
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


def write_picture(picture: Picture, folder: Path) -> str:
    """Write NAME.svg (follows the viewer's theme), NAME.png (light) and NAME.json into a folder.

    Returns:
        The SVG to be put into a page that has `PICTURE_CSS`; its ids begin with the picture's name.
    """
    with _drawn(picture) as figure:
        with atomic_path(folder / f"{picture.name}.png") as path:
            _save_png(figure, path)
        inline, alone = _svg(picture, figure)
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

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": picture.name}):
        figure = Figure(figsize=picture.size, dpi=_DPI)
        FigureCanvasAgg(figure)
        picture.draw(figure)
        yield figure


def _save_png(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png", dpi=_DPI, facecolor=GROUND, metadata={"Software": None})


def _json_value(value: Any) -> Any:
    """With null for what is no finite number."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(content) for content in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---------------------------------------------------------------- SVG

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {
    colour: "currentColor" if name == "ink" else f"var(--{name},{colour})" for name, colour in _LIGHT.items()
}
_ALONE = (
    f"svg{{color-scheme:light dark;color:var(--ink);font-family:system-ui,sans-serif;{LIGHT_CSS}}}"
    f"@media (prefers-color-scheme:dark){{svg{{{DARK_CSS}}}}}"
)


def _svg(picture: Picture, figure: Figure) -> tuple[str, str]:
    """The figure as it stands in a page, and as a file of its own."""
    written = io.BytesIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(written.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata") or child.tag == f"{_NAMESPACE}style":
                parent.remove(child)
    used = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_NAMESPACE)
        element.text, element.tail = (text and text.strip() and text for text in (element.text, element.tail))
        element.attrib.update(_attributes(element.attrib, picture.name, used))
        for gone in (_XLINK, *(["id"] if not element.get("id") else [])):
            element.attrib.pop(gone, None)
    for place, (tag, text) in enumerate((("title", picture.title), ("desc", picture.caption))):
        described = ElementTree.Element(tag, id=f"{picture.name}-{tag}")
        described.text = text
        root.insert(place, described)
    labels = {
        "xmlns": _NAMESPACE[1:-1],
        "class": "picture",
        "role": "img",
        "aria-labelledby": f"{picture.name}-title {picture.name}-desc",
    }
    size = {key: root.attrib.pop(key) for key in ("width", "height")}
    root.attrib = {**labels, **root.attrib}
    inline = ElementTree.tostring(root, encoding="unicode")
    style = ElementTree.Element("style")
    style.text = _ALONE
    root.insert(2, style)
    root.attrib.update(size)
    return inline, ElementTree.tostring(root, encoding="unicode") + "\n"


def _references(element: ElementTree.Element) -> list[str]:
    """Ids that an element points to."""
    found = re.findall(r"url\(#([^)]+)\)", " ".join(element.attrib.values()))
    return [*found, *([element.attrib[_XLINK][1:]] if _XLINK in element.attrib else [])]


def _attributes(given: Mapping[str, str], name: str, used: set[str]) -> dict[str, str]:
    """With ids of this picture only, the page's fonts, and variables instead of colours."""
    made = {key: re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", value) for key, value in given.items()}
    if _XLINK in given:
        made["href"] = f"#{name}-{given[_XLINK][1:]}"
    if "id" in given:
        made["id"] = f"{name}-{given['id']}" if given["id"] in used else ""
    if "style" in given:
        style = re.sub(r"#[0-9a-f]{6}\b", lambda found: _VARIABLES.get(found[0], found[0]), made["style"])
        made["style"] = re.sub(r"font-family: [^;]*(; |$)", "", style)
    return made


# ---------------------------------------------------------------- parts of pictures


def styles() -> Iterator[tuple[str, str]]:
    """A colour and a marker for each line; the markers repeat later than the colours."""
    return zip(cycle(COLOURS), cycle(MARKERS), strict=False)


def short(text: object, letters: int = 24) -> str:
    """A name as a picture has room for it."""
    text = " ".join(str(text).split())
    return text if len(text) <= letters else text[: letters - 1] + "…"


def thinned(values: Sequence[Any], most: int = MOST_POINTS) -> list[Any]:
    """At most so many of the values, evenly spaced, with the first and the last."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def legend_below(figure: Figure, axes: Any, columns: int = 3, title: str | None = None) -> None:
    """The legend of one of the axes, below the picture."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        legend = figure.legend(
            handles, labels, loc="outside lower center", ncols=min(len(labels), columns), title=title
        )
        legend.get_title().set_fontsize(8)


def label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]], size: float = 8) -> None:
    """Name lines at their right ends, beside the axes, none above another; to be called when limits are set.

    Args:
        ends: (x, y, name, colour) of each line, in units of the axes.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    height = axes.get_window_extent().height * 72 / figure.dpi
    if not ends or height <= 0:
        return
    gap = 1.25 * size / height
    wanted = [
        (axes.transAxes.inverted().transform(axes.transData.transform(end[:2]))[1], end) for end in ends
    ]
    wanted.sort(key=lambda item: item[0])
    for (_, (x, y, name, colour)), place in zip(wanted, _apart([at for at, _ in wanted], gap), strict=True):
        axes.annotate(
            name,
            (x, y),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            fontsize=size,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 1, "shrinkB": 2},
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
