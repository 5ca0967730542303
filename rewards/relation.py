"""Equations and inequalities: what they assign, and when two of them say the same."""

from __future__ import annotations

import re

from data.schema import Outcome
from rewards.arithmetic import constant_ratio
from rewards.expression import Node, NotAnExpressionError, parse, variables
from rewards.structure import Equal, Shape, is_name

_EQUALS = {"=", "\\approx", "\\equiv", "\\sim"}
_DIRECTION = {
    "=": ("=", 1),
    "\\ne": ("\\ne", 1),
    ">": (">", 1),
    "<": (">", -1),
    "\\ge": ("\\ge", 1),
    "\\le": ("\\ge", -1),
}
_FUNCTION = re.compile(r"([A-Za-z])\(([a-z])\)")


def compare_relations(
    gold: Shape, answer: Shape, texts: tuple[str, str], equal: Equal
) -> tuple[Outcome, str] | None:
    """(outcome, rule) where at least one side is a relation; None where these rules do not decide.

    A quantity's value alone answers for the equation that assigns it ("5" for "x = 5"), and an equation
    answers for the value at its end ("2+2 = 4" for "4"). Two equations or inequalities say the same when the
    difference of the sides of one is a constant multiple of the other's.
    """
    decided = _compare_relations(gold, answer, texts, equal)
    return None if decided == ("unverifiable", "assignment") else decided


def _compare_relations(
    gold: Shape, answer: Shape, texts: tuple[str, str], equal: Equal
) -> tuple[Outcome, str] | None:
    value, other = (assigned(shape) if shape.kind == "relation" else None for shape in (gold, answer))
    if gold.kind == answer.kind == "relation":
        if value is not None and other is not None:
            other = _comparable(gold.parts[0], answer.parts[0], other)
            if other is not None:
                return equal(value, other), "assignment"
        return _same_relation(gold, answer)
    if gold.kind == "relation":
        return (equal(value, texts[1]), "assignment") if value is not None else None
    other = other if other is not None else _result(answer)
    return (equal(texts[0], other), "assignment") if other is not None else None


def _comparable(gold_name: str, answer_name: str, value: str) -> str | None:
    """The answer's value in the gold's letters: f(y) = y+1 is f(x) = x+1. None for two different names."""
    if gold_name == answer_name or not (is_name(gold_name) and is_name(answer_name)):
        return value
    gold, answer = _FUNCTION.fullmatch(gold_name), _FUNCTION.fullmatch(answer_name)
    if gold and answer and gold[1] == answer[1]:
        return re.sub(rf"(?<![A-Za-z\\]){answer[2]}(?![A-Za-z])", gold[2], value)
    return None


def assigned(relation: Shape) -> str | None:
    """Value that a chain of equalities gives to the quantity at its begin: a name, or an expression of
    numbers.

    A rounded value at the end counts only where no exact one stands before it.
    """
    if not {*relation.marks} <= _EQUALS:
        return None
    value = _last_exact(relation)
    numbers_only = _is_constant(relation.parts[0]) and _is_constant(value)
    return value if numbers_only or is_name(relation.parts[0]) else None


def _result(relation: Shape) -> str | None:
    """Constant at the end of an equation whose left side is an expression: 81 of "(x+y)^2 = 81", but 0 of
    none."""
    if not {*relation.marks} <= _EQUALS:
        return None
    value = _last_exact(relation)
    return value if _is_constant(value) and value != "0" else None


def _last_exact(relation: Shape) -> str:
    exact = [part for part, mark in zip(relation.parts[1:], relation.marks, strict=True) if mark == "="]
    return exact[-1] if exact else relation.parts[-1]


def _is_constant(text: str) -> bool:
    try:
        return not variables(parse(text))
    except NotAnExpressionError:
        return False


def _same_relation(gold: Shape, answer: Shape) -> tuple[Outcome, str] | None:
    if len(gold.parts) != 2 or len(answer.parts) != 2:
        return None
    first, second = _DIRECTION.get(gold.marks[0]), _DIRECTION.get(answer.marks[0])
    if first is None or second is None:
        return None
    try:
        ratio = constant_ratio(_difference(gold, first[1]), _difference(answer, second[1]))
    except NotAnExpressionError:
        return None
    if ratio is None:  # they may still have the same solutions
        return "unverifiable", "relation"
    same = first[0] == second[0] and (first[0] in ("=", "\\ne") or ratio > 0)
    return ("correct" if same else "wrong"), "relation"


def _difference(relation: Shape, sign: int) -> Node:
    """Left side minus right side, or the other way round."""
    sides = [parse(part) for part in relation.parts]
    return Node("sub", tuple(sides if sign > 0 else reversed(sides)))
