"""Evaluations side by side as people look at them: a panel for each metric, a line for each benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from data.figures import WIDTH_INCHES, Picture, legend_below, numbers, short, styles
from data.theme_svg import GROUND
from evaluation.problem_values import TOKENS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPREAD = 0.3
"""Width over which the benchmarks of one evaluation stand side by side."""
_NARROW = 4
"""Evaluations for which two panels stand side by side, at most."""


def comparison_picture(name: str, rows: Mapping[str, Mapping[str, Any]], against: str) -> Picture:
    """Each metric of every benchmark over the evaluations in their order, with 95 % intervals; a full marker
    is a change to the one that it is compared with whose interval leaves out 0.

    Args:
        rows: `evaluation.compare.compare_benchmark` by benchmark.
    Raises:
        ValueError: a value is no number, or there is no metric.
    """
    benchmarks = {name: found["metrics"] for name, found in rows.items()}
    metrics = list(next(iter(benchmarks.values()), {}))
    if not metrics:
        raise ValueError("comparison: it has no metrics")
    evaluations = [str(row["name"]) for row in next(iter(benchmarks.values()))[metrics[0]]]
    panels = {
        metric: {name: _points(own[metric], metric) for name, own in benchmarks.items()} for metric in metrics
    }
    columns = min(2 if len(evaluations) <= _NARROW else 1, len(panels))
    high = ceil(len(panels) / columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(high, columns, sharex=True, squeeze=False).ravel().tolist()
        for axes, (metric, lines) in zip(grid, panels.items(), strict=False):
            _draw_panel(axes, lines)
            title = short(metric.replace("_", " ")) + ("" if metric in TOKENS else ", %")
            axes.set_title(title, fontsize=9, fontweight="normal")
        for place, axes in enumerate(grid):
            axes.set_visible(place < len(panels))
            axes.tick_params(labelbottom=place + columns >= len(panels))
            axes.set_xticks(
                range(len(evaluations)),
                [short(name) for name in evaluations],
                rotation=35,
                ha="right",
                rotation_mode="anchor",
            )
        grid[0].set_xlim(-0.5, len(evaluations) - 0.5)
        legend_below(figure, grid[0], title=f"full: the change to the {against} one leaves out 0")

    return Picture(
        name=name,
        title="Evaluations compared",
        caption=f"Each metric of the evaluations, in order. Bars: 95 % intervals over problems; a full "
        f"marker: the paired change to the {against} one leaves out 0.",
        data={"evaluations": evaluations, "metrics": panels},
        draw=draw,
        size=(WIDTH_INCHES, 1.6 * high + 1.5),
    )


def _points(evaluated: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Those that have a value: place, mean, low, high, and whether the change is clear."""
    scale = 1 if metric in TOKENS else 100
    points = []
    for place, row in enumerate(evaluated):
        if row["value"] is not None:
            mean, low, high = (scale * value for value in numbers(row["value"], "mean", "low", "high"))
            clear = row["change"] is not None and bool(row["change"]["clear"])
            points.append({"place": place, "mean": mean, "low": low, "high": high, "clear": clear})
    return points


def _draw_panel(axes: Any, lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One metric: a line for each benchmark, beside each other."""
    for place, ((name, points), (colour, marker)) in enumerate(zip(lines.items(), styles(), strict=False)):
        shift = _SPREAD * (place / (len(lines) - 1) - 0.5) if len(lines) > 1 else 0.0
        x = [point["place"] + shift for point in points]
        mean, low, high = ([point[key] for point in points] for key in ("mean", "low", "high"))
        axes.plot(x, mean, color=colour, linewidth=0.8, alpha=0.5)
        axes.vlines(x, low, high, color=colour, linewidth=1.4)
        marked = {"linestyle": "", "color": colour, "marker": marker, "clip_on": not points}
        axes.plot(x, mean, **marked, markerfacecolor=GROUND, label=short(name))
        clear = [i for i, point in enumerate(points) if point["clear"]]
        if clear:  # an unclipped line without a point would leave no room to any axes
            axes.plot([x[i] for i in clear], [mean[i] for i in clear], **marked)
    axes.set_ylim(bottom=0)
