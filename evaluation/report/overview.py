"""Pictures across the stages of a run: accuracies, what became of the rows, where the time went, effects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.figures import WIDTH_INCHES, Picture, finite, numbers, short
from data.theme_svg import BLUE, GREEN, GREY, ORANGE, SOFT
from evaluation.report.folder import FoundStage, mapping
from evaluation.report.row_plots import (
    Bar,
    Dot,
    bars_picture,
    dot_data,
    dots_inches,
    dots_picture,
    draw_bars,
    draw_dots,
    share_dot,
)
from evaluation.report.summary import duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COSTS = "run-costs"
"""Name of the picture of what the stages took."""
_MOST_ROWS = 60
"""Of a picture; those behind them are left out."""
_CLAIMS = {"lower": " (lower)", "not_lower": " (not lower)"}
"""What is claimed of the first side, where it is not that it has more."""
_VERDICTS = {"shown": GREEN, "not shown": GREY, "opposite": ORANGE}


def accuracy_picture(stages: Sequence[FoundStage]) -> Iterator[Picture]:
    """Accuracy of all evaluations by benchmark, in the order of the pipeline."""
    benchmarks: dict[str, list[Dot]] = {}
    for found in stages:
        if found.stage == "evaluate":
            for name, metrics in mapping(found.metrics.get("benchmarks")).items():
                value = interval(mapping(metrics).get("accuracy"))
                rows = benchmarks.setdefault(short(name), [])
                if value is not None and len(rows) < _MOST_ROWS:
                    rows.append(share_dot(_without_kind(found.name), value))
    benchmarks = {name: rows for name, rows in benchmarks.items() if rows}
    if not benchmarks:
        return
    yield dots_picture(
        "run-accuracy",
        "Accuracy of every model that was evaluated",
        "Mean accuracy of the completions of a problem, over problems, in the order of the pipeline. Bars: "
        "95 % intervals, bootstrap over problems.",
        benchmarks,
        "accuracy, %",
    )


def funnel_picture(stages: Sequence[FoundStage]) -> Iterator[Picture]:
    """What became of the rows on the way to the first training on them."""
    by_name = {found.name: found for found in stages}
    trained = next((found for found in stages if found.stage in ("sft", "distill", "grpo")), None)
    if trained is None:
        return
    way, waiting = {trained.name}, [trained]
    while waiting:
        for path in waiting.pop().inputs:
            name = path.rstrip("/").rsplit("/", 1)[-1]
            if name in by_name and name not in way:
                way.add(name)
                waiting.append(by_name[name])
    rows = [row for found in stages if found.name in way for row in _rows_of(found)][:_MOST_ROWS]
    if len(rows) < 2:
        return
    yield bars_picture(
        "run-funnel",
        "From problems to training rows",
        f"Rows on the way to {short(trained.name)}: what each stage made, and what each rule of curation "
        "left (pale: what it dropped). Rules that dropped nothing are not shown.",
        rows,
    )


def _rows_of(found: FoundStage) -> Iterator[Bar]:
    """The counts of one stage on the way."""
    metrics = found.metrics
    made = {
        "collect": ("rows_out", "problems collected"),
        "sample": ("attempts", "completions sampled"),
        "sft": ("rows", "rows trained on"),
        "distill": ("rows", "rows trained on"),
        "grpo": ("questions", "questions trained on"),
    }
    if found.stage in made:
        key, words = made[found.stage]
        if (count := finite(metrics.get(key))) is not None:
            yield Bar(name=words, value=count, text=f"{count:,.0f}", colour=BLUE)
    elif found.stage in ("curate", "mix"):
        yield from funnel_bars(metrics)


def funnel_bars(metrics: Mapping[str, Any]) -> list[Bar]:
    """A row for each rule that dropped something.

    Raises:
        ValueError: a count is no number.
    """
    bars = []
    for step in metrics.get("funnel") or []:
        before, dropped, left = numbers(step, "in", "dropped", "out")
        if dropped > 0:
            name = "\u2212 " + short(step["rule"]).replace("_", " ")
            text = f"{left:,.0f} (\u2212{dropped:,.0f})"
            bars.append(Bar(name=name, value=left, before=before, text=text, colour=SOFT))
    return bars


def costs_picture(stages: Sequence[FoundStage]) -> Iterator[Picture]:
    """Seconds and tokens of each stage."""
    shown = [found for found in stages if found.seconds is not None][:_MOST_ROWS]
    if not shown:
        return
    seconds = [
        Bar(name=short(found.name, 22), value=found.seconds or 0, text=duration(found.seconds or 0))
        for found in shown
    ]
    counts = [finite(found.tokens or found.metrics.get("completion_tokens")) for found in shown]
    tokens = [Bar(name="", value=count or 0, text=_count(count), colour=GREEN) for count in counts]

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        draw_bars(left, seconds)
        draw_bars(right, tokens, named=False)
        left.set_yticks(range(len(seconds)), [row.name for row in seconds])
        left.set_title("time", fontsize=9)
        right.set_title("tokens", fontsize=9)

    yield Picture(
        name=COSTS,
        title="Where the time went",
        caption="Wall-clock time of each stage, and tokens that it trained on, generated or scored (where it "
        "counts them).",
        data={
            "stages": [
                {"name": found.name, "seconds": found.seconds, "tokens": count}
                for found, count in zip(shown, counts, strict=True)
            ]
        },
        draw=draw,
        size=(WIDTH_INCHES, 0.5 + 0.21 * len(shown)),
    )


def effects_picture(rows: Sequence[Mapping[str, Any]]) -> Picture:
    """Differences that the literature claims, with their intervals, by verdict.

    Args:
        rows: `evaluation.effects.combine`; a single seed is drawn with the paired interval of its own.
    Raises:
        ValueError: no rows, or a value that is no number.
    """
    units: dict[str, list[tuple[Dot, str]]] = {}
    for row in rows[:_MOST_ROWS]:
        verdict = str(row["verdict"])
        units.setdefault(short(row["unit"]), []).append((_effect(row, _VERDICTS[verdict]), verdict))
    if not units:
        raise ValueError("effects: there is none to draw")
    counts = [len(found) for found in units.values()]

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(counts), 1, squeeze=False, height_ratios=[n + 0.2 for n in counts])
        for axes, (unit, found) in zip(grid.ravel(), units.items(), strict=True):
            axes.axvline(0, color=SOFT, linewidth=0.9)
            draw_dots(axes, [dot for dot, _ in found])
            axes.set_xlabel("difference, percentage points" if unit == "points" else f"difference, {unit}")
        verdicts = {verdict: _VERDICTS[verdict] for found in units.values() for _, verdict in found}
        for verdict, colour in verdicts.items():
            grid.ravel()[0].plot([], [], "o", color=colour, label=verdict)
        figure.legend(
            *grid.ravel()[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(verdicts)
        )

    seeds = max(len(row.get("seeds") or []) for row in rows)
    of = "paired bootstrap over problems."
    if seeds > 1:
        of = f"t interval over {seeds} seeds (small dots). Colour: the verdict on which every seed agrees by "
        of += "its own interval over problems."
    return Picture(
        name="run-effects",
        title="Effects of the literature, measured here",
        caption=f"Difference between the two sides of each claim. Bars: 95 %, {of}",
        data={unit: [{**dot_data(dot), "verdict": v} for dot, v in found] for unit, found in units.items()},
        draw=draw,
        size=(WIDTH_INCHES, 0.3 + dots_inches(counts) + 0.25 * (len(counts) - 1)),
    )


def _effect(row: Mapping[str, Any], colour: str) -> Dot:
    seeds = [numbers(seed["difference"], "mean", "low", "high") for seed in row["seeds"]]
    (mean,) = numbers(row, "mean")
    low, high = seeds[0][1:] if row["low"] is None and len(seeds) == 1 else numbers(row, "low", "high")
    return Dot(
        name=short(row["name"]).replace("_", " ") + _CLAIMS.get(row.get("claim_is") or "", ""),
        mean=mean,
        low=low,
        high=high,
        text=f"{mean:+.1f} [{low:.1f}, {high:.1f}]",
        colour=colour,
        seeds=[seed[0] for seed in seeds] if len(seeds) > 1 else (),
    )


def interval(value: Any) -> tuple[float, ...] | None:
    """Mean, low and high of a number with its interval; None for what is none."""
    found = tuple(finite(mapping(value).get(key)) for key in ("mean", "low", "high"))
    return None if None in found else found  # type: ignore[return-value]


def _without_kind(name: str) -> str:
    """07_evaluate_base: base."""
    return re.sub(r"^\d+_", "", name).removeprefix("evaluate_").replace("_", " ") or name


def _count(tokens: float | None) -> str:
    """1,494,522: 1.5M."""
    if tokens is None:
        return "-"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= size:
            return f"{tokens / size:.3g}{letter}"
    return f"{tokens:.0f}"
