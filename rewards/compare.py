"""Are two answers the same? Exact rules in tiers, cheapest first; no process, no time-out, no exception."""

from __future__ import annotations

import re
from functools import lru_cache

from data.schema import Outcome
from rewards.arithmetic import real_value, same
from rewards.expression import (
    NotAnExpressionError,
    is_base_digits,
    is_rational,
    is_unevaluated,
    parse,
    variables,
)
from rewards.normalise import choice, fold, is_sentence, is_words, named, normalise, number_of_sentence
from rewards.number import Number, compare_numbers, is_decimal_comma, number, rounds_to, without_unit
from rewards.policy import DEFAULT_POLICY, Policy
from rewards.real_set import is_set, real_set, same_set
from rewards.relation import compare_relations
from rewards.structure import compare_parts, shape

LONGEST_STRUCTURE = 2_000
"""Characters; a longer answer is compared by its string and as a number only."""
LONGEST_REMEMBERED = 300
"""Characters of both; the verdicts on longer answers are not kept."""
MOST_WORK = 10_000
"""Characters compared for one answer, 20 more for each pair of parts; beyond that it is `unverifiable`."""


def compare_answers(gold: str, answer: str, policy: Policy = DEFAULT_POLICY) -> tuple[Outcome, str]:
    """(outcome, rule) of two bare answers by all tiers but the last; `undecided` is for that one to
    decide."""
    if len(gold) + len(answer) <= LONGEST_REMEMBERED:
        return _remembered(gold, answer, policy)
    return _compare(gold, answer, policy)


def _compare(gold: str, answer: str, policy: Policy) -> tuple[Outcome, str]:
    gold, answer = normalise(gold), normalise(answer)
    if not gold:
        return "unverifiable", "no_gold"
    if not answer.strip("_?"):
        return "wrong", "no_answer"
    return _Comparison(policy).answers(gold, answer)


_remembered = lru_cache(maxsize=32_768)(_compare)


class _Comparison:
    """One comparison of two normalised answers and, through itself, of their parts."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.work = 0

    def answers(self, gold: str, answer: str) -> tuple[Outcome, str]:
        """The first tier that decides."""
        self.work += len(gold) + len(answer) + 20
        if self.work > MOST_WORK and gold != answer:
            return "unverifiable", "too_long"
        return (
            _texts(gold, answer)
            or _numbers(gold, answer, self.policy)
            or _sentence(gold, answer, self.policy)
            or self.parts(gold, answer)
            or ("unverifiable", "undecided")
        )

    def part(self, gold: str, answer: str) -> Outcome:
        """Outcome for two parts of structured answers."""
        return self.answers(gold, answer)[0]

    def parts(self, gold: str, answer: str) -> tuple[Outcome, str] | None:
        """Sets of real numbers, structured answers, and expressions."""
        if max(len(gold), len(answer)) > LONGEST_STRUCTURE:
            return None
        if is_set(gold) or is_set(answer):
            sets = real_set(gold), real_set(answer)
            if sets[0] is not None and sets[1] is not None:
                return ("correct" if same_set(sets[0], sets[1]) else "wrong"), "interval"
            for text, pieces, other in ((gold, sets[0], answer), (answer, sets[1], gold)):
                if pieces is not None and is_set(text) and number(other):
                    return "wrong", "interval"
        shapes = shape(gold), shape(answer)
        if "relation" in (shapes[0].kind, shapes[1].kind):
            return compare_relations(*shapes, (gold, answer), self.part)
        if shapes[0].kind == shapes[1].kind == "scalar":
            return _expressions(gold, answer, self.policy)
        return compare_parts(*shapes, self.part, self.policy)


_OPPOSITES = ({"yes", "no"}, {"true", "false"})
_INFINITY = re.compile(r"[+-]?\\infty")


def _texts(gold: str, answer: str) -> tuple[Outcome, str] | None:
    if gold == answer or fold(gold) == fold(answer):
        return "correct", "string"
    choices = choice(gold), choice(answer)
    if None not in choices:
        return "correct" if choices[0] == choices[1] else "wrong", "choice"
    if choices[0]:  # the answer may be what stands behind the letter, but not several letters
        several = len({*re.findall(r"\b[A-J]\b", answer)}) > 1
        return "wrong" if several else "unverifiable", "choice"
    if any({fold(gold), fold(answer)} == pair for pair in _OPPOSITES):
        return "wrong", "words"
    if (_INFINITY.fullmatch(gold) and number(answer)) or (_INFINITY.fullmatch(answer) and number(gold)):
        return "wrong", "number"
    words = is_words(gold), is_words(answer)
    if words[0] != words[1] and number(named(gold if words[1] else answer)[1]):
        return "wrong", "words"
    if all(words):
        first, second = fold(gold), fold(answer)
        short = len(first.split()) <= 3 >= len(second.split())
        return ("wrong" if short and first not in second and second not in first else "unverifiable"), "words"
    return None


def _numbers(gold: str, answer: str, policy: Policy) -> tuple[Outcome, str] | None:
    (gold_name, gold_value), (answer_name, answer_value) = named(gold), named(answer)
    if not gold_name or not answer_name or gold_name == answer_name:
        gold, answer = gold_value, answer_value
    if gold == answer:
        return "correct", "string"
    numbers = number(gold), number(answer)
    if numbers[0] and numbers[1]:
        return compare_numbers(numbers[0], numbers[1], policy)
    if is_base_digits(gold, answer):
        return policy.missing_base, "missing_base"
    return ("correct", "decimal_comma") if is_decimal_comma(gold, answer) else None


def _sentence(gold: str, answer: str, policy: Policy) -> tuple[Outcome, str] | None:
    """A sentence answers by the number at its end, or by the only one in it; it is never held against a
    model."""
    if not is_sentence(gold) and not is_sentence(answer):
        return None
    numbers = number(gold), number(number_of_sentence(answer))
    correct = numbers[0] and numbers[1] and compare_numbers(numbers[0], numbers[1], policy)[0] == "correct"
    return ("correct" if correct else "unverifiable"), "sentence"


def _expressions(gold: str, answer: str, policy: Policy) -> tuple[Outcome, str] | None:
    (gold, gold_unit), (answer, answer_unit) = without_unit(gold), without_unit(answer)
    if gold_unit != answer_unit and answer_unit:
        return None
    try:
        nodes = parse(gold), parse(answer)
    except NotAnExpressionError:
        return None
    result = same(*nodes)
    if result == "same":
        if gold_unit != answer_unit and policy.missing_unit != "correct":
            return policy.missing_unit, "missing_unit"
        unevaluated = is_unevaluated(nodes[1]) and not is_unevaluated(nodes[0]) and is_rational(nodes[0])
        return (policy.unevaluated, "unevaluated") if unevaluated else ("correct", "expression")
    if "." in gold + answer and (rounded := _rounded(gold, answer, policy)):
        return rounded
    if result == "unknown":
        return None
    names = variables(nodes[0]), variables(nodes[1])
    if names[0] - names[1] and names[1] - names[0]:  # other letters may mean the same quantities
        lower = same(parse(gold.lower()), parse(answer.lower())) == "same"
        return (policy.letter_case if lower else "unverifiable"), "letter_case" if lower else "letters"
    return "wrong", "expression"


def _rounded(gold: str, answer: str, policy: Policy) -> tuple[Outcome, str] | None:
    """A decimal against the value of an expression."""
    sides: tuple[tuple[Number | None, str, int, Outcome], ...] = (
        (number(gold), answer, 4, policy.rounded_gold),
        (number(answer), gold, 3, policy.decimal_approximation),
    )
    for decimal, exact, least_digits, outcome in sides:
        if decimal is None or not decimal.digits or "." in exact:
            continue
        digits = rounds_to(decimal, real_value(parse(exact)))
        if digits >= least_digits:
            return (outcome if digits < 9 else "correct"), "rounding"
    return None


def canonical_answer(answer: str) -> str:
    """Key under which equal answers are grouped in a majority vote.

    Numbers become a reduced fraction ("0.50" -> "1/2", "1,200 km" -> "1200", "50%" -> "50%"), choices their
    letter, everything else its normalised string. Units are dropped: all votes answer one question.
    """
    answer = named(normalise(answer))[1]
    value = number(answer)
    if value:
        return f"{value.value}{'%' if value.percent else ''}"
    return choice(answer) or fold(answer)
