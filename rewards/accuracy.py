"""Reward `accuracy`: is the answer in the response the gold answer?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from data.thinking import thinking_format
from rewards.policy import DEFAULT_POLICY, EXTRACTION_RULES, Policy, parse_policy
from rewards.texts import FROM_TRAINER, Turn, graded_text, splits
from rewards.verify import Verdict, verify_many

_STATED = tuple(rule for rule in EXTRACTION_RULES if rule != "last_number")
SCORES: dict[str, float | None] = {"correct": 1.0, "wrong": 0.0, "unverifiable": None}


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A reward that needs to know whether the answer is right."""

    gold: str = "answer"
    """Dataset column with the gold answers."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags or s1: only the response behind the thinking is graded."""
    thinking_prefilled: bool = False
    """Whether the chat template has already written the thinking's opening tag."""

    policy: dict[str, Any] = field(default_factory=dict)
    """Options of rewards.policy.Policy, except that several different final answers are wrong here and that
    the last number of a text is no answer, unless it says otherwise."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        self._policy()

    def _policy(self) -> Policy:
        return parse_policy({"several_answers": "wrong", "extract": _STATED, **self.policy})

    def verdicts(self, completions: Sequence[Turn], columns: dict[str, Any]) -> list[Verdict]:
        """`grade` with the golds of column `gold`.

        Raises:
            ValueError: there is no such column.
        """
        if self.gold not in columns:
            present = ", ".join(sorted(set(columns) - set(FROM_TRAINER))) or "none"
            raise ValueError(f"gold: the dataset has no column {self.gold!r}; its columns: {present}")
        return grade(
            completions, columns[self.gold], self.thinking_format, self.thinking_prefilled, self._policy()
        )

    def row_faults(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """For each row of the dataset why this reward cannot judge it, empty where it can: no gold answer, or
        one that is not found again when a response states it."""
        golds = ["" if row.get(self.gold) is None else str(row[self.gold]) for row in rows]
        boxed = verify_many(golds, [f"\\boxed{{{gold}}}" for gold in golds], self._policy())
        faults = {
            row: f"{self.gold}: no rule reads the gold answer {golds[row][:100]!r}"
            if golds[row].strip()
            else f"{self.gold}: no gold answer"
            for row, verdict in enumerate(boxed)
            if verdict.outcome != "correct"
        }
        doubtful = [golds[row] for row in faults]  # a gold may hold its own box
        bare = verify_many(doubtful, doubtful, self._policy())
        for row, verdict in zip(list(faults), bare, strict=True):
            if verdict.outcome == "correct":
                del faults[row]
        return [faults.get(row, "") for row in range(len(rows))]


@dataclass(frozen=True, kw_only=True)
class Accuracy(Graded):
    """1 for a correct answer, 0 for a wrong one or none, None where that cannot be told.

    A completion that never finished its thinking has no answer. A row without gold (None or empty) and an
    answer that no rule decides are None. Logs the shares of both None and missing answers.
    """

    tells_right: ClassVar[bool] = True  # a reward of 1 means that the answer is right

    def __call__(self, *, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        verdicts = self.verdicts(completions, columns)
        log_metric: Callable[[str, float], None] | None = columns.get("log_metric")
        if log_metric and verdicts:
            name = getattr(self, "__name__", "accuracy")
            unverifiable = sum(v.outcome == "unverifiable" for v in verdicts)
            log_metric(f"{name}/unverifiable", unverifiable / len(verdicts))
            log_metric(f"{name}/no_answer", sum(v.rule == "no_answer" for v in verdicts) / len(verdicts))
        return [SCORES[v.outcome] for v in verdicts]


def grade(
    completions: Sequence[Turn],
    golds: Sequence[Any],
    format_name: str,
    prefilled: bool = False,
    policy: Policy = DEFAULT_POLICY,
) -> list[Verdict]:
    """Verdict on the response part of each completion.

    Several rewards that ask for the same batch, one after the other, share one verification.

    Raises:
        ValueError: a gold is neither a string nor a number nor None.
    """
    for row, gold in enumerate(golds):
        if gold is not None and not isinstance(gold, str | int | float):
            raise ValueError(f"row {row}: the gold answer is of type {type(gold).__name__}; make it a string")
    form = thinking_format(format_name)
    responses = tuple(graded_text(split, form) for split in splits(completions, format_name, prefilled))
    return list(_verify_batch(tuple("" if gold is None else str(gold) for gold in golds), responses, policy))


@lru_cache(maxsize=1)
def _verify_batch(golds: tuple[str, ...], responses: tuple[str, ...], policy: Policy) -> tuple[Verdict, ...]:
    return tuple(verify_many(golds, responses, policy))
