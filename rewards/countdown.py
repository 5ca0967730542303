"""Reward `countdown`: an expression that makes the target out of the given numbers.

The task of TinyZero and of reasoning_gym's `countdown`. It has many right answers, so there is no gold to
compare with: an answer is parsed, its numbers are counted, and only then is it evaluated, in rational
arithmetic. Nothing is ever executed.

The rule is that of Jiayi-Pan/TinyZero@95df88f:verl/utils/reward_score/countdown.py, but for this: the answer
may stand anywhere behind the thinking, in a box too, where TinyZero reads the last line; "= 24" behind it and
LaTeX's signs are no fault; `partial` is for an expression, where TinyZero pays it for any text in answer
tags; values are exact, where TinyZero allows 1e-5.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from typing import Any, ClassVar

from data.thinking import thinking_format
from rewards.arithmetic import real_value
from rewards.expression import LONGEST_EXPRESSION, Node, parse
from rewards.expression_tokens import NotAnExpressionError
from rewards.extract import extract_answers
from rewards.normalise import normalise
from rewards.texts import FROM_TRAINER, Turn, written_text
from rewards.verify import Verdict

_STATED = ("answer_tag", "boxed", "answer_phrase", "bare_answer")
_PAID_IN_PART = ("other_value", "other_numbers", "several_answers")


@dataclass(frozen=True, kw_only=True)
class Countdown:
    """1 for an expression of + - * / and parentheses that uses the given numbers, each once, and has the
    target as its exact value; `partial` for another expression; 0 for anything else, or no answer.

    Several different answers are wrong. A completion that never finished its thinking has no answer. None
    where a row has no numbers or no target. Logs the shares of right answers, of answers that are no
    expression, and of completions without an answer.
    """

    numbers: str = "numbers"
    """Dataset column with the given numbers of each row: integers of 0 or more."""
    target: str = "target"
    """Dataset column with the integer to reach."""
    use_all: bool = True
    """Whether every given number must be used, as TinyZero and the questions of reasoning_gym ask; false:
    each at most once."""
    partial: float = 0.1
    """Paid for an expression that is wrong; below 1."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags, s1 or s1_steps: only what follows the thinking is read."""
    thinking_prefilled: bool = False
    """Whether the prompt has already written the thinking's opening tag."""

    tells_right: ClassVar[bool] = True  # a reward of 1 means that the answer is right

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        if not self.partial < 1:
            raise ValueError(f"partial: {self.partial} must be below 1, which is for a right answer")

    def __call__(self, *, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        verdicts = self.verdicts(completions, columns)
        log_metric: Callable[[str, float], None] | None = columns.get("log_metric")
        if log_metric and verdicts:
            name = getattr(self, "__name__", "countdown")
            for rule in ("right", "no_expression", "no_answer"):
                log_metric(f"{name}/{rule}", sum(v.rule == rule for v in verdicts) / len(verdicts))
        return [self._score(verdict) for verdict in verdicts]

    def verdicts(self, completions: Sequence[Turn], columns: Mapping[str, Any]) -> list[Verdict]:
        """Verdict on each completion. The rule is right, other_value, other_numbers, several_answers,
        no_expression, no_answer or no_numbers (unverifiable).

        Raises:
            ValueError: there is no column of numbers or of targets.
        """
        for key, column in (("numbers", self.numbers), ("target", self.target)):
            if column not in columns:
                present = ", ".join(sorted(set(columns) - set(FROM_TRAINER))) or "none"
                raise ValueError(f"{key}: the dataset has no column {column!r}; its columns: {present}")
        rows = zip(completions, columns[self.numbers], columns[self.target], strict=True)
        return [self._verdict(completion, numbers, target) for completion, numbers, target in rows]

    def row_faults(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """For each row of the dataset why this reward cannot judge it, empty where it can."""
        return [self._fault(row.get(self.numbers), row.get(self.target)) for row in rows]

    def _fault(self, numbers: Any, target: Any) -> str:
        if not isinstance(numbers, Sequence) or isinstance(numbers, str) or not numbers:
            return f"{self.numbers}: {numbers!r} is no list of numbers"
        if not all(_is_integer(number) and number >= 0 for number in numbers):
            return f"{self.numbers}: {list(numbers)!r} are not all integers of 0 or more"
        return "" if _is_integer(target) else f"{self.target}: {target!r} is no integer"

    def _verdict(self, completion: Turn, numbers: Any, target: Any) -> Verdict:
        if self._fault(numbers, target):
            return Verdict(outcome="unverifiable", extracted="", rule="no_numbers", seconds=0.0)
        form = thinking_format(self.thinking_format)
        text = written_text(completion, form, self.thinking_prefilled)
        split = form.split(text)
        behind = text[split.thinking_end :] if split.response else ""
        answers, _ = extract_answers(behind, _STATED)
        rule = self._rule(answers, numbers, int(target))
        outcome = "correct" if rule == "right" else "wrong"
        return Verdict(outcome=outcome, extracted=answers[-1] if answers else "", rule=rule, seconds=0.0)

    def _rule(self, answers: Sequence[str], numbers: Sequence[int], target: int) -> str:
        if not answers:
            return "no_answer"
        node, stated = read_expression(answers[-1])
        if node is None:
            return "no_expression"
        if len({"".join(answer.split()) for answer in answers}) > 1:
            return "several_answers"
        used, given = Counter(_leaves(node)), Counter(Fraction(int(number)) for number in numbers)
        if used != given and (self.use_all or not used <= given):
            return "other_numbers"
        # only now: the numbers are the given ones, so that the value cannot be too much to compute
        value = real_value(node)
        return "right" if value == target and stated in (None, target) else "other_value"

    def _score(self, verdict: Verdict) -> float | None:
        if verdict.outcome == "unverifiable":
            return None
        if verdict.outcome == "correct":
            return 1.0
        return self.partial if verdict.rule in _PAID_IN_PART else 0.0


_ELEMENTS = re.compile(r"(?:[0-9+\-*/()\[\]{} ]|\\(?:times|cdot|div|frac)(?![A-Za-z]))+")
_SIDE_BY_SIDE = re.compile(r"[0-9)\]}] ?(?:[(\[]|\\frac)|[0-9)\]] ?\{|[)\]}] ?[0-9]")
_STATED_VALUE = re.compile(r"=(-?[0-9]+)")


def read_expression(answer: str) -> tuple[Node | None, int | None]:
    """(expression, the integer that "= 24" behind it states); (None, None) where the answer is no expression
    of integers, + - * / and parentheses, is longer than LONGEST_EXPRESSION characters or too deep.

    LaTeX's signs and fractions are read too; two factors side by side, as in 2(3+4), are not.
    """
    if len(answer) > LONGEST_EXPRESSION:
        return None, None
    text, equals, right = normalise(answer).partition("=")
    stated = _STATED_VALUE.fullmatch(equals + right) if equals else None
    if (equals and not stated) or not _ELEMENTS.fullmatch(text) or _SIDE_BY_SIDE.search(text):
        return None, None
    try:
        return parse(text), int(stated[1]) if stated else None
    except NotAnExpressionError:
        return None, None


def _leaves(node: Node) -> list[Fraction]:
    """The numbers that an expression is made of."""
    return [node.value] if node.op == "num" else [leaf for part in node.parts for leaf in _leaves(part)]


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
