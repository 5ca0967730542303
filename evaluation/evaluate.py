"""Stage `evaluate`: benchmarks with intervals, every completion kept."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.schema import Attempt, Problem
from data.sources import load_problems, parse_source
from data.stage import rank, run_stage
from data.store import read_problems, write_attempts, write_rejected
from evaluation.metrics import majority_at_k, pass_at_k, summarise
from evaluation.votes import voted_answers
from inference.options import GenerationOptions
from inference.sample import attempt_metrics, draw, remove_journals
from rewards.policy import DEFAULT_POLICY, Policy, parse_policy

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class EvaluateConfig(GenerationOptions):
    """Fields of stage `evaluate`."""

    benchmarks: list[dict] = field(default_factory=list)
    """Sources by id or path; `name` in an entry is its name in the table."""
    num_completions: int = 1
    """Completions per problem; 1 with temperature 0 is greedy decoding."""
    k: list[int] = field(default_factory=lambda: [1])
    """pass@k and maj@k are reported for these k; none may exceed num_completions."""

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
    """Draw completions for every benchmark, write attempts.parquet and the table of metrics."""
    benchmarks = {
        benchmark_name(entry): load_benchmark(entry, i) for i, entry in enumerate(config.benchmarks)
    }
    unique = {problem.id: problem for problems in benchmarks.values() for problem in problems}
    attempts, bad = draw(config, list(unique.values()), config.num_completions, folder)
    if rank():
        return {}
    by_problem: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_problem[attempt.problem.id].append(attempt)
    policy = parse_policy(config.policy)
    results = {
        name: benchmark_metrics([by_problem[p.id] for p in problems], config.k, config.seed, policy)
        for name, problems in benchmarks.items()
    }
    write_attempts(folder, attempts)
    write_rejected(folder, bad)
    remove_journals(folder)
    print_table(results, config)
    headline = {f"{name} pass@1": r["pass@1"]["mean"] for name, r in results.items() if "pass@1" in r}
    return {
        **headline,
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
        return read_problems(path)[: entry.get("limit")]
    problems, bad = load_problems(parse_source(_without_name(entry), f"benchmarks[{index}]"))
    if bad:
        raise ValueError(
            f"benchmark {benchmark_name(entry)}: {len(bad)} bad rows, the first: {bad[0].rule} "
            f"({bad[0].evidence}); a benchmark with missing rows is another benchmark"
        )
    return problems


def benchmark_metrics(
    groups: Sequence[Sequence[Attempt]], ks: Sequence[int], seed: int, policy: Policy = DEFAULT_POLICY
) -> dict[str, Any]:
    """pass@k and maj@k with bootstrap intervals over problems, verdict shares and tokens.

    `groups`: the attempts of each problem; an empty group (a problem that could not be put to the model)
    counts as 0. `policy`: which answers are equal and vote together.
    """
    flat = [attempt for group in groups for attempt in group]
    results: dict[str, Any] = {"problems": len(groups), **(attempt_metrics(flat) if flat else {})}
    votes = voted_answers(groups, policy) if max(ks, default=1) > 1 else []
    for k in ks:
        passes = [_pass(group, k) for group in groups]
        results[f"pass@{k}"] = summarise(passes, seed=seed)
        if k > 1:
            results[f"maj@{k}"] = summarise(
                [_majority(group, answers, k) for group, answers in zip(groups, votes, strict=True)],
                seed=seed,
            )
    return results


def _pass(group: Sequence[Attempt], k: int) -> float:
    return pass_at_k(len(group), sum(a.verdict == "correct" for a in group), k) if group else 0.0


def _majority(group: Sequence[Attempt], answers: Sequence[str | None], k: int) -> float:
    return majority_at_k(answers, [a.verdict == "correct" for a in group], k) if group else 0.0


def print_table(results: dict[str, dict[str, Any]], config: EvaluateConfig) -> None:
    """Print one line per benchmark."""
    from rich.console import Console
    from rich.table import Table

    columns = [f"pass@{k}" for k in config.k] + [f"maj@{k}" for k in config.k if k > 1]
    how = (
        "greedy"
        if config.temperature == 0
        else f"T {config.temperature}, {config.num_completions} completions"
    )
    table = Table(title=f"{config.model_name_or_path} ({config.prompt_style}, {how}; 95 % intervals)")
    for column in ("benchmark", "problems", *columns, "unverifiable", "truncated", "thinking tokens"):
        table.add_column(column, justify="left" if column == "benchmark" else "right")
    for name, r in results.items():
        cells = [f"{r[c]['mean']:.3f} [{r[c]['low']:.3f}, {r[c]['high']:.3f}]" for c in columns]
        shares = [f"{r[key]:.3f}" for key in ("unverifiable", "truncated")]
        table.add_row(name, str(r["problems"]), *cells, *shares, f"{r['mean_thinking_tokens']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    run_stage(evaluate, EvaluateConfig)
