"""Which candidate answers to a problem are one answer: the classes that votes are counted by.

Two answers are one where each would be graded correct if the other were the gold answer. In both directions,
because grading is lenient in one: 529 answers a gold "512+17", but "512+17" is no answer to a gold 529.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence

from rewards import algebra
from rewards.compare import canonical_answer
from rewards.normalise import named, normalise
from rewards.number import number
from rewards.policy import DEFAULT_POLICY, Policy
from rewards.verify import compare_many

LONGEST_COMPARED = 300
"""Characters; a longer answer is equal only to one of the same canonical form."""
MOST_REPRESENTATIVES = 128
"""Spellings of a problem's answers, the first ones, that every later one is compared with."""

logger = logging.getLogger(__name__)

Pair = tuple[int, str, str]
"""(problem, spelling, later spelling)"""


def answer_classes(
    groups: Sequence[Sequence[str | None]],
    policy: Policy = DEFAULT_POLICY,
    limits: algebra.Limits = algebra.DEFAULT_LIMITS,
) -> list[list[int]]:
    """For each problem the class of each of its candidate answers: equal answers have the same number.

    Classes are numbered by their first appearance; -1 is no answer (None or empty). Answers of the same
    canonical form are one for free; the remaining spellings are compared pairwise, all problems in one batch,
    and each joins the first class whose first spelling it equals. What cannot be decided, or not in time
    (that is logged), stays apart. Never raises on any text.

    K spellings of a problem are at most K (K - 1) / 2 comparisons and at most 128 K, of 600 characters each;
    pairs of different numbers are none. The last tier takes at most `limits.batch_seconds` in all, and as
    long again for the pairs that it found equal.
    """
    keys = [[canonical_answer(answer) if answer else None for answer in group] for group in groups]
    spellings = [_first_spellings(*rows) for rows in zip(keys, groups, strict=True)]
    forward = _equal(_pairs(spellings), policy, limits)
    both = _equal([(problem, later, first) for problem, first, later in forward], policy, limits)
    equal = {(problem, first, later) for problem, later, first in both}
    return [_numbered(row, _merged(i, spellings[i], equal)) for i, row in enumerate(keys)]


def _first_spellings(keys: Sequence[str | None], answers: Sequence[str | None]) -> dict[str, str]:
    """The first answer of each canonical form."""
    spellings: dict[str, str] = {}
    for key, answer in zip(keys, answers, strict=True):
        if key is not None and answer:
            spellings.setdefault(key, answer)
    return spellings


def _pairs(problems: Sequence[dict[str, str]]) -> list[Pair]:
    """The pairs of spellings that may be equal; the earlier one is the first."""
    pairs: list[Pair] = []
    for problem, spellings in enumerate(problems):
        short = [answer for answer in spellings.values() if len(answer) <= LONGEST_COMPARED]
        values = [_plain_value(answer) for answer in short]
        for first in range(min(len(short), MOST_REPRESENTATIVES)):
            pairs += [
                (problem, short[first], short[later])
                for later in range(first + 1, len(short))
                if not _far_apart(values[first], values[later])
            ]
    return pairs


def _plain_value(answer: str) -> float:
    """About the value of an answer that is a number and no percentage; nan of any other, infinity where that
    is too large."""
    found = number(named(normalise(answer))[1])
    if found is None or found.percent:
        return math.nan
    try:
        return float(found.value)
    except OverflowError:
        return math.inf


def _far_apart(first: float, second: float) -> bool:
    """Whether neither of two numbers can be a rounding of the other, with 3 significant digits or more."""
    return abs(first - second) * 50 > max(abs(first), abs(second)) < math.inf


def _equal(pairs: Sequence[Pair], policy: Policy, limits: algebra.Limits) -> list[Pair]:
    """The pairs whose second answer is correct where the first is the gold."""
    golds, answers = [first for _, first, _ in pairs], [second for _, _, second in pairs]
    verdicts = compare_many(golds, answers, policy, limits)
    if late := sum(verdict.rule == "timeout" for verdict in verdicts):
        logger.warning(
            "%d of %d pairs of answers were not compared in time and count as different", late, len(pairs)
        )
    return [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict.outcome == "correct"]


def _merged(problem: int, spellings: dict[str, str], equal: set[Pair]) -> dict[str, str]:
    """For each canonical form that of the first spelling of its class."""
    firsts: dict[str, str] = {}
    for key, answer in spellings.items():
        representatives = (first for first, its_first in firsts.items() if first == its_first)
        joined = (first for first in representatives if (problem, spellings[first], answer) in equal)
        firsts[key] = next(joined, key)
    return firsts


def _numbered(keys: Iterable[str | None], firsts: dict[str, str]) -> list[int]:
    """Numbers of the classes by first appearance, -1 for no answer."""
    numbers = {first: place for place, first in enumerate(dict.fromkeys(firsts.values()))}
    return [-1 if key is None else numbers[firsts[key]] for key in keys]
