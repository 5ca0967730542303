"""What a curated set came from: funnel, verdict per candidate, examples of what each rule dropped, plots,
card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.filters import Dropped, trace_length
from data.schema import Attempt
from data.store import atomic_path, write_rows

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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for name, draw in _PLOTS.items():
        figure = Figure(figsize=(8, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        draw(axes, audit)
        axes.legend()
        with atomic_path(folder / f"{name}.png") as path:
            figure.savefig(path, dpi=100, format="png")


def _lengths(axes: Any, audit: Audit) -> None:
    sets = [[max(trace_length(t), 1) for t in traces] for traces in (audit.candidates, audit.kept)]
    longest = max((length for lengths in sets for length in lengths), default=1)
    edges = [longest ** (step / 40) for step in range(41)]
    for lengths, label in zip(sets, _labels(audit), strict=True):
        axes.hist(lengths, bins=edges, weights=_shares(lengths), alpha=0.6, label=label)
    axes.set(
        xscale="log", xlabel="length in tokens (words where nobody counted tokens)", ylabel="share of traces"
    )


def _domains(axes: Any, audit: Audit) -> None:
    _bars(axes, audit, [Counter(t.problem.domain or "unknown" for t in traces) for traces in _pair(audit)])


def _difficulty(axes: Any, audit: Audit) -> None:
    """Pass rates where they are known, else levels."""
    sets = [
        [audit.rates[t.problem.id] for t in traces if t.problem.id in audit.rates] for traces in _pair(audit)
    ]
    if not any(sets):
        _bars(axes, audit, [Counter(t.problem.level or "unknown" for t in traces) for traces in _pair(audit)])
        axes.set(xlabel="level")
        return
    for rates, label in zip(sets, _labels(audit), strict=True):
        axes.hist(rates, bins=21, range=(0, 1), weights=_shares(rates), alpha=0.6, label=label)
    axes.set(xlabel="pass rate of the problem", ylabel="share of traces")


def _bars(axes: Any, audit: Audit, counted: Sequence[Counter[str]]) -> None:
    """The most frequent values of both sets, side by side."""
    names = [name for name, _ in (counted[0] + counted[1]).most_common(_MOST_BARS)]
    for position, (counts, label) in enumerate(zip(counted, _labels(audit), strict=True)):
        heights = [counts[name] / max(counts.total(), 1) for name in names]
        axes.bar([index + 0.4 * position for index in range(len(names))], heights, width=0.4, label=label)
    axes.set_xticks(
        range(len(names)),
        [name[:24] for name in names],
        rotation=60,
        ha="right",
        fontsize=7,
        parse_math=False,
    )
    axes.set(ylabel="share of traces")


def _pair(audit: Audit) -> tuple[Sequence[Attempt], Sequence[Attempt]]:
    return audit.candidates, audit.kept


def _labels(audit: Audit) -> tuple[str, str]:
    return f"{len(audit.candidates)} candidates", f"{len(audit.kept)} kept"


def _shares(values: Sequence[float]) -> list[float]:
    return [1 / max(len(values), 1)] * len(values)


_PLOTS: dict[str, Callable[[Any, Audit], None]] = {
    "lengths": _lengths,
    "domains": _domains,
    "difficulty": _difficulty,
}
