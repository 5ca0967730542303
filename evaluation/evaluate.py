"""Stage `evaluate`: benchmarks with intervals, every completion kept."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.language import SCRIPT_OF
from data.load_source import load_problems
from data.processes import is_part
from data.schema import Attempt, Problem
from data.sources import parse_source
from data.stage import run_stage
from data.store import read_problems, write_attempts, write_rejected
from evaluation.problem_values import (
    METRICS,
    ProblemValues,
    Values,
    interval,
    measure_problems,
    summarise_values,
    write_problem_values,
)
from inference.draw import attempt_metrics, draw, remove_journals
from inference.options import GenerationOptions
from rewards.policy import parse_policy

logger = logging.getLogger(__name__)

SETTINGS = (
    *("temperature", "top_p", "top_k", "num_completions", "max_tokens", "bad_words"),
    *("prompt_style", "system_prompt", "few_shot", "question_suffix", "thinking_format", "language"),
    *("max_thinking_tokens", "min_thinking_tokens", "waits", "wait_text", "answer_tokens"),
    *("resample_longer_than", "resample_tries", "policy"),
)
"""Fields that decide what the numbers mean."""


@dataclass(kw_only=True)
class EvaluateConfig(GenerationOptions):
    """Fields of stage `evaluate`."""

    benchmarks: list[dict] = field(default_factory=list)
    """Sources by id or path; `name` in an entry is its name in the table."""
    num_completions: int = 1
    """Completions per problem; 1 with temperature 0 is greedy decoding."""
    k: list[int] = field(default_factory=lambda: [1])
    """pass@k and maj@k are reported for these k; none may exceed num_completions."""
    language: str | None = "en"
    """Language (ISO 639-1) whose share of the thinking's words is measured; null leaves it out."""

    def __post_init__(self) -> None:
        GenerationOptions.__post_init__(self)
        check_benchmarks(self.benchmarks)
        for k in self.k:
            if not 1 <= k <= self.num_completions:
                raise ValueError(
                    f"k: {k} is not between 1 and num_completions={self.num_completions}; pass@k from fewer "
                    "than k completions does not exist: draw more or drop it"
                )
        if self.temperature == 0 and self.num_completions > 1:
            raise ValueError("num_completions: greedy completions (temperature 0) are all the same; use 1")
        if self.language is not None and self.language not in SCRIPT_OF:
            raise ValueError(
                f"language: {self.language!r} is not one of {', '.join(sorted(SCRIPT_OF))}; "
                "null leaves it out"
            )


def check_benchmarks(entries: list[dict]) -> None:
    """Check the `benchmarks:` of a recipe.

    Raises:
        ValueError: there is none, one is no source, or two have the same name.
    """
    if not entries:
        raise ValueError("benchmarks: give at least one source, for example {id: math500}")
    for index, entry in enumerate(entries):
        parse_source(_without_name(entry), f"benchmarks[{index}]")
    names = [benchmark_name(entry) for entry in entries]
    if len(set(names)) < len(names):
        raise ValueError(f"benchmarks: names repeat in {names}; give each entry its own `name`")


def _without_name(entry: dict) -> dict:
    return {key: value for key, value in entry.items() if key != "name"}


def benchmark_name(entry: dict) -> str:
    """Name of a benchmark in tables: `name`, else id or path."""
    return str(entry.get("name") or entry.get("id") or Path(str(entry.get("path", ""))).stem)


def evaluate(config: EvaluateConfig, folder: Path) -> dict[str, Any]:
    """Draw completions for every benchmark; write attempts.parquet and problem_values.json, print a table.

    Problems that cannot be put to the model are in rejected/rows.parquet and count as wrong.
    """
    benchmarks = {
        benchmark_name(entry): load_benchmark(entry, i) for i, entry in enumerate(config.benchmarks)
    }
    unique = {problem.id: problem for problems in benchmarks.values() for problem in problems}
    attempts, bad = draw(config, list(unique.values()), config.num_completions, folder)
    if is_part():
        return {}
    if bad:
        logger.warning(
            "%d of %d problems cannot be put to the model and count as wrong; first reason: %s: %s",
            *(len(bad), len(unique), bad[0].rule, bad[0].evidence),
        )
    by_problem: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_problem[attempt.problem.id].append(attempt)
    groups = {name: [by_problem[p.id] for p in problems] for name, problems in benchmarks.items()}
    how = (config.k, parse_policy(config.policy), config.thinking_format, config.language)
    values = {name: measure_problems(each, *how) for name, each in groups.items()}
    results = {name: benchmark_metrics(groups[name], values[name], config.seed) for name in benchmarks}
    ids = {name: [problem.id for problem in problems] for name, problems in benchmarks.items()}
    settings = {"model": config.model_name_or_path, **{name: getattr(config, name) for name in SETTINGS}}
    write_problem_values(folder, ProblemValues(settings=settings, ids=ids, values=values))
    write_attempts(folder, attempts)
    write_rejected(folder, bad)
    remove_journals(folder)
    print_table(results, config)
    headline = {f"{name} pass@1": r["pass@1"]["mean"] for name, r in results.items() if "pass@1" in r}
    return {
        **headline,
        "rejected": len(bad),
        "tokens": sum(a.completion.completion_tokens for a in attempts),
        "benchmarks": results,
    }


def load_benchmark(entry: dict, index: int) -> list[Problem]:
    """The problems of one benchmark: a source, or the problems of a stage folder.

    Raises:
        ValueError: it has none, or a row of it is bad: a benchmark is used whole or not at all.
    """
    path = entry.get("path")
    if path and (Path(path) / "problems.parquet").is_file():
        problems = read_problems(path)[: entry.get("limit")]
        if not problems:
            raise ValueError(
                f"benchmark {benchmark_name(entry)}: {path} has no problems; give the folder of a stage that "
                "kept some"
            )
        return problems
    problems, bad = load_problems(parse_source(_without_name(entry), f"benchmarks[{index}]"))
    if bad:
        raise ValueError(
            f"benchmark {benchmark_name(entry)}: {len(bad)} bad rows, the first: {bad[0].rule} "
            f"({bad[0].evidence}); a benchmark with missing rows is another benchmark"
        )
    return problems


def benchmark_metrics(
    groups: Sequence[Sequence[Attempt]], values: dict[str, Values], seed: int
) -> dict[str, Any]:
    """Verdict shares and tokens over all attempts, and each metric with its bootstrap interval over problems.

    `groups`: the attempts of each problem; `values`: `measure_problems` of them. `language_judged` is the
    number of completions that `language_share` rests on; without any it is null.
    """
    flat = [attempt for group in groups for attempt in group]
    results: dict[str, Any] = {"problems": len(groups), **(attempt_metrics(flat) if flat else {})}
    for metric, each in values.items():
        if metric == "language_judged":
            results[metric] = sum(count or 0 for count in each)
        else:
            results[metric] = summarise_values(metric, each, seed)
    return results


def print_table(results: dict[str, dict[str, Any]], config: EvaluateConfig) -> None:
    """Print one line per metric, with a column for each benchmark."""
    from rich.console import Console
    from rich.table import Table

    how = (
        "greedy"
        if config.temperature == 0
        else f"T {config.temperature}, {config.num_completions} completions"
    )
    table = Table(title=f"{config.model_name_or_path} ({config.prompt_style}, {how}; 95 % intervals)")
    table.add_column("metric")
    for name, found in results.items():
        table.add_column(f"{name} ({found['problems']})", justify="right")
    ks = [*(f"pass@{k}" for k in config.k), *(f"maj@{k}" for k in config.k if k > 1)]
    for metric in (*ks, *METRICS[1:]):
        summaries = [found.get(metric) for found in results.values()]
        if any(summaries):
            table.add_row(metric.replace("_", " "), *(interval(summary, metric) for summary in summaries))
    judged = [found.get("language_judged", 0) for found in results.values()]
    if any(judged):
        table.add_row("completions with a language", *(f"{number:,}" for number in judged))
    shares = [found.get("unverifiable") for found in results.values()]
    table.add_row("unverifiable", *("-" if share is None else f"{share:.3f}" for share in shares))
    Console().print(table)


if __name__ == "__main__":
    run_stage(evaluate, EvaluateConfig, shares=True)
