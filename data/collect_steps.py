"""Stage `collect_steps`: one table of labelled solutions from many sources, deduplicated, decontaminated and
split by problem."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from data.audit import funnel
from data.collect import benchmark_problems, decontaminate, parse_benchmarks
from data.control_sets import token_counter
from data.decontaminate import BenchmarkIndex
from data.known_steps import KNOWN_STEPS
from data.progress import Progress
from data.schema import Problem, Rejected, rejected
from data.stage import run_stage
from data.step_sources import LoadedSteps, StepSource, described, load_steps, parse_step_sources
from data.step_statistics import statistics
from data.step_tables import HELD_OUT, write_labelled, write_stepwise
from data.steps import LabelledSolution
from data.store import table_path, write_rejected

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class CollectStepsConfig:
    """Which labelled solutions to collect, and the benchmarks that they must not contain."""

    sources: list[dict[str, Any]]
    """Where they come from, in order of precedence; keys are the fields of
    `data.step_sources.StepSource`."""
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    """Sources of role eval, as of stage collect or as above; solutions of problems that share text with them
    are dropped."""
    ngram_words: int = 8
    """Words in a row that a problem may not share with a benchmark; 0 compares whole questions only."""
    ngram_characters: int = 0
    """Characters in a row, spaces aside, that a problem may not share with a benchmark; 0 compares none."""
    step_separator: str = "\n\n"
    """What solutions are split at where they are scored; no step may contain it."""
    held_out: float = 0.0
    """Share of the problems whose solutions are kept apart in held_out.parquet, with role eval."""
    limit: int | None = None
    """Solutions to keep, drawn at random."""
    seed: int = 0
    """Seed of `limit` and `held_out`."""
    stepwise: Literal["", "jsonl", "parquet"] = ""
    """Also write stepwise.jsonl or .parquet, the format of TRL's PRM trainer."""
    tokenizer: str | None = None
    """Folder or file with a tokenizer.json that counts the tokens of the solutions."""

    def __post_init__(self) -> None:
        if not self.step_separator:
            raise ValueError("step_separator: is empty")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out: {self.held_out} is not a share from 0 to below 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: {self.limit} is less than 1")


def collect_steps(config: CollectStepsConfig, folder: Path) -> dict[str, Any]:
    """Write step_labels.parquet, held_out.parquet and the stepwise file (where asked for) and
    rejected/rows.parquet.

    The same solution is kept from the first source that has it. Rules: those of
    `data.step_sources.load_steps`, `duplicate`, `contaminated`; `limit` is counted and its rows are not kept.
    What is kept does not depend on the order of the rows in a source.

    Returns:
        solutions_in, solutions_out, held_out, benchmark_rows, stepwise_rows; counts by source and by rule;
        `funnel`; `labels` and `held_out_labels`: see `data.step_statistics.statistics`.
    Raises:
        ValueError: a bad source, sources of both roles, a benchmark of role train or without questions, or
            nothing left.
    """
    sources = check_step_sources(config)
    index = BenchmarkIndex(_benchmarks(config), config.ngram_words, config.ngram_characters)
    count_tokens = token_counter(config.tokenizer) if config.tokenizer is not None else None
    loaded = [load_steps(source, config.step_separator) for source in _progress(sources)]
    unique, duplicates = deduplicate([solution for part in loaded for solution in part.solutions])
    clean, contaminated = _clean(unique, index)
    kept = draw(clean, config.limit, config.seed)
    dropped = [*(row for part in loaded for row in part.rejected), *duplicates, *contaminated]
    counts = Counter(row.rule for row in dropped) + Counter(limit=len(clean) - len(kept))
    rows_in = sum(len(part.solutions) + len(part.rejected) for part in loaded)
    if not kept:
        rule, count = counts.most_common(1)[0]
        raise ValueError(f"no solution is left of {rows_in}; rule {rule!r} took {count}")
    train, held_out = hold_out(kept, config.held_out, config.seed)
    written = _write(config, folder, train, held_out)
    write_rejected(folder, dropped)
    return {
        "solutions_in": rows_in,
        "solutions_out": len(train),
        "held_out": len(held_out),
        "benchmark_rows": len(index),
        **written,
        "sources": _by_source(sources, loaded, kept),
        "rules": dict(counts.most_common()),
        "funnel": funnel(rows_in, counts),
        "labels": statistics(train, count_tokens),
        **({"held_out_labels": statistics(held_out, count_tokens)} if held_out else {}),
    }


def check_step_sources(config: CollectStepsConfig) -> list[StepSource]:
    """Sources of a config.

    Raises:
        ValueError: a bad entry, no source, sources of both roles, or benchmarks that are held out.
    """
    if not config.sources:
        raise ValueError("sources: is empty; name at least one, for example {id: math_shepherd}")
    sources = parse_step_sources(config.sources, "sources")
    roles = {role: [s.name for s in sources if s.role == role] for role in ("train", "eval")}
    if roles["train"] and roles["eval"]:
        raise ValueError(
            f"sources: mix role train ({', '.join(roles['train'])}) and eval ({', '.join(roles['eval'])}); "
            "collect them in two stages, or move the latter to `benchmarks:`"
        )
    if roles["eval"] and config.held_out:
        raise ValueError(f"held_out: {', '.join(roles['eval'])} are benchmarks, which train nothing; drop it")
    return sources


def _benchmarks(config: CollectStepsConfig) -> list[Problem]:
    """The questions of all benchmarks, be they sets of questions or of labelled solutions."""
    steps, questions = [], []
    for entry in config.benchmarks:
        labelled = isinstance(entry, dict) and (entry.get("id") in KNOWN_STEPS or "form" in entry)
        (steps if labelled else questions).append(entry)
    problems = benchmark_problems(parse_benchmarks(questions))
    for source in parse_step_sources(steps, "benchmarks"):
        if source.role != "eval":
            raise ValueError(f"{source.key}: {source.name} has role train; a benchmark has `role: eval`")
        problems += [solution.problem for solution in load_steps(source).solutions]
    return list({problem.id: problem for problem in problems}.values())


def deduplicate(solutions: Iterable[LabelledSolution]) -> tuple[list[LabelledSolution], list[Rejected]]:
    """One of each solution (question and steps), the first by its source; the evidence of the others says
    where it came from, and whether their labels differ."""
    ranks: dict[str, int] = {}
    same: dict[tuple[str, tuple[str, ...]], list[LabelledSolution]] = {}
    for solution in solutions:
        ranks.setdefault(solution.problem.source, len(ranks))
        key = solution.problem.id, tuple(step.strip() for step in solution.steps)
        same.setdefault(key, []).append(solution)
    kept, dropped = [], []
    for group in same.values():
        if len(group) > 1:
            group.sort(key=lambda s: (ranks[s.problem.source], str(s.labels), s.model, s.problem.question))
        kept.append(group[0])
        for solution in group[1:]:
            differs = "" if solution.labels == group[0].labels else f", with labels {group[0].labels}"
            evidence = f"same solution in {group[0].problem.source}{differs}"
            dropped.append(rejected(described(solution), "duplicate", evidence))
    return kept, dropped


def _clean(
    solutions: Sequence[LabelledSolution], index: BenchmarkIndex
) -> tuple[list[LabelledSolution], list[Rejected]]:
    """Solutions of problems that share no text with a benchmark; the others with what they share."""
    problems = list({solution.problem.id: solution.problem for solution in solutions}.values())
    evidence = {row.id: row.evidence for row in decontaminate(problems, index)[1]}
    bad = [s for s in solutions if s.problem.id in evidence]
    clean = [s for s in solutions if s.problem.id not in evidence]
    return clean, [rejected(described(s), "contaminated", evidence[s.problem.id]) for s in bad]


def draw(solutions: Sequence[LabelledSolution], limit: int | None, seed: int) -> list[LabelledSolution]:
    """`limit` solutions at random, in their order; which ones depends on the seed and their text alone."""
    if limit is None or limit >= len(solutions):
        return list(solutions)
    keys = [_chance(f"limit {seed}", s.problem.id, *s.steps) for s in solutions]
    return [solutions[i] for i in sorted(sorted(range(len(solutions)), key=keys.__getitem__)[:limit])]


def hold_out(
    solutions: Sequence[LabelledSolution], share: float, seed: int
) -> tuple[list[LabelledSolution], list[LabelledSolution]]:
    """The solutions of all problems but a random share, and those of this share, now with role eval.

    Raises:
        ValueError: no problem is left to train on.
    """
    if not share:
        return list(solutions), []
    ids = sorted({s.problem.id for s in solutions}, key=lambda id: _chance(f"held_out {seed}", id))
    apart = set(ids[: max(1, round(share * len(ids)))])
    if len(apart) == len(ids):
        raise ValueError(f"held_out: {share} of {len(ids)} problems leaves none to train on")
    held = [replace(s, problem=replace(s.problem, role="eval")) for s in solutions if s.problem.id in apart]
    return [s for s in solutions if s.problem.id not in apart], held


def _chance(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _write(
    config: CollectStepsConfig,
    folder: Path,
    train: Sequence[LabelledSolution],
    held_out: Sequence[LabelledSolution],
) -> dict[str, int]:
    """Write the tables, and remove those that an earlier run with other options has left."""
    write_labelled(folder, train)
    if held_out:
        write_labelled(folder, held_out, HELD_OUT)
    else:
        table_path(folder, HELD_OUT).unlink(missing_ok=True)
    for kind in ("jsonl", "parquet"):
        if kind != config.stepwise:
            (folder / f"stepwise.{kind}").unlink(missing_ok=True)
    if not config.stepwise:
        return {}
    return {"stepwise_rows": write_stepwise(folder / f"stepwise.{config.stepwise}", train)}


def _by_source(
    sources: Sequence[StepSource], loaded: Sequence[LoadedSteps], kept: Iterable[LabelledSolution]
) -> dict[str, dict[str, int]]:
    out = Counter(solution.problem.source for solution in kept)
    counts: dict[str, dict[str, int]] = {}
    for source, part in zip(sources, loaded, strict=True):
        row = counts.setdefault(source.name, {"rows_in": 0, "solutions_in": 0, "solutions_out": 0})
        row["rows_in"] += part.rows_in
        row["solutions_in"] += len(part.solutions)
        row["solutions_out"] = sum(out[name] for name in {s.problem.source for s in part.solutions})
    return counts


def _progress(sources: list[StepSource]) -> Iterable[StepSource]:
    return Progress(sources, desc="sources", unit="source")


if __name__ == "__main__":
    run_stage(collect_steps, CollectStepsConfig)
