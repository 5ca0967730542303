"""Stage `curate`: choose the traces to train on, or the problems to sample, by quality, difficulty and
diversity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data import difficulty, diversity, filters
from data.audit import Audit, funnel, write_audit
from data.difficulty import ALL_MODELS, Measured
from data.diversity import Diversity, TraceChoice
from data.filters import Dropped, Rule, apply_rules
from data.quality import DEFAULT_RULES, quality_rules, wrong_language
from data.schema import Attempt, Completion, Problem
from data.sources import refuse_eval_rows
from data.stage import run_stage
from data.store import (
    read_attempts,
    read_problems,
    table_path,
    write_attempts,
    write_problems,
    write_rejected,
)
from data.thinking import ThinkingFormat, thinking_format


@dataclass(kw_only=True)
class CurateConfig:
    """Where problems, attempts and traces are, and which traces to keep. Lengths are in thinking tokens."""

    problems: str
    """Folder with problems.parquet (of `collect`); traces of other problems are dropped."""
    traces: list[str] = field(default_factory=list)
    """Folders whose traces.parquet (else attempts.parquet) holds the candidates. Without any, problems are
    chosen instead, to be sampled later; rules on traces do not apply, and the length is that of the solution
    (of the question, where there is none)."""
    attempts: list[str] = field(default_factory=list)
    """Folders whose attempts.parquet measures difficulty."""
    thinking_format: str = "think_tags"
    """Format in which the text of the kept traces is rendered."""
    quality: list[str] = field(default_factory=lambda: list(DEFAULT_RULES))
    """Names of quality rules, in order (data/quality.py)."""
    language: str | None = None
    """Language that question and thinking must be in, for example en; null accepts any."""
    min_pass_rate: float = 0.0
    """Lowest pass rate of a problem to keep, all models together. Problems without verdicts are kept."""
    max_pass_rate: float = 1.0
    """Highest pass rate of a problem to keep."""
    bands: dict[str, list[float]] = field(default_factory=dict)
    """Lowest and highest pass rate for single models: {Qwen/Qwen2.5-7B-Instruct: [0, 0.5]}."""
    unsolved: bool = False
    """Keep only problems that no model solves, as s1 does."""
    levels: list[str] = field(default_factory=list)
    """Levels of the problems to keep; without any, all."""
    level_column: str = "level"
    """Where the level is: `level`, or a column of the metadata."""
    require_correct: bool = True
    """Keep only traces whose verdict is correct."""
    min_thinking_tokens: int = 0
    """Shortest thinking to keep; counted in words where the trace has no token count."""
    max_thinking_tokens: int | None = None
    """Longest thinking to keep; null keeps all."""
    repeated_ngram_words: int = 10
    """Length of the word runs whose repetition is measured."""
    max_repeated_share: float = 0.5
    """Drop traces in which a larger share of these runs is a repeat; 1 keeps all."""
    trace_choice: TraceChoice = "first"
    """Which of a problem's remaining traces to take."""
    size: int | None = None
    """Traces to draw; null takes all."""
    diversity: Diversity = "s1"
    """How to draw; see `data.diversity.draw`."""
    auto_select: list[dict] = field(default_factory=list)
    """Traces to take before drawing: {source: *aime*, min_thinking_tokens: 0, require_correct: true} each."""
    domain_weights: dict[str, float] = field(default_factory=dict)
    """Weights of domains in the second phase of the draw, for example their counts in a benchmark."""
    phase_one_share: float = 0.7
    """Share of `size` until which domains are drawn uniformly, where there are domain_weights."""
    allow_fewer: bool = False
    """Accept fewer traces than `size`."""
    seed: int = 0
    """Seed of the draws; the same rows and seed give the same traces, however the rows are stored."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        quality_rules(self.quality)
        diversity.parse_conditions(self.auto_select, "auto_select")
        if not 0 <= self.min_pass_rate <= self.max_pass_rate <= 1:
            raise ValueError(
                f"min_pass_rate {self.min_pass_rate}, max_pass_rate {self.max_pass_rate}: "
                "need 0 <= min <= max <= 1"
            )
        for model, band in self.bands.items():
            if len(band) != 2:
                raise ValueError(f"bands: {model}: {band} is not [lowest, highest]")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size: {self.size} is less than 1; leave it out to take all traces")
        if self.repeated_ngram_words < 1:
            raise ValueError(f"repeated_ngram_words: {self.repeated_ngram_words} is less than 1")


_REMEDIES = {
    "not_in_problems": "check that `problems:` and `traces:` belong together",
    "too_hard": "lower min_pass_rate or the bands",
    "too_easy": "raise max_pass_rate or the bands",
    "solved": "set unsolved: false or collect harder problems",
    "level": "add to `levels`",
    "no_level": "label the problems or leave out `levels`",
    "not_correct": "sample more traces or set require_correct: false",
    "truncated": "sample with a larger token limit",
    "empty_thinking": "sample with a model that thinks",
    "empty_response": "sample with a larger token limit",
    "tags": "choose another thinking_format",
    "repetitive": "raise max_repeated_share",
    "too_short": "lower min_thinking_tokens",
    "too_long": "raise max_thinking_tokens",
    "wrong_language": "change `language`",
    "not_chosen": "collect more problems",
}


def curate(config: CurateConfig, folder: Path) -> dict[str, Any]:
    """Write traces.parquet, at most one trace a problem (or problems.parquet, where problems are chosen),
    rejected/rows.parquet, verdicts.parquet, plots and a data card.

    Returns:
        rows_in, rows_out; `funnel`: rows in, dropped and out of each rule, in order; difficulty by model;
        problems without a pass rate or a trace; domains before and after.
    Raises:
        ValueError: a missing table, a problem of role eval, or fewer traces left than `size`.
    """
    problems = {problem.id: problem for problem in read_problems(config.problems)}
    refuse_eval_rows(problems.values(), f"problems: {config.problems}")
    attempts = (attempt for path in config.attempts for attempt in read_attempts(path))
    measured = difficulty.measure(attempts, problems)
    rates = measured.rates.get(ALL_MODELS, {})
    candidates = [trace for path in config.traces for trace in read_candidates(path)]
    refuse_eval_rows((trace.problem for trace in candidates), f"traces: {', '.join(config.traces)}")
    if not config.traces:
        candidates = [_unsampled(problem) for problem in problems.values()]
    rules = make_rules(config, problems, measured)
    traces, dropped, counts = apply_rules(rules, _progress(candidates))
    chosen = diversity.one_per_problem(traces, config.trace_choice, config.seed)
    counts["not_chosen"] = len(traces) - len(chosen)
    _require(config, len(candidates), len(chosen), counts)
    drawn = _draw(config, chosen)
    counts["not_drawn"] = len(chosen) - len(drawn)
    dropped += _left_out(
        "not_chosen", traces, chosen, f"another trace is the {config.trace_choice} of the problem"
    )
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
        "domains_in": _domains(candidates),
        "domains_out": _domains(drawn),
    }


def _unsampled(problem: Problem) -> Attempt:
    """A problem as a candidate: its solution (or question) stands for the trace that it does not have yet."""
    completion = Completion(
        text="",
        thinking=problem.solution or problem.question,
        response="",
        finish_reason="stop",
        prompt_tokens=0,
        thinking_tokens=0,
        completion_tokens=0,
        model="",
        seed=0,
    )
    return Attempt(problem=problem, index=0, completion=completion, verdict="unverifiable", extracted="")


def _draw(config: CurateConfig, chosen: list[Attempt]) -> list[Attempt]:
    if config.size is None:
        return chosen
    conditions = diversity.parse_conditions(config.auto_select, "auto_select")
    return diversity.draw(
        chosen,
        config.size,
        config.diversity,
        config.seed,
        selected=diversity.auto_select(chosen, conditions)[0],
        domain_weights=config.domain_weights,
        phase_one_share=config.phase_one_share,
    )


def _write(config: CurateConfig, folder: Path, drawn: list[Attempt], dropped: list[Dropped]) -> None:
    if config.traces:
        form = thinking_format(config.thinking_format)
        write_attempts(folder, [render(trace, form) for trace in drawn], "traces")
    else:
        write_problems(folder, [trace.problem for trace in drawn])
    write_rejected(folder, (row.row() for row in dropped))


def read_candidates(folder: str) -> list[Attempt]:
    """Candidate traces of a folder: its traces table, else its attempts table.

    Raises:
        ValueError: the folder has neither.
    """
    tables = [table for table in ("traces", "attempts") if table_path(folder, table).is_file()]
    if not tables:
        raise ValueError(f"traces: {folder} has neither traces.parquet nor attempts.parquet")
    return read_attempts(folder, tables[0])


def make_rules(config: CurateConfig, problems: Mapping[str, Problem], measured: Measured) -> dict[str, Rule]:
    """The rules of a config by name, in the order in which they are applied."""

    def not_in_problems(trace: Attempt) -> str | None:
        return None if trace.problem.id in problems else f"its problem is not in {config.problems}"

    bands = {model: (low, high) for model, (low, high) in config.bands.items()}
    if (config.min_pass_rate, config.max_pass_rate) != (0, 1) and ALL_MODELS in measured.rates:
        bands[ALL_MODELS] = (config.min_pass_rate, config.max_pass_rate)
    rules: dict[str, Rule] = {"not_in_problems": not_in_problems}
    rules |= difficulty.outside_bands(measured, bands)
    if config.unsolved:
        rules |= difficulty.solved(measured)
    if config.levels:
        rules |= difficulty.outside_levels(config.levels, column=config.level_column)
    if config.traces:
        rules |= _trace_rules(config)
    rules |= quality_rules(name for name in config.quality if config.traces or name != "answer_only")
    if config.language:
        rules["wrong_language"] = wrong_language(config.language)
    return rules


def _trace_rules(config: CurateConfig) -> dict[str, Rule]:
    longest = config.max_thinking_tokens
    rules: dict[str, Rule | None] = {
        "not_correct": filters.not_correct if config.require_correct else None,
        "truncated": filters.truncated,
        "empty_thinking": filters.empty_thinking,
        "empty_response": filters.empty_response,
        "tags": filters.contains_tags(thinking_format(config.thinking_format)),
        "too_short": filters.shorter_than(config.min_thinking_tokens),
        "too_long": filters.longer_than(longest) if longest is not None else None,
        "repetitive": filters.repetitive(config.repeated_ngram_words, config.max_repeated_share),
    }
    return {name: rule for name, rule in rules.items() if rule is not None}


def _require(config: CurateConfig, rows_in: int, left: int, counts: Counter[str]) -> None:
    """Refuse to go on with fewer traces than `size` (with none at all where it is not given)."""
    wanted = config.size or 1
    if left >= wanted or (left > 0 and config.allow_fewer):
        return
    if not rows_in:
        raise ValueError(f"{', '.join(config.traces) or config.problems} hold no rows")
    rule, taken = counts.most_common(1)[0]
    remedy = _REMEDIES.get(rule, "drop it from `quality`")
    cause = f"rule {rule!r} took the most ({taken}): {remedy}" if taken else "collect more problems"
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
    from tqdm import tqdm

    return tqdm(traces, desc="curate", disable=not traces)


if __name__ == "__main__":
    run_stage(curate, CurateConfig)
