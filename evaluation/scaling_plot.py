"""Test-time scaling as people read it: a table, Markdown, rows for metrics.json, and the curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.store import atomic_path
from evaluation.scaling import Estimate, MethodSummary, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_COLUMNS = (
    "method",
    "control",
    "per completion",
    "per doubling",
    "per 1,000 tokens",
    "performance",
    "settings",
)
_CAPTION = (
    "Control and performance in %, scaling in percentage points per doubling of the thinking tokens and per "
    "1,000 more of them. 95 % intervals: bootstrap over problems, paired across settings."
)

# Colours of Okabe and Ito (2008), told apart by every kind of colour vision; yellow is too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LOG_RANGE = 8
_FONT_SIZE = 8


def method_rows(summaries: Sequence[MethodSummary]) -> list[dict[str, Any]]:
    """The summaries as they go into metrics.json: field names of `MethodSummary`, with their units."""
    return [asdict(summary) for summary in summaries]


def method_table(summaries: Sequence[MethodSummary], title: str = "") -> Table:
    """Two lines per method, as table 3 of s1: the numbers, and their intervals below."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    notes = [escape(line) for line in (_CAPTION, *_notes(summaries))]
    table = Table(title=escape(title), caption="\n".join(notes), caption_justify="left")
    table.box, table.padding = SIMPLE_HEAD, (0, 1, 0, 0)
    for column in _COLUMNS:
        longest_word = max(map(len, column.split()))
        side = "left" if column == "method" else "right"
        table.add_column(column, justify=side, min_width=longest_word, overflow="fold")
    for summary in summaries:
        table.add_row(*(escape(cell.replace(" [", "\n[")) for cell in _cells(summary)))
    return table


def method_markdown(summaries: Sequence[MethodSummary]) -> str:
    """The same table as Markdown, with its notes."""
    lines = [_COLUMNS, ("---", *["---:"] * (len(_COLUMNS) - 1)), *map(_cells, summaries)]
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([*table, "", _CAPTION, "", *(f"- {note}" for note in _notes(summaries))]) + "\n"


def _cells(summary: MethodSummary) -> list[str]:
    return [
        summary.method,
        _cell(summary.control, 100, 0),
        _cell(summary.control_per_completion, 100, 0),
        _cell(summary.points_per_doubling),
        _cell(summary.points_per_1000_tokens),
        _cell(summary.performance, 100),
        str(summary.settings),
    ]


def _cell(estimate: Estimate | None, times: float = 1, digits: int = 1) -> str:
    if estimate is None:
        return "-"
    value, low, high = (
        f"{times * number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def _notes(summaries: Sequence[MethodSummary]) -> list[str]:
    return [f"{summary.method}: {note}." for summary in summaries for note in summary.notes]


# ---------------------------------------------------------------- the curves


def plot_scaling(path: Path, summaries: Sequence[MethodSummary], title: str = "") -> None:
    """Write `draw_scaling` as a PNG of 1350 x 900 pixels."""
    figure = draw_scaling(summaries, title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_scaling(summaries: Sequence[MethodSummary], title: str = "") -> Figure:
    """Accuracy against thinking tokens: a line per method, a named point with both intervals per setting.

    From tick to tick the tokens double where they range over more than a factor of 8.

    Raises:
        ValueError: no summaries.
    """
    if not summaries:
        raise ValueError("draw_scaling: nothing to draw; give at least one summary")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for summary, (colour, marker) in zip(summaries, _styles(), strict=False):
        _draw_method(axes, summary, colour, marker)
    _scale(axes, [point for summary in summaries for point in summary.points])
    axes.set_title(title, parse_math=False)
    axes.set(xlabel="thinking tokens per problem (mean)", ylabel="accuracy, %")
    axes.grid(alpha=0.25)
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    legend = figure.legend(loc="outside lower center", ncols=min(len(summaries), 4), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    _label(figure, axes, summaries)
    return figure


def _styles() -> Iterator[tuple[str, str]]:
    """A colour and a marker for each method; the markers repeat later than the colours."""
    return zip(cycle(_COLOURS), cycle(_MARKERS), strict=False)


def _in_order(summary: MethodSummary) -> list[Point]:
    return sorted(summary.points, key=lambda point: point.thinking_tokens.value)


def _position(point: Point) -> tuple[float, float]:
    return point.thinking_tokens.value, 100 * point.accuracy.value


def _draw_method(axes: Any, summary: MethodSummary, colour: str, marker: str) -> None:
    points = _in_order(summary)
    x, y = [p.thinking_tokens for p in points], [p.accuracy for p in points]
    axes.errorbar(
        *zip(*map(_position, points), strict=True),
        xerr=_widths(x),
        yerr=[[100 * width for width in side] for side in _widths(y)],
        color=colour,
        marker=marker,
        markersize=6,
        linewidth=1.6,
        elinewidth=0.8,
        capsize=2,
        label=summary.method,
    )


def _widths(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Below and above the value; an interval that leaves the value out has no width on that side."""
    below = [max(e.value - e.low, 0) for e in estimates]
    return [below, [max(e.high - e.value, 0) for e in estimates]]


def _scale(axes: Any, points: Sequence[Point]) -> None:
    from matplotlib.ticker import FuncFormatter

    tokens = [point.thinking_tokens.value for point in points]
    if min(tokens) > 0 and max(tokens) > _LOG_RANGE * min(tokens):
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.margins(x=0.08, y=0.12)
    bottom, top = axes.get_ylim()
    axes.set_ylim(max(bottom, -4), min(top, 104))


def _label(figure: Any, axes: Any, summaries: Sequence[MethodSummary]) -> None:
    """Name every point beside it, at the place where the name covers least of what is drawn already."""
    from matplotlib.font_manager import FontProperties

    figure.draw_without_rendering()  # fixes the layout, and with it where points are in pixels
    renderer, pixel = figure.canvas.get_renderer(), figure.dpi / 72
    frame, names = axes.get_window_extent().extents[None], np.empty((0, 4))
    drawn, font = _drawn(axes, summaries, pixel), FontProperties(size=_FONT_SIZE)
    high = 1.2 * _FONT_SIZE * pixel
    for summary, (colour, _) in zip(summaries, _styles(), strict=False):
        for point in summary.points:
            wide = renderer.get_text_width_height_descent(point.name, font, ismath=False)[0]
            size, centre = np.array([wide, high]), axes.transData.transform(_position(point))
            offsets, steps = _offsets(size / 2 + 4 * pixel, pixel)
            boxes = np.hstack([centre + offsets - size / 2, centre + offsets + size / 2])
            cost = _covered(boxes, drawn) + 100 * _covered(boxes, names) + 2 * high * steps
            cost += 100 * (wide * high - _covered(boxes, frame))
            for part in np.linspace(0.2, 0.8, 7):  # of the line from the point to its name
                at = centre + part * offsets
                cost += 10 * _covered(np.hstack([at - pixel, at + pixel]), names)
            best = int(np.argmin(cost))
            axes.annotate(
                point.name,
                _position(point),
                xytext=offsets[best] / pixel,
                textcoords="offset points",
                fontsize=_FONT_SIZE,
                color=colour,
                parse_math=False,
                ha="center",
                va="center",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5} if steps[best] else None,
            ).set_in_layout(False)
            names = np.vstack([names, boxes[best]])


def _drawn(axes: Any, summaries: Sequence[MethodSummary], pixel: float) -> np.ndarray:
    """[N, 4] corners in pixels of small boxes that cover the points, the error bars and the lines."""
    places = []
    for summary in summaries:
        points = _in_order(summary)
        ends = [(_position(a), _position(b)) for a, b in pairwise(points)]
        for point in points:
            x, y = _position(point)
            tokens, accuracy = point.thinking_tokens, point.accuracy
            ends += [((tokens.low, y), (tokens.high, y)), ((x, 100 * accuracy.low), (x, 100 * accuracy.high))]
            places += [axes.transData.transform((x, y))] * 20
        for start, end in ends:
            places += list(np.linspace(*axes.transData.transform([start, end]), num=40))
    return np.hstack([np.array(places) - 2 * pixel, np.array(places) + 2 * pixel])


def _offsets(reach: np.ndarray, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """[K, 2] places for the centre of a name around its point, in pixels, and [K] how far out, in steps."""
    angles = np.arange(16) * np.pi / 8
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    around = np.clip(1.3 * around, -1, 1)  # along a box with cut corners
    steps = np.repeat(np.arange(12), len(around))
    return np.tile(around, (12, 1)) * (reach + 10 * pixel * steps[:, None]), steps


def _covered(corners: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area in square pixels that each of [N, 4] boxes shares with all of [M, 4] boxes."""
    low = np.maximum(corners[:, None, :2], others[None, :, :2])
    high = np.minimum(corners[:, None, 2:], others[None, :, 2:])
    return np.clip(high - low, 0, None).prod(axis=2).sum(axis=1)
