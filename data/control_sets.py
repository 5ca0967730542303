"""Stage `control_sets`: traces that teach a model to keep to a thinking budget that the question states.

The three kinds of arXiv 2501.19393 section 3.3: tokens, steps, and a class (short or long). Sentences and the
step marker are those of simplescaling/s1@77272c6:eval/lm-evaluation-harness (tasks/aime/utils.py,
eval/commands.sh); the builder of s1's own sets is not public.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median_low
from typing import Any, Literal

from data.schema import Attempt, Problem, Rejected, attempt_row, problem_id, rejected
from data.sources import refuse_eval_rows
from data.stage import run_stage
from data.store import read_attempts, write_attempts, write_rejected
from data.thinking import S1, S1_STEPS, ThinkingFormat, thinking_format

logger = logging.getLogger(__name__)

Kind = Literal["tokens", "steps", "class"]

TOKENS = "Think for up to {n} tokens."
STEPS = "Think for up to {n} steps."
LONG = (
    "Answer after a long amount of thinking. If you feel like you are finished early, spend the extra time "
    "trying to double-check your work until you are absolutely sure that you have the correct answer."
)
SHORT = "Answer after a short amount of thinking. Do not spend excessive time double-checking your work."
S1_MARKER = "<|im_start|>{k} steps left\n"
PLAIN_MARKER = "[{k} steps left]\n"


@dataclass(kw_only=True)
class ControlSetsConfig:
    """Which traces to extend, and with which kind of budget."""

    traces: str
    """Folder with traces.parquet (of `curate`)."""
    kind: Kind = "tokens"
    """tokens: at most N tokens. steps: at most N steps, counted down. class: short or long."""
    thinking_format: str = "s1"
    """Format in which the text is rendered; s1_steps has s1's own step tags, for kind steps."""
    bins: list[int] = field(default_factory=list)
    """Budgets that may be promised; the smallest that holds the trace is. Empty: powers of two."""
    step_marker: str | None = None
    """Text before each step, {k} being the steps left with this one; null takes that of the format."""
    tokenizer: str | None = None
    """Folder or file with a tokenizer.json that counts the thinking; null trusts the counts of the traces."""
    long_from_tokens: int | None = None
    """Shortest thinking of class long; null takes what lies above the median."""

    def __post_init__(self) -> None:
        format = thinking_format(self.thinking_format)
        if self.kind == "steps" and format is S1:
            raise ValueError("thinking_format: s1 has no steps; use s1_steps for kind steps, here and in sft")
        if self.kind != "steps" and format is S1_STEPS:
            raise ValueError(f"thinking_format: s1_steps is for kind steps; use s1 for kind {self.kind}")
        if any(size < 1 for size in self.bins):
            raise ValueError(f"bins: {min(self.bins)} is less than 1")
        if self.step_marker is not None and "{k}" not in self.step_marker:
            raise ValueError("step_marker: must contain {k}, which stands for the steps left")
        if (
            self.step_marker is not None
            and not self.step_marker.startswith(format.start)
            and format is S1_STEPS
        ):
            raise ValueError(f"step_marker: must start with {format.start!r} in s1_steps")


def control_sets(config: ControlSetsConfig, folder: Path) -> dict[str, Any]:
    """Write traces.parquet with the budget behind each question, and rejected/rows.parquet.

    The question is another one now, so its id is too; metadata keep the old id (`control_of`), `control`,
    `control_budget` and `control_length`.

    Raises:
        ValueError: no traces, a trace of role eval, no trace left.
    """
    traces = read_attempts(config.traces, "traces")
    if not traces:
        raise ValueError(f"traces: {config.traces} holds no trace")
    refuse_eval_rows((trace.problem for trace in traces), f"traces: {config.traces}")
    if config.tokenizer is not None:
        count, format = token_counter(config.tokenizer), thinking_format(config.thinking_format)
        traces = [_counted(trace, count, format) for trace in traces]
    made, dropped = extend_traces(traces, config)
    if not made:
        raise ValueError(f"traces: none is left; the first: {dropped[0].rule}: {dropped[0].evidence}")
    write_attempts(folder, made, "traces")
    write_rejected(folder, dropped)
    budgets = Counter(str(trace.problem.metadata["control_budget"]) for trace in made)
    return {
        "rows_in": len(traces),
        "rows_out": len(made),
        "rules": dict(Counter(row.rule for row in dropped)),
        "budgets": dict(budgets.most_common()),
    }


def extend_traces(
    traces: Sequence[Attempt], config: ControlSetsConfig
) -> tuple[list[Attempt], list[Rejected]]:
    """Every trace with its budget, in their order, and those that cannot have one.

    Rules: `uncounted` (kinds tokens and class need token counts), `beyond_bins`, `no_thinking`, `tags`. Token
    counts stay those of the trace without step markers.
    """
    made, dropped = [], []
    long_from = config.long_from_tokens
    if config.kind == "class" and long_from is None:
        counted = [t.completion.thinking_tokens for t in traces if t.completion.thinking_tokens]
        long_from = median_low(counted) + 1 if counted else 1
    for trace in traces:
        try:
            made.append(_extended(trace, config, long_from or 0))
        except _UnfitError as error:
            dropped.append(rejected(attempt_row(trace), error.rule, str(error)))
    return made, dropped


class _UnfitError(Exception):
    """A trace that cannot have a budget."""

    def __init__(self, rule: str, evidence: str) -> None:
        super().__init__(evidence)
        self.rule = rule


def _extended(trace: Attempt, config: ControlSetsConfig, long_from: int) -> Attempt:
    completion, format = trace.completion, thinking_format(config.thinking_format)
    steps = split_steps(completion.thinking)
    if not steps:
        raise _UnfitError("no_thinking", "the thinking is empty")
    if config.kind == "steps":
        length: int = len(steps)
        budget: int | str = _budget(length, config.bins)
        marker = config.step_marker or (S1_MARKER if format is S1_STEPS else PLAIN_MARKER)
        thinking, text = _countdown(steps, completion.response, marker, format)
    else:
        length, thinking = completion.thinking_tokens, completion.thinking
        if not length:
            raise _UnfitError("uncounted", "the thinking has no token count; set `tokenizer`")
        short_or_long = "long" if length >= long_from else "short"
        budget = _budget(length, config.bins) if config.kind == "tokens" else short_or_long
        text = _rendered(format, thinking, completion.response)
    return replace(
        trace,
        problem=extended_problem(trace.problem, config.kind, budget, length),
        completion=replace(completion, thinking=thinking, text=text),
    )


def extended_problem(problem: Problem, kind: Kind, budget: int | str, length: int) -> Problem:
    """The problem with the sentence of the budget behind its question."""
    sentences = {"short": SHORT, "long": LONG}
    template = TOKENS if kind == "tokens" else STEPS
    sentence = sentences[budget] if isinstance(budget, str) else template.format(n=budget)
    question = f"{problem.question.rstrip()} {sentence}"
    origin = {
        "control": kind,
        "control_of": problem.id,
        "control_budget": budget,
        "control_length": length,
    }
    return replace(
        problem, id=problem_id(question), question=question, metadata={**problem.metadata, **origin}
    )


def split_steps(thinking: str) -> list[str]:
    """The steps of a thinking: what blank lines separate, in order, without white space around."""
    return [step.strip() for step in re.split(r"\n[^\S\n]*\n", thinking) if step.strip()]


def round_up(length: int, bins: Sequence[int] = ()) -> int | None:
    """The smallest bin that is not smaller than `length` (>= 1), None where there is none; the smallest
    power of two where no bins are given."""
    if not bins:
        return 1 << max(length - 1, 0).bit_length()
    return min((size for size in bins if size >= length), default=None)


def _budget(length: int, bins: Sequence[int]) -> int:
    budget = round_up(length, bins)
    if budget is None:
        raise _UnfitError("beyond_bins", f"length {length} is above the largest bin, {max(bins)}")
    return budget


def _countdown(steps: Sequence[str], response: str, marker: str, format: ThinkingFormat) -> tuple[str, str]:
    """(thinking, text) in which each step follows its marker; the last has {k} = 1.

    In s1_steps the first marker opens the thinking, so the thinking goes without its `<|im_start|>`.
    """
    around = re.escape(marker.strip()).replace(re.escape("{k}"), r"\d+")
    for step in steps:
        if found := re.search(around, step):
            raise _UnfitError("tags", f"a step contains {found[0]!r}, which marks steps")
    marks = [marker.replace("{k}", str(left)) for left in range(len(steps), 0, -1)]
    gap = "\n\n"
    if format is S1_STEPS:
        _rendered(S1, "\n\n".join(steps), response)  # refuses any control token that is not of a marker
        gap = "\n"
    thinking = gap.join(mark + step for mark, step in zip(marks, steps, strict=True))
    if format is S1_STEPS:
        thinking = thinking.removeprefix(format.start)
    return thinking, _rendered(format, thinking, response)


def _rendered(format: ThinkingFormat, thinking: str, response: str) -> str:
    try:
        return format.render(thinking, response)
    except ValueError as error:
        raise _UnfitError("tags", str(error)) from error


def token_counter(path: str) -> Callable[[str], int]:
    """Counts the tokens of a text with a tokenizer.json.

    Raises:
        ValueError: no such file, or not a tokenizer.
    """
    from tokenizers import Tokenizer

    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f"tokenizer: {file} does not exist; give a folder or file with a tokenizer.json")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"tokenizer: {file} is not a tokenizer.json: {error}") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _counted(trace: Attempt, count: Callable[[str], int], format: ThinkingFormat) -> Attempt:
    thinking = trace.completion.thinking
    end = format.middle[: format.middle.index(format.end_of_thinking) + len(format.end_of_thinking)]
    tokens = count(format.start + thinking + end) if thinking.strip() else 0
    return replace(trace, completion=replace(trace.completion, thinking_tokens=tokens))


if __name__ == "__main__":
    run_stage(control_sets, ControlSetsConfig)
