"""Stage `collect`: one table of problems from many sources, deduplicated and decontaminated."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.audit import funnel
from data.decontaminate import BenchmarkIndex
from data.load_source import Loaded, load
from data.near_duplicates import check_threshold, near_duplicates
from data.progress import Progress
from data.schema import Attempt, Problem, Rejected, problem_row, rejected
from data.sources import Source, is_generator, parse_sources
from data.stage import run_stage
from data.store import table_path, write_attempts, write_problems, write_rejected
from data.suspects import suspects
from data.word_hashes import hash_words

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class CollectConfig:
    """What to collect, and the benchmarks that it must not contain."""

    sources: list[dict[str, Any]]
    """Where problems come from, in order of precedence: known sets, generators, hub datasets, files or a
    function of your own, for example {id: gsm8k, split: train}. All keys of an entry: data/sources.py."""
    benchmarks: list[dict[str, Any]] = field(default_factory=list)
    """Sources of role eval, written likewise; problems that share text with them are dropped."""
    ngram_words: int = 8
    """Words in a row that a problem may not share with a benchmark; 0 compares whole questions only."""
    ngram_characters: int = 0
    """Characters in a row, spaces aside, that a problem may not share with a benchmark; 0 compares none."""
    near_duplicates: float | None = None
    """Least similarity (Jaccard, runs of three words; for example 0.7) at which a problem with the numbers,
    operators and answer of a kept one is dropped; null drops none."""
    seed: int = 0
    """Seed of the generators that have none of their own."""


def collect(config: CollectConfig, folder: Path) -> dict[str, Any]:
    """Write problems.parquet, traces.parquet (where a source has traces) and rejected/rows.parquet.

    The same question is kept from the first source that has it. Rules: those of `data.load_source.load`,
    `duplicate`, `contaminated`, `near_duplicate`. Which problems are kept does not depend on the order of the
    rows in a source, nor on the number of processes.

    Returns:
        rows_in, rows_out, traces_out, benchmark_rows; counts by source and by rule; `funnel`, as in `curate`.
    Raises:
        ValueError: a bad source, sources of both roles, a benchmark of role train or without questions, or
            nothing left.
    """
    sources, benchmarks = check_sources(config)
    if config.near_duplicates is not None:
        check_threshold(config.near_duplicates)
    index = BenchmarkIndex(benchmark_problems(benchmarks), config.ngram_words, config.ngram_characters)
    loaded = [load(source) for source in _progress(sources, "sources")]
    dropped = [row for part in loaded for row in part.rejected]
    ranks = _ranks(loaded)
    problems, duplicates = deduplicate((problem for part in loaded for problem in part.problems), ranks)
    keep, contaminated = decontaminate(problems, index)
    keep, near = drop_near_duplicates(problems, keep, config.near_duplicates, ranks)
    kept = [problems[i] for i in keep]
    dropped += duplicates + contaminated + near
    metrics = _metrics(sources, loaded, kept, dropped)
    if not kept:
        rule, count = Counter(metrics["rules"]).most_common(1)[0]
        fix = "; shorten `benchmarks:` or set `ngram_words: 0`" if rule == "contaminated" else ""
        raise ValueError(f"no problem is left of {metrics['rows_in']} rows; rule {rule!r} took {count}{fix}")
    traces = traces_of(kept, (trace for part in loaded for trace in part.traces))
    write_problems(folder, kept)
    if traces:
        write_attempts(folder, traces, "traces")
    else:  # an earlier run with other sources may have left some
        table_path(folder, "traces").unlink(missing_ok=True)
    write_rejected(folder, dropped)
    return {**metrics, "traces_out": len(traces), "benchmark_rows": len(index)}


def check_sources(config: CollectConfig) -> tuple[list[Source], list[Source]]:
    """Sources and benchmarks of a config, with its seed where they need one.

    Raises:
        ValueError: a bad entry, no source, sources of both roles, or a benchmark of role train.
    """
    if not config.sources:
        raise ValueError("sources: is empty; name at least one, for example {id: gsm8k, split: train}")
    sources = parse_sources(_with_seed(config.sources, config.seed), "sources")
    benchmarks = parse_benchmarks(config.benchmarks)
    roles = {role: [s.name for s in sources if s.role == role] for role in ("train", "eval")}
    if roles["train"] and roles["eval"]:
        raise ValueError(
            f"sources: mix role train ({', '.join(roles['train'])}) and eval ({', '.join(roles['eval'])}); "
            "collect them in two stages, or move the latter to `benchmarks:`"
        )
    return sources, benchmarks


def parse_benchmarks(entries: list[Any]) -> list[Source]:
    """The sources that nothing may share text with.

    Raises:
        ValueError: a bad entry, or one of role train.
    """
    benchmarks = parse_sources(entries, "benchmarks")
    for source in benchmarks:
        if source.role != "eval":
            raise ValueError(f"{source.key}: {source.name} has role train; a benchmark has `role: eval`")
    return benchmarks


def _with_seed(entries: list[Any], seed: int) -> list[Any]:
    """Only generators take the stage's seed: a file without a seed of its own gives its first rows."""
    return [
        {"seed": seed, **entry} if isinstance(entry, dict) and is_generator(str(entry.get("id"))) else entry
        for entry in entries
    ]


def benchmark_problems(benchmarks: list[Source]) -> list[Problem]:
    """The questions of all benchmarks; unusable rows are logged.

    Raises:
        ValueError: a benchmark has no question.
    """
    problems = []
    for source in _progress(benchmarks, "benchmarks"):
        loaded = load(source)
        if loaded.rejected:
            logger.warning(
                "%s: %d unusable rows: %s", source.name, len(loaded.rejected), loaded.rejected[0].rule
            )
        if not loaded.problems:
            raise ValueError(f"{source.key}: no question in the {loaded.rows_in} rows of {source.name}")
        problems += loaded.problems
    return problems


def _ranks(loaded: Iterable[Loaded]) -> dict[str, int]:
    """Name of a source -> its place in `sources:`; the first one is preferred."""
    names = (part.problems[0].source for part in loaded if part.problems)
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def deduplicate(
    problems: Iterable[Problem], ranks: Mapping[str, int]
) -> tuple[list[Problem], list[Rejected]]:
    """One problem of each id; the evidence of the others says where it came from.

    Of several the one of the lowest rank is kept; of the same source, the one that comes first by its text.
    """
    same: defaultdict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        same[problem.id].append(problem)
    kept, dropped = [], []
    for group in same.values():
        if len(group) > 1:
            group.sort(key=lambda p: (ranks.get(p.source, len(ranks)), p.answer, p.question, p.solution))
        first = group[0]
        kept.append(first)
        for problem in group[1:]:
            differs = "" if first.answer == problem.answer else f", whose answer is {first.answer!r}"
            dropped.append(
                rejected(problem_row(problem), "duplicate", f"same question in {first.source}{differs}")
            )
    return kept, dropped


def decontaminate(problems: Sequence[Problem], index: BenchmarkIndex) -> tuple[list[int], list[Rejected]]:
    """Numbers of the problems that share no text with a benchmark; the others with what they share."""
    if not len(index):
        return list(range(len(problems))), []
    matches = {i: index.match(problems[i].question) for i in suspects(index, [p.question for p in problems])}
    dropped = {
        i: rejected(problem_row(problems[i]), "contaminated", match.evidence)
        for i, match in matches.items()
        if match is not None
    }
    return [i for i in range(len(problems)) if i not in dropped], list(dropped.values())


def drop_near_duplicates(
    problems: Sequence[Problem],
    among: Sequence[int],
    threshold: float | None,
    ranks: Mapping[str, int],
) -> tuple[list[int], list[Rejected]]:
    """The numbers `among` without near-duplicates; kept are the lowest rank and then the smallest id."""
    if threshold is None:
        return list(among), []
    words = hash_words([problem.question for problem in problems])
    answers = hash_words([problem.answer for problem in problems], processes=1)
    order = sorted(among, key=lambda i: (ranks.get(problems[i].source, len(ranks)), problems[i].id))
    found = near_duplicates(words, answers, order, threshold)
    dropped = []
    for i, (other, similarity) in sorted(found.items()):
        kept = problems[other]
        evidence = f"similarity {similarity:.3f} to {kept.source} {kept.id}: {kept.question[:300]!r}"
        dropped.append(rejected(problem_row(problems[i]), "near_duplicate", evidence))
    return [i for i in among if i not in found], dropped


def traces_of(problems: list[Problem], traces: Iterable[Attempt]) -> list[Attempt]:
    """Traces of the problems, numbered within each.

    A trace that came with a duplicate row belongs to the row that was kept, unless their answers differ.
    """
    kept = {problem.id: problem for problem in problems}
    of_problem: defaultdict[str, list[Attempt]] = defaultdict(list)
    for trace in traces:
        problem = kept.get(trace.problem.id)
        if problem is not None and problem.answer == trace.problem.answer:
            of_problem[problem.id].append(replace(trace, problem=problem, index=len(of_problem[problem.id])))
    return [trace for problem in problems for trace in of_problem[problem.id]]


def _metrics(
    sources: list[Source], loaded: list[Loaded], kept: list[Problem], dropped: list[Rejected]
) -> dict[str, Any]:
    rows_out = Counter(problem.source for problem in kept)
    counts = {}
    for source, part in zip(sources, loaded, strict=True):
        name = part.problems[0].source if part.problems else source.name
        before = counts.get(name, {"rows_in": 0})["rows_in"]
        counts[name] = {"rows_in": before + part.rows_in, "rows_out": rows_out[name]}
    return {
        "rows_in": sum(part.rows_in for part in loaded),
        "rows_out": len(kept),
        "sources": counts,
        "rules": dict(Counter(row.rule for row in dropped).most_common()),
        "funnel": funnel(sum(part.rows_in for part in loaded), Counter(row.rule for row in dropped)),
    }


def _progress(items: list[Any], name: str) -> Iterable[Any]:
    return Progress(items, desc=name, unit=name.removesuffix("s"), disable=not items)


if __name__ == "__main__":
    run_stage(collect, CollectConfig)
