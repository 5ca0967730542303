"""Test-time scaling as people read it: a table, Markdown, rows for metrics.json, and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from data.figures import WIDTH_INCHES, Picture, legend_below, numbers, short, styles
from data.point_names import name_points
from evaluation.scaling import Estimate, MethodSummary
from evaluation.sheets import line

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

_LOG_RANGE = 8


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
    table = map(line, [_COLUMNS, ("---", *["---:"] * (len(_COLUMNS) - 1)), *map(_cells, summaries)])
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


def scaling_picture(name: str, methods: Sequence[Mapping[str, Any]], of: str) -> Picture:
    """Accuracy against thinking tokens: a line per method, a named point with both intervals per setting.

    From tick to tick the tokens double where they range over more than a factor of 8.

    Args:
        methods: `method_rows`.
        of: what was measured, for the title.
    Raises:
        ValueError: no methods, or a point that is no number.
    """
    lines = {str(row["method"]): sorted(map(_point, row["points"]), key=_tokens) for row in methods}
    if not any(lines.values()):
        raise ValueError("scaling_picture: nothing to draw; give at least one method with a point")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        names, drawn = [], []
        for (method, points), (colour, marker) in zip(lines.items(), styles(), strict=False):
            _draw_method(axes, points, color=colour, marker=marker, label=short(method))
            places = [(_tokens(point), point["accuracy"][0]) for point in points]
            names += [(place, short(p["name"]), colour) for place, p in zip(places, points, strict=True)]
            drawn += [places, *(bar for point in points for bar in _bars(point))]
        _scale(axes, [_tokens(point) for points in lines.values() for point in points])
        axes.set(xlabel="thinking tokens per problem (mean)", ylabel="accuracy, %")
        legend_below(figure, axes, columns=2)
        name_points(figure, axes, names, drawn, size=7)

    return Picture(
        name=name,
        title=f"Test-time scaling: {of}",
        caption="Accuracy against thinking tokens of each setting, a line per method. 95 % intervals of "
        "both: bootstrap over problems.",
        data={"methods": lines},
        draw=draw,
        size=(WIDTH_INCHES, 4.2),
    )


def _point(row: Mapping[str, Any]) -> dict[str, Any]:
    """Its name, and value, low and high of its thinking tokens and its accuracy in %."""
    keys = ("value", "low", "high")
    accuracy = [100 * value for value in numbers(row["accuracy"], *keys)]
    return {
        "name": str(row["name"]),
        "thinking_tokens": [*numbers(row["thinking_tokens"], *keys)],
        "accuracy": accuracy,
    }


def _tokens(point: Mapping[str, Any]) -> float:
    return point["thinking_tokens"][0]


def _draw_method(axes: Any, points: Sequence[Mapping[str, Any]], **style: str) -> None:
    x, y = ([point[key] for point in points] for key in ("thinking_tokens", "accuracy"))
    axes.errorbar(
        [value for value, _, _ in x],
        [value for value, _, _ in y],
        xerr=_widths(x),
        yerr=_widths(y),
        linewidth=1.4,
        elinewidth=0.7,
        zorder=2 if len(points) > 1 else 3,  # a single point is not to be hidden by a line's
        **style,
    )


def _widths(intervals: Sequence[Sequence[float]]) -> list[list[float]]:
    """Below and above the value; an interval that leaves the value out has no width on that side."""
    below = [max(value - low, 0) for value, low, _ in intervals]
    return [below, [max(high - value, 0) for value, _, high in intervals]]


def _bars(point: Mapping[str, Any]) -> list[list[tuple[float, float]]]:
    """Both error bars of a point."""
    (x, left, right), (y, low, high) = point["thinking_tokens"], point["accuracy"]
    return [[(left, y), (right, y)], [(x, low), (x, high)]]


def _scale(axes: Any, tokens: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter

    if min(tokens) > 0 and max(tokens) > _LOG_RANGE * min(tokens):
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.margins(x=0.08, y=0.12)
    axes.set_ylim(-4, min(axes.get_ylim()[1], 104))
