"""What a reward model's scores are worth, as people look at it: reliability and best-of-n curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.figures import WIDTH_INCHES, Picture, label_ends, legend_below, numbers, short, styles
from data.theme_svg import BLUE, GREEN, GREY, ORANGE, PINK, SOFT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = {
    "oracle": ("oracle: any right", GREY),
    "weighted_best_of_n": ("weighted vote", ORANGE),
    "best_of_n": ("highest score", GREEN),
    "majority": ("majority", BLUE),
    "pass@1": ("one attempt", PINK),
}


def reliability_picture(name: str, sets: Mapping[str, Mapping[str, Any]], of: str) -> Picture:
    """For each set the share of right steps against the mean score of each bin, above the steps in it.

    Args:
        sets: metrics of `evaluation.prm_report.set_metrics` by name.
    Raises:
        ValueError: a value is no number.
    """
    lines = {
        short(title): {
            "calibration_error": numbers(metrics, "calibration_error")[0],
            "bins": [numbers(row, "mean_score", "right", "steps") for row in metrics["reliability"]],
        }
        for title, metrics in sets.items()
    }

    def draw(figure: Figure) -> None:
        axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        axes.plot([0, 100], [0, 100], color=SOFT, linewidth=0.8, linestyle=":")
        for (title, line), (colour, marker) in zip(lines.items(), styles(), strict=False):
            x = [100 * score for score, _, _ in line["bins"]]
            label = f"{title}: ECE {line['calibration_error']:.3f}"
            right = [100 * right for _, right, _ in line["bins"]]
            axes.plot(x, right, color=colour, marker=marker, label=label)
            total = sum(steps for *_, steps in line["bins"]) or 1
            shares = [100 * steps / total for *_, steps in line["bins"]]
            counts.plot(x, shares, color=colour, marker=marker, markersize=3)
        axes.set(xlim=(0, 100), ylim=(0, 102), ylabel="right steps, %")
        counts.set(xlabel="score of the step, %", ylabel="steps, %")
        counts.set_ylim(bottom=0)
        legend_below(figure, axes, columns=1)

    return Picture(
        name=name,
        title=f"Calibration of {of}",
        caption="Share of right steps among those of about the same score (dotted: perfectly calibrated), "
        "and how many steps have it. ECE: mean distance to the dotted line.",
        data={"sets": lines},
        draw=draw,
        size=(WIDTH_INCHES, 4.4 + 0.2 * len(lines)),
    )


def best_of_n_picture(name: str, rows: Sequence[Mapping[str, Any]], of: str) -> Picture:
    """The accuracy of every choice against n, above its distance to the majority, with 95 % intervals.

    Args:
        rows: `evaluation.best_of_n.curves`.
    Raises:
        ValueError: a value is no number.
    """
    n = [number for row in rows for number in numbers(row, "n")]
    lines = {method: _intervals(rows, method) for method in _LINES if all(method in row for row in rows)}
    gains = {
        method: _intervals(rows, f"{method}_gain")
        for method in lines
        if all(f"{method}_gain" in row for row in rows)
    }
    if not n or not lines:
        raise ValueError("best_of_n: nothing to draw; it has no rows")

    def draw(figure: Figure) -> None:
        high, low = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        ends = {high: _draw_lines(high, n, lines), low: _draw_lines(low, n, gains)}
        low.axhline(0, color=SOFT, linewidth=0.8)
        _count_axis(low, n)
        high.set_ylim(0, 102)
        high.set_ylabel("accuracy, %")
        low.set(xlabel="attempts", ylabel="points over\nthe majority")
        label_ends(figure, ends)

    return Picture(
        name=name,
        title=f"Choosing among n attempts: {of}",
        caption="Accuracy of each way to choose one of n attempts, and how far it is from the majority vote "
        "(paired). Bands: 95 % intervals over problems.",
        data={"n": n, "accuracy": lines, "gain": gains},
        draw=draw,
        size=(WIDTH_INCHES, 4.6),
    )


def _intervals(rows: Sequence[Mapping[str, Any]], key: str) -> list[list[float]]:
    """Mean, low and high in % of each row."""
    return [[100 * value for value in numbers(row[key], "mean", "low", "high")] for row in rows]


def _draw_lines(
    axes: Any, n: Sequence[float], lines: Mapping[str, Sequence[Sequence[float]]]
) -> list[tuple[float, float, str, str]]:
    ends = []
    for method, intervals in lines.items():
        label, colour = _LINES[method]
        mean, low, high = zip(*intervals, strict=True)
        axes.plot(n, mean, color=colour, marker="o", markersize=3.5)
        axes.fill_between(n, low, high, color=colour, alpha=0.13, linewidth=0)
        if len(n) == 1:
            axes.vlines(n, low, high, color=colour)
        ends.append((n[-1], mean[-1], label, colour))
    return ends


def _count_axis(axes: Any, n: Sequence[float]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    if min(n) > 0:
        axes.set_xscale("log", base=2)
        axes.set_xticks(n if len(n) <= 10 else n[:: len(n) // 8])
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
