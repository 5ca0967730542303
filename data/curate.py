"""Stage `curate`: choose the traces to train on, by difficulty, correctness, quality and diversity."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data import filters
from data.filters import Diversity, Rule, TraceChoice, apply_rules
from data.schema import Attempt, Problem, Rejected, attempt_row, rejected
from data.sources import refuse_eval_rows
from data.stage import run_stage
from data.store import read_attempts, read_problems, table_path, write_attempts, write_rejected
from data.thinking import ThinkingFormat, thinking_format


@dataclass(kw_only=True)
class CurateConfig:
    """Where problems, attempts and traces are, and which traces to keep. Lengths are in thinking tokens."""

    problems: str
    """Folder with problems.parquet (of `collect`); traces of other problems are dropped."""
    traces: list[str]
    """Folders whose traces.parquet (else attempts.parquet) holds the candidates."""
    attempts: list[str] = field(default_factory=list)
    """Folders whose attempts.parquet measures difficulty; all of them together give one pass rate."""
    thinking_format: str = "think_tags"
    """Format in which the text of the kept traces is rendered."""
    min_pass_rate: float = 0.0
    """Lowest pass rate of a problem to keep. Problems without verdicts have no rate and are kept."""
    max_pass_rate: float = 1.0
    """Highest pass rate of a problem to keep."""
    require_correct: bool = True
    """Keep only traces whose verdict is correct."""
    drop_images: bool = True
    """Drop problems that refer to a picture (Markdown image or [asy] drawing)."""
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
    """How to draw; see `data.filters.draw`."""
    allow_fewer: bool = False
    """Accept fewer traces than `size`."""
    seed: int = 0
    """Seed of the draws; the same rows and seed give the same traces, however the rows are stored."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        if not 0 <= self.min_pass_rate <= self.max_pass_rate <= 1:
            raise ValueError(
                f"min_pass_rate {self.min_pass_rate}, max_pass_rate {self.max_pass_rate}: "
                "need 0 <= min <= max <= 1"
            )
        if self.size is not None and self.size < 1:
            raise ValueError(f"size: {self.size} is less than 1; leave it out to take all traces")
        if self.repeated_ngram_words < 1:
            raise ValueError(f"repeated_ngram_words: {self.repeated_ngram_words} is less than 1")


_REMEDIES = {
    "not_in_problems": "check that `problems:` and `traces:` belong together",
    "too_hard": "lower min_pass_rate",
    "too_easy": "raise max_pass_rate",
    "not_correct": "sample more traces or set require_correct: false",
    "truncated": "sample with a larger token limit",
    "empty_thinking": "sample with a model that thinks",
    "empty_response": "sample with a larger token limit",
    "image": "set drop_images: false",
    "tags": "choose another thinking_format",
    "repetitive": "raise max_repeated_share",
    "too_short": "lower min_thinking_tokens",
    "too_long": "raise max_thinking_tokens",
    "not_chosen": "collect more problems",
}


def curate(config: CurateConfig, folder: Path) -> dict[str, Any]:
    """Write traces.parquet, at most one trace a problem, and rejected/rows.parquet.

    Returns:
        rows_in, rows_out; `rules`: traces dropped by each rule, in order; problems without a pass rate or a
        trace; domains before and after.
    Raises:
        ValueError: a missing table, a problem of role eval, or fewer traces left than `size`.
    """
    format = thinking_format(config.thinking_format)
    problems = {problem.id: problem for problem in read_problems(config.problems)}
    refuse_eval_rows(problems.values(), f"problems: {config.problems}")
    rates = pass_rates(attempt for path in config.attempts for attempt in read_attempts(path))
    candidates = [trace for path in config.traces for trace in read_candidates(path)]
    refuse_eval_rows((trace.problem for trace in candidates), f"traces: {', '.join(config.traces)}")
    traces, dropped, counts = apply_rules(make_rules(config, problems, rates), _progress(candidates))
    chosen = filters.one_per_problem(traces, config.trace_choice, config.seed)
    counts["not_chosen"] = len(traces) - len(chosen)
    _require(config, len(candidates), len(chosen), counts)
    drawn = chosen
    if config.size is not None:
        drawn = filters.draw(chosen, config.size, config.diversity, config.seed)
        counts["not_drawn"] = len(chosen) - len(drawn)
    dropped += _left_out(
        "not_chosen", traces, chosen, f"another trace is the {config.trace_choice} of the problem"
    )
    dropped += _left_out("not_drawn", chosen, drawn, f"diversity {config.diversity}, seed {config.seed}")
    write_attempts(folder, [render(trace, format) for trace in drawn], "traces")
    write_rejected(folder, dropped)
    return {
        "rows_in": len(candidates),
        "rows_out": len(drawn),
        "rules": dict(counts),
        "problems_in": len(problems),
        "problems_without_pass_rate": sum(id not in rates for id in problems),
        "problems_without_trace": len(problems.keys() - {trace.problem.id for trace in candidates}),
        "domains_in": _domains(candidates),
        "domains_out": _domains(drawn),
    }


def pass_rates(attempts: Iterable[Attempt]) -> dict[str, float]:
    """Share of correct attempts by problem id; unverifiable attempts do not count."""
    verdicts: defaultdict[str, list[bool]] = defaultdict(list)
    for attempt in attempts:
        if attempt.verdict != "unverifiable":
            verdicts[attempt.problem.id].append(attempt.verdict == "correct")
    return {id: sum(correct) / len(correct) for id, correct in verdicts.items()}


def read_candidates(folder: str) -> list[Attempt]:
    """Candidate traces of a folder: its traces table, else its attempts table.

    Raises:
        ValueError: the folder has neither.
    """
    tables = [table for table in ("traces", "attempts") if table_path(folder, table).is_file()]
    if not tables:
        raise ValueError(f"traces: {folder} has neither traces.parquet nor attempts.parquet")
    return read_attempts(folder, tables[0])


def make_rules(
    config: CurateConfig, problems: Mapping[str, Problem], rates: Mapping[str, float]
) -> dict[str, Rule]:
    """The rules of a config by name, in the order in which they are applied."""

    def not_in_problems(trace: Attempt) -> str | None:
        return None if trace.problem.id in problems else f"its problem is not in {config.problems}"

    too_hard, too_easy = filters.outside_pass_rates(rates, config.min_pass_rate, config.max_pass_rate)
    longest = config.max_thinking_tokens
    rules: dict[str, Rule | None] = {
        "not_in_problems": not_in_problems,
        "too_hard": too_hard,
        "too_easy": too_easy,
        "not_correct": filters.not_correct if config.require_correct else None,
        "truncated": filters.truncated,
        "empty_thinking": filters.empty_thinking,
        "empty_response": filters.empty_response,
        "image": filters.image_in_question if config.drop_images else None,
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
        raise ValueError(f"traces: {', '.join(config.traces)} hold no rows")
    rule, taken = counts.most_common(1)[0]
    cause = f"rule {rule!r} took the most ({taken}): {_REMEDIES[rule]}" if taken else "collect more problems"
    fewer = f"; or set size: {left} or allow_fewer: true" if left else ""
    raise ValueError(f"{left} of {rows_in} traces are left, size asks for {wanted}; {cause}{fewer}")


def _left_out(rule: str, before: list[Attempt], after: list[Attempt], evidence: str) -> list[Rejected]:
    kept = {id(trace) for trace in after}
    return [rejected(attempt_row(trace), rule, evidence) for trace in before if id(trace) not in kept]


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
