"""Stage `curate`: choose the traces to train on, or the problems to sample, by quality, difficulty and
diversity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data import difficulty, diversity, filters
from data.audit import Audit, funnel, write_audit
from data.curate_config import CurateConfig
from data.difficulty import ALL_MODELS, Measured
from data.filters import Dropped, Rule, apply_rules
from data.progress import Progress
from data.quality import quality_rules, wrong_language
from data.schema import Attempt, Problem, attempt_from_row, written_completion
from data.sources import refuse_eval_rows
from data.stage import run_stage
from data.store import (
    iterate_rows,
    read_attempts,
    read_problems,
    table_path,
    write_attempts,
    write_problems,
    write_rejected,
)
from data.thinking import ThinkingFormat, thinking_format

_REMEDIES = {
    "not_in_problems": "check that `problems:` and `traces:` belong together",
    "too_hard": "lower min_pass_rate or the bands",
    "too_easy": "raise max_pass_rate or the bands",
    "solved": "set unsolved: false or collect harder problems",
    "unmeasured": "sample more attempts or set drop_unmeasured: false",
    "level": "add to `levels` or widen min_level and max_level",
    "no_level": "label the problems or leave out `levels`, min_level and max_level",
    "no_length": "name another length_column or leave it out",
    "not_correct": "sample more traces or set require_correct: false",
    "truncated": "sample with a larger token limit",
    "empty_thinking": "sample with a model that thinks or set require_thinking: false",
    "empty_response": "sample with a larger token limit",
    "tags": "choose another thinking_format",
    "repetitive": "raise max_repeated_share",
    "too_short": "lower min_thinking_tokens",
    "too_long": "raise max_thinking_tokens",
    "wrong_language": "change `language` or lower min_language_share",
    "not_chosen": "raise traces_per_problem or collect more problems",
}


def curate(config: CurateConfig, folder: Path) -> dict[str, Any]:
    """Write traces.parquet, at most `traces_per_problem` of a problem (or problems.parquet, where problems
    are chosen), rejected/rows.parquet, verdicts.parquet, plots and a data card.

    Returns:
        rows_in, rows_out; `funnel`: rows in, dropped and out of each rule, in order; difficulty by model;
        problems without a pass rate, a trace or a correct trace; domains before and after.
    Raises:
        ValueError: a missing table, a problem of role eval, benchmarks whose domains no candidate has, or
            fewer traces left than `size`.
    """
    problems = {problem.id: problem for problem in read_problems(config.problems)}
    refuse_eval_rows(problems.values(), f"problems: {config.problems}")
    attempts = (attempt for path in config.attempts for attempt in read_attempts(path))
    measured = difficulty.measure(attempts, problems)
    rates = measured.rates.get(ALL_MODELS, {})
    candidates = [trace for path in config.traces for trace in read_candidates(path, problems)]
    refuse_eval_rows((trace.problem for trace in candidates), f"traces: {', '.join(config.traces)}")
    if not config.traces:
        candidates = [unsampled(problem) for problem in problems.values()]
    if config.length_column:
        candidates = [_with_length(trace, config.length_column) for trace in candidates]
    weights = domain_weights(config, candidates)
    rules = make_rules(config, problems, measured)
    traces, dropped, counts = apply_rules(rules, _progress(candidates))
    chosen = diversity.some_per_problem(traces, config.trace_choice, config.seed, config.traces_per_problem)
    counts["not_chosen"] = len(traces) - len(chosen)
    uncorrect = problems.keys() - {trace.problem.id for trace in candidates if trace.verdict == "correct"}
    _require(config, candidates, len(chosen), counts, len(uncorrect))
    drawn = _draw(config, chosen, weights)
    counts["not_drawn"] = len(chosen) - len(drawn)
    better = f"another trace is the {config.trace_choice} of the problem"
    if config.traces_per_problem > 1:
        better = f"{config.traces_per_problem} {config.trace_choice} traces are taken, or one has this text"
    dropped += _left_out("not_chosen", traces, chosen, better)
    dropped += _left_out("not_drawn", chosen, drawn, f"diversity {config.diversity}, seed {config.seed}")
    _write(config, folder, drawn, dropped)
    write_audit(
        folder,
        Audit(
            candidates=candidates, kept=drawn, dropped=dropped, counts=counts, rates=rates, seed=config.seed
        ),
    )
    return {
        "rows_in": len(candidates),
        "rows_out": len(drawn),
        "funnel": funnel(len(candidates), counts),
        "difficulty": measured.metrics(problems),
        "problems_in": len(problems),
        "problems_without_pass_rate": sum(id not in rates for id in problems),
        "problems_without_trace": len(problems.keys() - {trace.problem.id for trace in candidates}),
        **({"problems_without_correct_trace": len(uncorrect)} if config.traces else {}),
        "domain_weights": weights,
        "domains_in": _domains(candidates),
        "domains_out": _domains(drawn),
    }


def unsampled(problem: Problem) -> Attempt:
    """A problem as a candidate: its solution (or question) stands for the trace that it does not have yet."""
    completion = written_completion(problem.solution or problem.question)
    return Attempt(problem=problem, index=0, completion=completion, verdict="unverifiable", extracted="")


def _with_length(trace: Attempt, column: str) -> Attempt:
    """The trace with the length in the column as its token count, where nobody counted."""
    length = difficulty.length_of(trace, column)
    if trace.completion.thinking_tokens or not length:
        return trace
    return replace(trace, completion=replace(trace.completion, thinking_tokens=int(length)))


def domain_weights(config: CurateConfig, candidates: Iterable[Attempt]) -> dict[str, float]:
    """Weights of domains: `domain_weights`, or those that `benchmark_weights` gives.

    Raises:
        ValueError: a folder without a labelled problem, or benchmarks whose domains no candidate has.
    """
    if not config.benchmark_weights:
        return config.domain_weights
    benchmarks = {folder: read_problems(folder) for folder in dict.fromkeys(config.benchmark_weights)}
    for folder, problems in benchmarks.items():
        if not any(problem.domain for problem in problems):
            raise ValueError(f"benchmark_weights: no problem of {folder} has a domain; label its domains")
    weights = diversity.benchmark_weights((benchmarks[folder], 1.0) for folder in config.benchmark_weights)
    known = {trace.problem.domain for trace in candidates}
    if known and not known & weights.keys():
        raise ValueError(
            f"benchmark_weights: no candidate has a domain of the benchmarks, such as {min(weights)!r}; "
            "label both from one taxonomy or column"
        )
    return weights


def _draw(config: CurateConfig, chosen: list[Attempt], weights: Mapping[str, float]) -> list[Attempt]:
    if config.size is None:
        return chosen
    conditions = diversity.parse_conditions(config.auto_select, "auto_select")
    return diversity.draw(
        chosen,
        config.size,
        config.diversity,
        config.seed,
        selected=diversity.auto_select(chosen, conditions)[0],
        domain_weights=weights,
        phase_one_share=config.phase_one_share,
    )


def _write(config: CurateConfig, folder: Path, drawn: list[Attempt], dropped: list[Dropped]) -> None:
    if config.traces:
        form = thinking_format(config.thinking_format)
        write_attempts(folder, [render(trace, form) for trace in drawn], "traces")
    else:
        write_problems(folder, [trace.problem for trace in drawn])
    write_rejected(folder, (row.row() for row in dropped))


def read_candidates(folder: str, problems: Mapping[str, Problem]) -> list[Attempt]:
    """Candidate traces of a folder: its traces table, else its attempts table.

    A problem that is one of `problems` is that object, so that its texts are in memory once.

    Raises:
        ValueError: the folder has neither.
    """
    tables = [table for table in ("traces", "attempts") if table_path(folder, table).is_file()]
    if not tables:
        raise ValueError(f"traces: {folder} has neither traces.parquet nor attempts.parquet")
    traces = (attempt_from_row(row) for row in iterate_rows(table_path(folder, tables[0]), tables[0]))
    return [
        replace(trace, problem=own) if (own := problems.get(trace.problem.id)) == trace.problem else trace
        for trace in traces
    ]


def make_rules(config: CurateConfig, problems: Mapping[str, Problem], measured: Measured) -> dict[str, Rule]:
    """The rules of a config by name, in the order in which they are applied."""

    def not_in_problems(trace: Attempt) -> str | None:
        return None if trace.problem.id in problems else f"its problem is not in {config.problems}"

    bands = {model: (low, high) for model, (low, high) in config.bands.items()}
    if (config.min_pass_rate, config.max_pass_rate) != (0, 1) and ALL_MODELS in measured.rates:
        bands[ALL_MODELS] = (config.min_pass_rate, config.max_pass_rate)
    rules: dict[str, Rule] = {"not_in_problems": not_in_problems}
    if config.drop_unmeasured:
        rules |= difficulty.unmeasured(measured)
    rules |= difficulty.outside_bands(measured, bands)
    if config.unsolved:
        rules |= difficulty.solved(measured)
    low, high = config.min_level, config.max_level
    if config.levels or (low, high) != (None, None):
        rules |= difficulty.outside_levels(config.levels, low, high, config.level_column)
    if config.length_column:
        shortest, longest = config.min_thinking_tokens, config.max_thinking_tokens
        rules |= difficulty.outside_lengths(shortest, longest, config.length_column)
    if config.traces:
        rules |= _trace_rules(config)
    rules |= quality_rules(name for name in config.quality if config.traces or name != "answer_only")
    if config.language:
        rules["wrong_language"] = wrong_language(config.language, config.min_language_share)
    return rules


def _trace_rules(config: CurateConfig) -> dict[str, Rule]:
    longest, elsewhere = config.max_thinking_tokens, bool(config.length_column)
    rules: dict[str, Rule | None] = {
        "not_correct": filters.not_correct if config.require_correct else None,
        "truncated": filters.truncated,
        "empty_thinking": filters.empty_thinking if config.require_thinking else None,
        "empty_response": filters.empty_response,
        "tags": filters.contains_tags(thinking_format(config.thinking_format)),
        "too_short": None if elsewhere else filters.shorter_than(config.min_thinking_tokens),
        "too_long": None if elsewhere or longest is None else filters.longer_than(longest),
        "repetitive": filters.repetitive(config.repeated_ngram_words, config.max_repeated_share),
    }
    return {name: rule for name, rule in rules.items() if rule is not None}


def _require(
    config: CurateConfig, candidates: Sequence[Attempt], left: int, counts: Counter[str], uncorrect: int
) -> None:
    """Refuse to go on with fewer traces than `size` (with none at all where it is not given).

    Args:
        uncorrect: problems without a correct trace.
    """
    rows_in, wanted = len(candidates), config.size or 1
    if left >= wanted or (left > 0 and config.allow_fewer):
        return
    if not rows_in:
        raise ValueError(f"{', '.join(config.traces) or config.problems} hold no rows")
    rule, taken = counts.most_common(1)[0]
    remedy = _REMEDIES.get(rule, "drop it from `quality`")
    cause = f"rule {rule!r} took the most ({taken}): {remedy}" if taken else "collect more problems"
    if (
        config.traces
        and config.require_correct
        and not any(trace.verdict == "correct" for trace in candidates)
    ):
        cause += f"; no trace at all is correct: {uncorrect} questions have 0 verified traces"
    fewer = f"; or set size: {left} or allow_fewer: true" if left else ""
    raise ValueError(f"{left} of {rows_in} traces are left, size asks for {wanted}; {cause}{fewer}")


def _left_out(rule: str, before: list[Attempt], after: list[Attempt], evidence: str) -> list[Dropped]:
    kept = {id(trace) for trace in after}
    return [Dropped(trace, rule, evidence) for trace in before if id(trace) not in kept]


def render(trace: Attempt, format: ThinkingFormat) -> Attempt:
    """The trace with the text of its thinking and response in this format."""
    completion = trace.completion
    text = format.render(completion.thinking, completion.response)
    return replace(trace, completion=replace(completion, text=text))


def _domains(traces: Iterable[Attempt]) -> dict[str, int]:
    return dict(Counter(trace.problem.domain or "unknown" for trace in traces).most_common())


def _progress(traces: list[Attempt]) -> Iterable[Attempt]:
    return Progress(traces, desc="curate", unit="trace", disable=not traces)


if __name__ == "__main__":
    run_stage(curate, CurateConfig)
