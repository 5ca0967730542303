"""What a curated set came from: funnel, verdict per candidate, examples of what each rule dropped, plots,
card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.figures import Picture, legend_below, logarithmic, short, write_png
from data.filters import Dropped, trace_length
from data.schema import Attempt
from data.store import atomic_path, write_rows
from data.theme_svg import AMBER, BLUE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 3
"""Dropped rows that the card shows for each rule."""
_MOST_BARS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """A curated set and everything that was considered for it."""

    candidates: Sequence[Attempt]
    kept: Sequence[Attempt]
    dropped: Sequence[Dropped]
    counts: Mapping[str, int]
    """Dropped rows by rule, in the order in which the rules were applied."""
    rates: Mapping[str, float]
    """Pass rates by problem id, where they are known."""
    seed: int


def funnel(rows_in: int, counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows in, dropped and out of every rule, in order."""
    steps, left = [], rows_in
    for rule, dropped in counts.items():
        steps.append({"rule": rule, "in": left, "dropped": dropped, "out": left - dropped})
        left -= dropped
    return steps


def write_audit(folder: Path, audit: Audit) -> None:
    """Write verdicts.parquet, README.md (the data card) and plots/ into a stage folder."""
    write_rows(folder / "verdicts.parquet", _verdicts(audit), "verdicts")
    write_plots(folder / "plots", audit)
    with atomic_path(folder / "README.md") as path:
        path.write_text(card(audit), encoding="utf-8")


def _verdicts(audit: Audit) -> list[dict[str, str]]:
    """One row a candidate: what became of it and why."""
    kept = [Dropped(trace, "kept", f"{trace_length(trace)} tokens") for trace in audit.kept]
    rows = [
        {
            "id": trace.problem.id,
            "index": str(trace.index),
            "source": trace.problem.source,
            "rule": rule,
            "evidence": evidence,
        }
        for trace, rule, evidence in [*kept, *audit.dropped]
    ]
    return sorted(rows, key=lambda row: (row["id"], row["index"], row["rule"]))


# ---------------------------------------------------------------- the card


def card(audit: Audit) -> str:
    """Markdown with the header that dataset hubs read: sources, licences, counts, funnel, examples."""
    licences = sorted({trace.problem.licence or "unknown" for trace in audit.kept})
    lines = ["---", "tags: [reasoning, slowthink]", f"license: {json.dumps(licences)}", "---", ""]
    lines += [
        f"# {len(audit.kept)} traces of {len(audit.candidates)}",
        "",
        f"Made by stage `curate` with seed {audit.seed}; `manifest.json` has the recipe and its inputs.",
    ]
    lines += ["", "## Sources", "", "| source | licence | candidates | kept |", "|---|---|---|---|"]
    before, after = _by_source(audit.candidates), _by_source(audit.kept)
    lines += [
        f"| {name} | {licence} | {n} | {after[name, licence]} |" for (name, licence), n in before.items()
    ]
    lines += ["", "## Funnel", "", "| rule | in | dropped | out |", "|---|---|---|---|"]
    steps = funnel(len(audit.candidates), audit.counts)
    lines += [f"| {step['rule']} | {step['in']} | {step['dropped']} | {step['out']} |" for step in steps]
    correct = sum(trace.verdict == "correct" for trace in audit.kept)
    lines += ["", f"{correct} of the {len(audit.kept)} kept traces are verified to be correct.", ""]
    lines += [f"![{name}](plots/{name}.png)" for name in _PLOTS]
    lines += ["", "## Dropped, for example", ""]
    for rule in audit.counts:
        rows = [row for row in audit.dropped if row.rule == rule][:EXAMPLES]
        lines += [f"- `{rule}` {row.trace.problem.id}: {_one_line(row.evidence)}" for row in rows]
    return "\n".join(lines) + "\n"


def _by_source(traces: Sequence[Attempt]) -> Counter[tuple[str, str]]:
    counted = Counter((t.problem.source or "unknown", t.problem.licence or "unknown") for t in traces)
    return Counter(dict(counted.most_common()))


def _one_line(text: str) -> str:
    short = " ".join(text.split())[:200]
    return short.replace("|", "\\|").replace("<", "&lt;")


# ---------------------------------------------------------------- plots


def write_plots(folder: Path, audit: Audit) -> None:
    """PNG files: lengths, domains and difficulty of candidates and kept traces, as shares."""
    for name, (title, draw) in _PLOTS.items():
        write_png(audit_picture(name, title, draw, audit), folder / f"{name}.png")


def audit_picture(name: str, title: str, draw_axes: Callable[[Any, Audit], None], audit: Audit) -> Picture:
    """Candidates and kept traces side by side."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        draw_axes(axes, audit)
        axes.set_ylabel("traces, %")
        legend_below(figure, axes)

    caption = f"{title} of candidates and kept traces."
    return Picture(name=name, title=title, caption=caption, data={}, draw=draw)


def _lengths(axes: Any, audit: Audit) -> None:
    sets = [[max(trace_length(t), 1) for t in traces] for traces in _pair(audit)]
    longest = max((length for lengths in sets for length in lengths), default=1)
    edges = [longest ** (step / 40) for step in range(41)]
    _histogram(axes, audit, sets, bins=edges if longest > 1 else 1)
    logarithmic(axes, "x")
    axes.set(xlabel="length in tokens (words where nobody counted tokens)")


def _domains(axes: Any, audit: Audit) -> None:
    _bars(axes, audit, [Counter(t.problem.domain or "unknown" for t in traces) for traces in _pair(audit)])


def _difficulty(axes: Any, audit: Audit) -> None:
    """Pass rates where they are known, else levels."""
    sets = [
        [audit.rates[t.problem.id] for t in traces if t.problem.id in audit.rates] for traces in _pair(audit)
    ]
    if any(sets):
        _histogram(axes, audit, sets, bins=21, range=(0, 1))
        axes.set(xlabel="pass rate of the problem")
        return
    _bars(axes, audit, [Counter(t.problem.level or "unknown" for t in traces) for traces in _pair(audit)])
    axes.set(xlabel="level")


def _histogram(axes: Any, audit: Audit, sets: Sequence[Sequence[float]], **bins: Any) -> None:
    for values, label, colour in zip(sets, _labels(audit), _COLOURS, strict=True):
        weights = [100 / max(len(values), 1)] * len(values)
        axes.hist(values, weights=weights, color=colour, alpha=0.55, linewidth=0, label=label, **bins)


def _bars(axes: Any, audit: Audit, counted: Sequence[Counter[str]]) -> None:
    """The most frequent values of both sets, side by side."""
    names = [name for name, _ in (counted[0] + counted[1]).most_common(_MOST_BARS)]
    for position, (counts, label, colour) in enumerate(zip(counted, _labels(audit), _COLOURS, strict=True)):
        places = [index + 0.4 * position for index in range(len(names))]
        heights = [100 * counts[name] / max(counts.total(), 1) for name in names]
        axes.bar(places, heights, width=0.4, color=colour, linewidth=0, label=label)
    places = [index + 0.2 for index in range(len(names))]
    axes.set_xticks(places, [short(name) for name in names], rotation=45, ha="right", rotation_mode="anchor")
    axes.grid(visible=False, axis="x")


def _pair(audit: Audit) -> tuple[Sequence[Attempt], Sequence[Attempt]]:
    return audit.candidates, audit.kept


def _labels(audit: Audit) -> tuple[str, str]:
    return f"{len(audit.candidates):,} candidates", f"{len(audit.kept):,} kept"


_COLOURS = (AMBER, BLUE)
_PLOTS: dict[str, tuple[str, Callable[[Any, Audit], None]]] = {
    "lengths": ("Lengths", _lengths),
    "domains": ("Domains", _domains),
    "difficulty": ("Difficulty", _difficulty),
}
