"""Search as people look at it: accuracy against compute, by difficulty, and compute-optimal against fixed.

Beside every picture stands a JSON file with the numbers that it shows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any

from data.store import atomic_path, write_json
from evaluation.search_curves import AUTO
from evaluation.search_report import bin_name

# Colours of Okabe and Ito (2008), told apart by every kind of colour vision; yellow is too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES = ("-", "--", ":")
_AXES = {
    "generated_tokens": "generated tokens per problem (mean)",
    "flops": "FLOPs per problem, policy and scorer (mean)",
    "seconds": "seconds per problem (mean)",
}
_POLICIES = {
    "bound": ("best setting of each problem (bound)", "#000000", ":", "X"),
    "oracle_bins": ("compute-optimal, oracle bins", "#D55E00", "-", "s"),
    "model_bins": ("compute-optimal, model bins with probe", "#009E73", "-", "^"),
    "fixed": ("best fixed setting", "#0072B2", "--", "o"),
}

Lines = dict[str, list[dict[str, Any]]]
"""Points (setting, n, cost, mean, low, high) of each line by its label, in the order of their cost."""


def lines_of(rows: Sequence[Mapping[str, Any]], unit: str) -> Lines:
    """A line for each strategy; one for each of its widths (or other options) where it has several settings
    of one n.

    Args:
        rows: with setting, strategy, n, cost by unit, and accuracy with its interval.
    """
    times: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        times[row["strategy"]].append(row["n"])
    lines: Lines = defaultdict(list)
    for row in rows:
        strategy, ns = row["strategy"], times[row["strategy"]]
        label = strategy
        if len(set(ns)) < len(ns) and strategy != AUTO:
            label = re.sub(r"\s*\b(at )?n=\d+", "", row["setting"]) or strategy
        accuracy = {key: row["accuracy"][key] for key in ("mean", "low", "high")}
        lines[label].append(
            {
                "setting": row["setting"],
                "n": None if strategy == AUTO else row["n"],
                "cost": row["cost"][unit],
                **accuracy,
            }
        )
    return {label: sorted(points, key=lambda point: point["cost"]) for label, points in lines.items()}


def plot_accuracy(path: Path, lines: Lines, unit: str, title: str) -> None:
    """Draw accuracy against one kind of cost: a line per strategy with its n's and 95 % bands."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    _draw_lines(axes, lines)
    for (_, points), colour in zip(lines.items(), cycle(_COLOURS), strict=False):
        for point in (point for point in points if point["n"]):
            place = (point["cost"], 100 * point["mean"])
            axes.annotate(
                str(point["n"]), place, xytext=(3, 4), textcoords="offset points", fontsize=7, color=colour
            )
    axes.set(xlabel=_AXES[unit], ylabel="accuracy, %")
    axes.set_title(title, parse_math=False, fontsize=10)
    _save(figure, axes, path, {"unit": unit, "lines": lines})


def plot_bins(path: Path, bins: Sequence[tuple[Mapping[str, Any], Lines]], unit: str, title: str) -> None:
    """Draw a small panel of accuracy against cost for each bin of difficulty, the hardest first.

    Args:
        bins: each with its row (low, high, problems) and its lines.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(bins))
    high = ceil(len(bins) / columns)
    figure = Figure(figsize=(3.6 * columns, 3 * high + 0.8), layout="constrained")
    grid = figure.subplots(high, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for axes, (row, lines) in zip(grid, bins, strict=False):
        _draw_lines(axes, lines)
        axes.set_title(f"{bin_name(row)}, {row['problems']} problems", fontsize=9)
        axes.set_ylim(-3, 103)
    for place, axes in enumerate(grid):
        axes.set_visible(place < len(bins))
        if place + columns >= len(bins):
            axes.set_xlabel(_AXES[unit], fontsize=8)
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel("accuracy, %", fontsize=8)
    figure.suptitle(title, fontsize=10, parse_math=False)
    data = [{**{key: row[key] for key in ("low", "high", "problems")}, "lines": own} for row, own in bins]
    _save(figure, grid[0], path, {"unit": unit, "bins": data}, others=grid[1 : len(bins)])


def plot_optimal(path: Path, rows: Sequence[Mapping[str, Any]], lines: Lines, unit: str, title: str) -> None:
    """Draw what each policy achieves against the budget, with 95 % bands, over the fixed settings as points.

    Args:
        rows: `evaluation.compute_optimal.at_budget` of every budget.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    points = [point for own in lines.values() for point in own]
    axes.plot(
        [point["cost"] for point in points],
        [100 * point["mean"] for point in points],
        linestyle="",
        marker=".",
        color="#999999",
        label="a setting at its own mean cost",
    )
    shown = {name: style for name, style in _POLICIES.items() if rows and name in rows[0]}
    for name, (label, colour, dash, marker) in shown.items():
        x = [row["budget"] for row in rows]
        mean, low, high = ([100 * row[name][key] for row in rows] for key in ("mean", "low", "high"))
        axes.plot(x, mean, color=colour, linestyle=dash, marker=marker, markersize=4, label=label)
        if name != "bound":
            axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
    _log_scale(axes, points)
    axes.set(xlabel=f"budget: {_AXES[unit]}", ylabel="accuracy, %")
    axes.set_title(title, parse_math=False, fontsize=10)
    policies = [{"budget": row["budget"], **{name: row[name] for name in shown}} for row in rows]
    _save(figure, axes, path, {"unit": unit, "budgets": policies, "settings": points})


def _draw_lines(axes: Any, lines: Lines) -> None:
    styles = zip(cycle(_COLOURS), cycle(_MARKERS), cycle(_dashes()), strict=False)
    for (label, points), (colour, marker, dash) in zip(lines.items(), styles, strict=False):
        x = [point["cost"] for point in points]
        mean, low, high = ([100 * point[key] for point in points] for key in ("mean", "low", "high"))
        axes.plot(x, mean, color=colour, marker=marker, linestyle=dash, markersize=5, label=label)
        if len(points) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        else:
            axes.plot(x * 2, [*low, *high], color=colour, linewidth=1)
    _log_scale(axes, [point for points in lines.values() for point in points])


def _dashes() -> list[str]:
    """The dash of each line: another one when the colours begin again."""
    return [dash for dash in _DASHES for _ in _COLOURS]


def _log_scale(axes: Any, points: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    if points and all(point["cost"] > 0 for point in points):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _save(figure: Any, first: Any, path: Path, data: Mapping[str, Any], others: Sequence[Any] = ()) -> None:
    """Finish the axes, put the legend of the first below the picture, and write PNG and JSON."""
    for axes in (first, *others):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = first.get_legend_handles_labels()
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 3), frameon=False, fontsize=8
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    write_json(path.with_suffix(".json"), data)
