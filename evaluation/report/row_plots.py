"""Pictures whose lines are named rows: numbers with their intervals as dots, counts as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.figures import WIDTH_INCHES, Picture, short
from data.theme_svg import BLUE, GROUND, SOFT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROW_INCHES = 0.25
_TEXT_SIZE = 8.5


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A number with its interval, in the unit of the axis."""

    name: str
    mean: float
    low: float
    high: float
    text: str
    """At the right of the row."""
    colour: str = BLUE
    seeds: Sequence[float] = ()
    """Numbers of single seeds, drawn small."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A count, and what was taken from it on the way."""

    name: str
    value: float
    text: str
    before: float = 0
    """Drawn pale behind the bar, where it is larger."""
    colour: str = BLUE


def draw_dots(axes: Any, rows: Sequence[Dot]) -> None:
    """A row for each number, the first on top."""
    for place, row in enumerate(rows):
        axes.plot([row.low, row.high], [place, place], color=row.colour, linewidth=1.8, alpha=0.6, zorder=2)
        axes.plot(row.seeds, [place] * len(row.seeds), "o", color=row.colour, markersize=3, alpha=0.6)
        axes.plot(
            [row.mean], [place], "o", color=row.colour, markersize=5.5, markeredgecolor=GROUND, clip_on=False
        )
    _name_rows(axes, [row.name for row in rows], [row.text for row in rows])


def draw_bars(axes: Any, rows: Sequence[Bar], *, named: bool = True) -> None:
    """A row for each count, the first on top."""
    for place, row in enumerate(rows):
        if row.before > row.value:
            axes.barh(place, row.before, height=0.68, color=row.colour, alpha=0.22, linewidth=0)
        axes.barh(place, row.value, height=0.68, color=row.colour, linewidth=0)
    _name_rows(axes, [row.name for row in rows] if named else [], [row.text for row in rows])
    axes.set_xlim(left=0)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False)
    axes.grid(visible=False)


def _name_rows(axes: Any, names: Sequence[str], texts: Sequence[str]) -> None:
    axes.set_ylim(len(texts) - 0.4, -0.6)
    axes.set_yticks(range(len(texts)), names or [""] * len(texts))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    for place, text in enumerate(texts):
        axes.annotate(
            text,
            (1.03, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=_TEXT_SIZE,
            color=SOFT,
            annotation_clip=False,
        )


# ---------------------------------------------------------------- whole pictures


def dots_picture(
    name: str, title: str, caption: str, panels: Mapping[str, Sequence[Dot]], label: str
) -> Picture:
    """Shares in %, with a panel for each benchmark."""
    counts = [len(rows) for rows in panels.values()]

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(counts), 1, sharex=True, squeeze=False, height_ratios=_heights(counts))
        for axes, (benchmark, rows) in zip(grid.ravel(), panels.items(), strict=True):
            draw_dots(axes, rows)
            if len(panels) > 1:
                axes.set_title(benchmark, fontsize=9)
        grid.ravel()[-1].set(xlim=(0, 100), xlabel=label)

    return Picture(
        name=name,
        title=title,
        caption=caption,
        data={benchmark: [dot_data(row) for row in rows] for benchmark, rows in panels.items()},
        draw=draw,
        size=(WIDTH_INCHES, dots_inches(counts)),
    )


def _heights(counts: Sequence[int]) -> list[float]:
    """Of panels, so that all rows are equally high."""
    return [count + 0.2 for count in counts]


def dots_inches(counts: Sequence[int]) -> float:
    """Height of a picture with so many rows in its panels."""
    return 0.45 + 1.1 * ROW_INCHES * sum(counts) + 0.35 * len(counts)


def bars_picture(name: str, title: str, caption: str, rows: Sequence[Bar]) -> Picture:
    """Counts as a picture of their own."""
    return Picture(
        name=name,
        title=title,
        caption=caption,
        data={"rows": [{"name": row.name, "value": row.value, "before": row.before} for row in rows]},
        draw=lambda figure: draw_bars(figure.add_subplot(), rows),
        size=(WIDTH_INCHES, 0.3 + ROW_INCHES * len(rows)),
    )


def share_dot(name: str, value: Sequence[float], colour: str = BLUE) -> Dot:
    """A share in %."""
    mean, low, high = (100 * number for number in value)
    text = f"{mean:.1f} [{low:.1f}, {high:.1f}]"
    return Dot(name=short(name), mean=mean, low=low, high=high, text=text, colour=colour)


def dot_data(dot: Dot) -> dict[str, Any]:
    """What is drawn of it."""
    return {
        "name": dot.name,
        "mean": dot.mean,
        "low": dot.low,
        "high": dot.high,
        **({"seeds": [*dot.seeds]} if dot.seeds else {}),
    }
