"""Evaluations side by side as people look at them: a panel for each metric, a line for each benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from math import ceil
from pathlib import Path
from typing import Any

from data.store import atomic_path
from evaluation.problem_values import TOKENS

# Colours of Okabe and Ito (2008), told apart by every kind of colour vision; yellow is too pale for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LABEL = 24
"""Letters of an evaluation's name that are shown."""
_SPREAD = 0.3
"""Width over which the benchmarks of one evaluation stand side by side."""


def plot_comparison(path: Path, rows: Mapping[str, Mapping[str, Any]], against: str) -> None:
    """Draw each metric of every benchmark over the evaluations in their order, with 95 % intervals; a full
    marker is a change to the one that it is compared with whose interval leaves out 0.

    Args:
        rows: `evaluation.compare.compare_benchmark` by benchmark.
    """
    from matplotlib.figure import Figure

    first = next(iter(rows.values()))["metrics"]
    names = [row["name"] for row in next(iter(first.values()))]
    columns = min(3, len(first))
    high = ceil(len(first) / columns)
    size = (columns * max(3.2, 1.2 + 0.4 * len(names)), 2.6 * high + 1.6)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(high, columns, squeeze=False).ravel().tolist()
    for axes, metric in zip(grid, first, strict=False):
        _draw(axes, metric, {name: found["metrics"][metric] for name, found in rows.items()})
    for place, axes in enumerate(grid):
        axes.set_visible(place < len(first))
        last = place + columns >= len(first)
        labels = [name if len(name) <= _LABEL else name[: _LABEL - 1] + "…" for name in names]
        axes.set_xticks(range(len(names)), labels if last else [""] * len(names), parse_math=False)
        axes.tick_params(axis="x", labelrotation=40, labelsize=8)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
            label.set_rotation_mode("anchor")
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, texts = grid[0].get_legend_handles_labels()
    title = f"95 % intervals; full: the change to the {against} one leaves out 0"
    legend = figure.legend(
        handles, texts, loc="outside lower center", ncols=3, frameon=False, fontsize=8, title=title
    )
    legend.get_title().set_fontsize(8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _draw(axes: Any, metric: str, rows: Mapping[str, list[dict[str, Any]]]) -> None:
    """One metric: a line for each benchmark, beside each other."""
    scale = 1 if metric in TOKENS else 100
    for place, ((name, evaluated), colour, marker) in enumerate(
        zip(rows.items(), cycle(_COLOURS), cycle(_MARKERS), strict=False)
    ):
        shift = _SPREAD * (place / (len(rows) - 1) - 0.5) if len(rows) > 1 else 0.0
        points = [(x + shift, row) for x, row in enumerate(evaluated) if row["value"] is not None]
        x = [at for at, _ in points]
        mean, low, high = (
            [scale * row["value"][key] for _, row in points] for key in ("mean", "low", "high")
        )
        axes.plot(x, mean, color=colour, linewidth=0.8, alpha=0.5)
        axes.vlines(x, low, high, color=colour, linewidth=1.4)
        style = {"linestyle": "", "color": colour, "marker": marker, "markersize": 5}
        axes.plot(x, mean, **style, markerfacecolor="white", label=name)
        clear = [
            i for i, (_, row) in enumerate(points) if row["change"] is not None and row["change"]["clear"]
        ]
        axes.plot([x[i] for i in clear], [mean[i] for i in clear], **style)
    axes.set_title(metric.replace("_", " "), fontsize=9)
    axes.set_ylabel("tokens" if metric in TOKENS else "%", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
