"""What a reward model's scores are worth, as people look at it: reliability and best-of-n curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from data.store import atomic_path

# Colours of Okabe and Ito (2008), told apart by every kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = {
    "oracle": "oracle: any of n is right",
    "weighted_best_of_n": "weighted vote",
    "best_of_n": "highest score",
    "majority": "majority",
    "pass@1": "one attempt",
}


def plot_reliability(path: Path, sets: Mapping[str, Mapping[str, Any]], title: str = "") -> None:
    """Draw for each set the share of right steps against the mean score of each bin, above the steps in it.

    Args:
        sets: metrics of `evaluation.prm_report.set_metrics` by name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6.5), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    for (name, metrics), colour, marker in zip(sets.items(), cycle(_COLOURS), cycle(_MARKERS), strict=False):
        rows = metrics["reliability"]
        label = f"{name}: ECE {metrics['calibration_error']:.3f}"
        x = [row["mean_score"] for row in rows]
        axes.plot(x, [row["right"] for row in rows], color=colour, marker=marker, markersize=5, label=label)
        steps = sum(row["steps"] for row in rows) or 1
        counts.plot(x, [row["steps"] / steps for row in rows], color=colour, marker=marker, markersize=4)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share of right steps")
    axes.set_title(title, parse_math=False)
    counts.set(xlabel="score", ylabel="share of steps", ylim=(0, None))
    _finish(figure, (axes, counts), path)


def plot_best_of_n(path: Path, rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Draw the accuracy of every choice against n, above its distance to the majority with the paired 95 %
    interval.

    Args:
        rows: `evaluation.best_of_n.curves`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator, ScalarFormatter

    figure = Figure(figsize=(7, 7), layout="constrained")
    axes, gains = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    n = [row["n"] for row in rows]
    for (method, label), colour, marker in zip(
        _LINES.items(), cycle(_COLOURS), cycle(_MARKERS), strict=False
    ):
        mean = [100 * row[method]["mean"] for row in rows]
        axes.plot(n, mean, color=colour, marker=marker, markersize=5, label=label)
        if f"{method}_gain" in rows[0]:
            mean, low, high = (
                [100 * row[f"{method}_gain"][key] for row in rows] for key in ("mean", "low", "high")
            )
            gains.plot(n, mean, color=colour, marker=marker, markersize=5)
            gains.fill_between(n, low, high, color=colour, alpha=0.15, linewidth=0)
    gains.axhline(0, color="#999999", linewidth=0.8)
    gains.set_xscale("log", base=2)
    gains.set_xticks(n)
    gains.xaxis.set_major_formatter(ScalarFormatter())
    gains.xaxis.set_minor_locator(NullLocator())
    axes.set(ylabel="accuracy, %")
    axes.set_title(title, parse_math=False)
    gains.set(xlabel="attempts", ylabel="points over the majority")
    _finish(figure, (axes, gains), path)


def _finish(figure: Any, all_axes: Sequence[Any], path: Path) -> None:
    for axes in all_axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for text in all_axes[0].legend(frameon=False, fontsize=8).get_texts():
        text.set_parse_math(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
