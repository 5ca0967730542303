"""Search as people look at it: accuracy against compute, by difficulty, and compute-optimal against fixed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from math import ceil
from typing import TYPE_CHECKING, Any

from data.figures import WIDTH_INCHES, Picture, label_ends, legend_below, logarithmic, numbers, short, styles
from data.point_names import name_points
from data.theme_svg import BLUE, COLOURS, GREEN, GREY, ORANGE, SOFT
from evaluation.search_curves import AUTO
from evaluation.search_report import UNIT_NAMES, bin_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DASHES = ("-", "--", ":")
_AXES = {
    "generated_tokens": "generated tokens per problem",
    "flops": "FLOPs per problem",
    "seconds": "seconds per problem",
}
_AT_THE_RIGHT = 0.75
"""Lines that end at more than this share of the largest cost are named at the right of the picture."""
_POLICIES = {
    "bound": ("bound", GREY, ":", "X"),
    "oracle_bins": ("oracle bins", ORANGE, "-", "s"),
    "model_bins": ("model bins", GREEN, "-", "^"),
    "fixed": ("best fixed", BLUE, "--", "o"),
}

Lines = dict[str, list[dict[str, Any]]]
"""Points (setting, n, cost, mean, low, high) of each line by its label, in the order of their cost."""


def lines_of(rows: Sequence[Mapping[str, Any]], unit: str) -> Lines:
    """A line for each strategy; one for each of its widths (or other options) where it has several settings
    of one n.

    Args:
        rows: with setting, strategy, n, cost by unit, and accuracy with its interval.
    Raises:
        ValueError: a cost or an accuracy is no number.
    """
    times: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        times[row["strategy"]].append(row["n"])
    lines: Lines = defaultdict(list)
    for row in rows:
        strategy, ns = str(row["strategy"]), times[row["strategy"]]
        label = strategy
        if len(set(ns)) < len(ns) and strategy != AUTO:
            label = re.sub(r"\s*\b(at )?n=\d+", "", row["setting"]) or strategy
        mean, low, high = numbers(row["accuracy"], "mean", "low", "high")
        (cost,) = numbers(row["cost"], unit)
        n = None if strategy == AUTO else row["n"]
        lines[label].append(
            {"setting": row["setting"], "n": n, "cost": cost, "mean": mean, "low": low, "high": high}
        )
    return {label: sorted(points, key=lambda point: point["cost"]) for label, points in lines.items()}


def search_pictures(results: Mapping[str, Any], prefix: str = "") -> dict[str, Picture]:
    """By the name of its file: accuracy against each unit of cost, by difficulty, and compute-optimal.

    Args:
        results: metrics of stage evaluate_search.
        prefix: of the pictures' names.
    Raises:
        ValueError: a value is no number.
    """
    options, choice = results["options"], str(results["choice"]).replace("_", " ")
    of = f"{results['problems']} problems, choice: {choice}"
    pictures = {}

    def add(stem: str, make: Callable[..., Picture], *args: Any) -> None:
        pictures[stem] = make(prefix + stem.replace("_", "-"), *args, of)

    for unit in UNIT_NAMES:
        if all(row["cost"][unit] is not None for row in options):
            add(f"accuracy-{unit}", _accuracy_picture, lines_of(options, unit), unit)
    for unit, found in results["compute_optimal"].items():
        for name, rows in results["bins"].items():
            bins = [(row, lines_of([{**o, "accuracy": o} for o in row["options"]], unit)) for row in rows]
            how = "share of right candidates" if name == "oracle_bins" else results["difficulty"]["estimate"]
            add(f"{name}-{unit}", _bins_picture, bins, unit, str(how).replace("_", " "))
        points = [point for line in lines_of(options, unit).values() for point in line]
        add(f"compute-optimal-{unit}", _optimal_picture, found["budgets"], points, unit)
    return pictures


def _accuracy_picture(name: str, lines: Lines, unit: str, of: str) -> Picture:
    """Accuracy against one kind of cost: a line per strategy with its n's and 95 % bands."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        _draw_lines(axes, lines)
        axes.set(xlabel=f"{_AXES[unit]} (mean)", ylabel="accuracy, %", ylim=(0, 102))
        _cost_axis(axes, [point["cost"] for points in lines.values() for point in points])
        names, ends, drawn = [], [], []
        right = max(points[-1]["cost"] for points in lines.values())
        for (label, points), (colour, _) in zip(lines.items(), styles(), strict=False):
            places = [(point["cost"], 100 * point["mean"]) for point in points]
            drawn.append(places)
            marks = ["" if point["n"] is None else short(point["n"], 8) for point in points]
            whole = f"{short(label.replace('_', ' '), 20)} {marks[-1]}".strip()
            names += [(place, mark, colour) for place, mark in zip(places[:-1], marks, strict=False) if mark]
            if places[-1][0] > _AT_THE_RIGHT * right:
                ends.append((*places[-1], whole, colour))
            else:
                names.append((places[-1], whole, colour))
        label_ends(figure, {axes: ends})
        name_points(figure, axes, names, drawn)

    return Picture(
        name=name,
        title=f"Accuracy against {UNIT_NAMES[unit]}",
        caption=f"Accuracy of each strategy by its n against {UNIT_NAMES[unit]} per problem "
        f"(policy and scorer); {of}. Bands and bars: 95 % intervals over problems.",
        data={"unit": unit, "lines": lines},
        draw=draw,
        size=(WIDTH_INCHES, 4.0),
    )


def _bins_picture(
    name: str, bins: Sequence[tuple[Mapping[str, Any], Lines]], unit: str, how: str, of: str
) -> Picture:
    """A small panel of accuracy against cost for each bin of difficulty, the hardest first.

    Args:
        bins: each with its row (low, high, problems) and its lines.
    """
    panels = [(numbers(row, "low", "high", "problems"), lines) for row, lines in bins]
    data = [{"low": low, "high": high, "problems": n, "lines": own} for (low, high, n), own in panels]
    columns = min(2, len(bins))
    high = ceil(len(bins) / columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(high, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
        for axes, row in zip(grid, data, strict=False):
            _draw_lines(axes, row["lines"])
            axes.set_title(
                f"{bin_name(row)}: {row['problems']:.0f} problems", fontsize=8, fontweight="normal"
            )
        grid[0].set_ylim(0, 103)
        _cost_axis(grid[0], [point["cost"] for _, lines in bins for own in lines.values() for point in own])
        for place, axes in enumerate(grid):
            axes.set_visible(place < len(bins))
            if place + columns >= len(bins):
                axes.set_xlabel(_AXES[unit])
                axes.tick_params(labelbottom=True)
            if place % columns == 0:
                axes.set_ylabel("accuracy, %")
        legend_below(figure, grid[0], columns=2)

    return Picture(
        name=name,
        title=f"By difficulty against {UNIT_NAMES[unit]}: {how}",
        caption=f"Accuracy against {UNIT_NAMES[unit]} per problem in bins of difficulty, the hardest first "
        f"(estimate: {how}); {of}. Bands and bars: 95 % intervals over problems.",
        data={"unit": unit, "bins": data},
        draw=draw,
        size=(WIDTH_INCHES, 1.75 * high + 1.2),
    )


def _optimal_picture(
    name: str, rows: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]], unit: str, of: str
) -> Picture:
    """What each policy achieves against the budget, with 95 % bands, over the fixed settings as points.

    Args:
        rows: `evaluation.compute_optimal.at_budget` of every budget.
    """
    shown = [name for name in _POLICIES if rows and all(name in row for row in rows)]
    budgets = [budget for row in rows for budget in numbers(row, "budget")]
    lines = {name: [numbers(row[name], "mean", "low", "high") for row in rows] for name in shown}
    if not lines:
        raise ValueError("compute_optimal: it has no budgets")

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        ends = []
        for policy, intervals in lines.items():
            label, colour, dash, marker = _POLICIES[policy]
            mean, low, high = ([100 * value for value in column] for column in zip(*intervals, strict=True))
            axes.plot(budgets, mean, color=colour, linestyle=dash, marker=marker)
            if policy != "bound":
                axes.fill_between(budgets, low, high, color=colour, alpha=0.13, linewidth=0)
            ends.append((budgets[-1], mean[-1], label, colour))
        costs = [point["cost"] for point in points]
        axes.scatter(costs, [100 * point["mean"] for point in points], color=SOFT, s=6, zorder=1)
        _cost_axis(axes, costs + budgets)
        axes.set(xlabel=f"budget: {_AXES[unit]} (mean)", ylabel="accuracy, %", ylim=(0, 102))
        label_ends(figure, {axes: ends})

    return Picture(
        name=name,
        title=f"Compute-optimal against fixed, by {UNIT_NAMES[unit]}",
        caption="Accuracy within a budget: the best fixed setting, the best setting of each bin of "
        "difficulty (cross-fitted; oracle bins know the answers, model bins pay for their estimate), and of "
        f"each problem (bound). Grey dots: fixed settings at their own cost; {of}. Bands: 95 % intervals.",
        data={"unit": unit, "budgets": budgets, "policies": lines, "settings": list(points)},
        draw=draw,
        size=(WIDTH_INCHES, 3.4),
    )


def _draw_lines(axes: Any, lines: Lines) -> None:
    dashes = (dash for dash in cycle(_DASHES) for _ in COLOURS)  # another one when the colours begin again
    for (label, points), (colour, marker), dash in zip(lines.items(), styles(), dashes, strict=False):
        x = [point["cost"] for point in points]
        mean, low, high = ([100 * point[key] for point in points] for key in ("mean", "low", "high"))
        name = short(label.replace("_", " "))
        axes.plot(x, mean, color=colour, marker=marker, linestyle=dash, markersize=4, label=name)
        if len(points) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        else:
            axes.vlines(x, low, high, color=colour, linewidth=1)


def _cost_axis(axes: Any, costs: Sequence[float]) -> None:
    if costs and min(costs) > 0:
        logarithmic(axes, "x", narrow=max(costs) < 100 * min(costs))
