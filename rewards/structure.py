"""Answers of several parts: lists, sets, tuples, intervals, matrices, equations, inequalities, ratios,
plus-minus.

An answer's text is taken apart at its top level; the parts are compared by whoever calls, usually
`rewards.verify.compare_answers` itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from data.schema import Outcome
from rewards.policy import Policy

MOST_PARTS = 100
"""An answer of more parts is not taken apart."""

Kind = Literal["list", "set", "tuple", "matrix", "relation", "ratio", "scalar"]
Equal = Callable[[str, str], Outcome]


@dataclass(frozen=True, slots=True)
class Shape:
    """An answer taken apart once."""

    kind: Kind
    parts: tuple[str, ...]
    marks: tuple[str, ...] = ()
    """The brackets of a tuple, the operators of a relation, the rows and columns of a matrix."""


_TOKEN = re.compile(
    r"\\(?:begin|end)\s*\{[a-z]*\*?\}|\\[A-Za-z]+|\\.|[(){}\[\]|]|,|;|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|[=<>:&]|.",
    re.DOTALL,
)
_OPEN = {"(", "[", "{", "\\{", "\\lfloor", "\\lceil", "\\langle"}
_CLOSE = {")", "]", "}", "\\}", "\\rfloor", "\\rceil", "\\rangle"}
_RELATIONS = {"=", "<", ">", "\\le", "\\ge", "\\ne", "\\neq", "\\in", "\\approx", "\\equiv", "\\sim"}
_LIST = {",", ";", "and", "or", "\\text", "\\cup"}
_MATRIX = re.compile(r"\\begin\{((?:|p|b|B|small)matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_QUANTIFIER = re.compile(
    r"(?:,| |(?<=\}))*(?:\bfor (?:all |any |some |every |each )?(?:integers? )?)?"
    r"[a-z]\\in ?\\mathbb\{?[ZN]\}?$"
    r"|[, ]*\bfor (?:all|any|some|every|each) integers? [a-z]$"
)


def split(text: str, separators: set[str]) -> tuple[list[str], list[str]]:
    """(parts, separators between them) at depth 0 of all brackets.

    An open interval's brackets need not match: "[1,2)" is one bracket. Unbalanced text has one part.
    """
    parts, found, depth, begin = [], [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in _OPEN or token.startswith("\\begin"):
            depth += 1
        elif token in _CLOSE or token.startswith("\\end"):
            depth -= 1
            if depth < 0:
                return [text], []
        elif depth == 0 and token in separators:
            parts.append(text[begin : match.start()].strip())
            found.append(token)
            begin = match.end()
    if depth:
        return [text], []
    return [*parts, text[begin:].strip()], found


def shape(text: str) -> Shape:
    """What a normalised answer consists of; anything unknown is a scalar."""
    text = _QUANTIFIER.sub("", text) or text
    parts, _ = split(text, {",", ";", "and", "or"})
    parts = [part for part in parts if part]
    if len(parts) > MOST_PARTS:
        return Shape("scalar", (text,))
    if len(parts) > 1:
        return Shape("list", tuple(_with_common_name(parts)))
    text = parts[0] if parts else text
    if match := _MATRIX.fullmatch(text):
        return _matrix(match[2])
    if relation := _relation(text):
        return relation
    if bracketed := _bracketed(text):
        return bracketed
    ratio, _ = split(text, {":"})
    if len(ratio) > 1 and all(ratio):
        return Shape("ratio", tuple(ratio))
    if text.count("\\pm") == 1 and not text.count("\\mp"):
        return Shape("list", (text.replace("\\pm", "+").removeprefix("+"), text.replace("\\pm", "-")))
    return Shape("scalar", (text,))


def _matrix(inside: str) -> Shape:
    rows = [[cell.strip() for cell in row.split("&")] for row in re.split(r"\\\\", inside) if row.strip()]
    if not rows or len({len(row) for row in rows}) != 1 or len(rows) * len(rows[0]) > MOST_PARTS:
        return Shape("scalar", (inside,))
    cells = tuple(cell for row in rows for cell in row)
    return Shape("matrix", cells, (str(len(rows)), str(len(rows[0]))))


def _relation(text: str) -> Shape | None:
    """An equation or inequality, or a chain of them; a tuple of names that equals a tuple is a list of
    equations."""
    parts, operators = split(text, _RELATIONS)
    if not operators or not all(parts):
        return None
    left, right = (_bracketed(part) for part in parts) if operators == ["="] else (None, None)
    tuples = left and right and left.kind == right.kind == "tuple" and len(left.parts) == len(right.parts)
    if left and right and tuples and all(is_name(name) for name in left.parts):
        pairs = zip(left.parts, right.parts, strict=True)
        return Shape("list", tuple(f"{name}={value}" for name, value in pairs))
    return Shape("relation", tuple(parts), tuple(operators))


def _bracketed(text: str) -> Shape | None:
    """A set in braces, or a tuple of at least two parts in any brackets."""
    braces: tuple[tuple[str, str, Kind], ...] = (("\\{", "\\}", "set"), ("{", "}", "list"))
    for opening, closing, kind in braces:
        if text.startswith(opening) and text.endswith(closing):
            parts, _ = split(text[len(opening) : -len(closing)], {",", ";"})
            if kind == "set" or len(parts) > 1:
                return Shape(kind, tuple(part for part in parts if part))
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]":
        parts, _ = split(text[1:-1], {",", ";"})
        if len(parts) > 1:
            return Shape("tuple", tuple(parts), (text[0], text[-1]))
    return None


def _with_common_name(parts: list[str]) -> list[str]:
    """ "x=1,2" means that x is 1 or 2: the name of the first part goes."""
    name, equals, value = parts[0].partition("=")
    if equals and is_name(name) and not any("=" in part for part in parts[1:]):
        return [value, *parts[1:]]
    return parts


_LETTER = r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?'*"
_NAME = re.compile(
    rf"{_LETTER}(?:\([^()=]{{1,20}}\))?"  # x, a_1, f(x), I(6,3)
    r"|\|[A-Z]{2}\||\\(?:overline|angle)\{?[A-Z]{2,3}\}?|[A-Z]{2,3}"  # |AB|, a segment, an angle, an area ABC
    rf"|\\(?:sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan)\(?(?:{_LETTER}|[A-Z]{{1,3}})\)?"
    rf"|(?:{_LETTER}|[A-Z]{{2}})[:/](?:{_LETTER}|[A-Z]{{2}})"
    rf"|\\frac\{{(?:{_LETTER}|[A-Z]{{2}})\}}\{{(?:{_LETTER}|[A-Z]{{2}})\}}"
    r"|\\text\{[^{}]*\}|[A-Za-z]{3,}(?: [A-Za-z]+)*"
)


def is_name(text: str) -> bool:
    """Whether the left side of an equation only names a quantity: x, f(x), |AB|, \\frac{AB}{CD}, area."""
    return _NAME.fullmatch(text) is not None


def compare_parts(gold: Shape, answer: Shape, equal: Equal, policy: Policy) -> tuple[Outcome, str] | None:
    """(outcome, rule) for two collections, matrices or ratios; None where these rules do not decide."""
    decided = _compare_parts(gold, answer, equal, policy)
    undecided_part = decided and decided[0] == "unverifiable" and decided[1] in (gold.kind, answer.kind)
    return None if undecided_part else decided


def _compare_parts(gold: Shape, answer: Shape, equal: Equal, policy: Policy) -> tuple[Outcome, str] | None:
    kinds = gold.kind, answer.kind
    if kinds == ("matrix", "matrix"):
        if gold.marks != answer.marks:
            return "wrong", "matrix"
        return _in_order(gold.parts, answer.parts, equal), "matrix"
    if "matrix" in kinds:
        return "unverifiable", "shape"
    if "ratio" in kinds and {*kinds} <= {"ratio", "scalar"}:
        quotients = _quotients(gold), _quotients(answer)
        return _in_order(*quotients, equal), "ratio"
    if not {*kinds} <= {"list", "set", "tuple"}:
        if {"list", "set", "tuple"} & {*kinds} and "scalar" in kinds:
            several = gold if gold.kind != "scalar" else answer
            return ("wrong", several.kind) if len(several.parts) > 1 else None
        return None
    if {*kinds} == {"tuple", "set"}:
        return "wrong", "tuple"
    if "tuple" in kinds:
        return _tuples(gold, answer, equal, policy)
    if "set" in kinds:
        return _any_order(gold.parts, answer.parts, equal), "set"
    return _lists(gold, answer, equal, policy)


def _quotients(shape: Shape) -> tuple[str, ...]:
    """ "a:b:c" as b/a and c/a; a fraction is the ratio of its parts."""
    if shape.kind == "scalar":
        return (f"\\frac{{1}}{{{shape.parts[0]}}}",)
    first, *others = shape.parts
    return tuple(f"\\frac{{{other}}}{{{first}}}" for other in others)


def _tuples(gold: Shape, answer: Shape, equal: Equal, policy: Policy) -> tuple[Outcome, str]:
    outcome = _in_order(gold.parts, answer.parts, equal)
    if gold.kind == answer.kind:
        if (
            gold.marks != answer.marks and len(gold.parts) == 2
        ):  # an interval is neither a point nor another one
            return "wrong", "interval"
        return outcome, "tuple"
    if outcome != "correct":
        return outcome, "tuple"
    marks = gold.marks or answer.marks
    return (policy.missing_brackets if marks == ("(", ")") else "unverifiable"), "missing_brackets"


def _lists(gold: Shape, answer: Shape, equal: Equal, policy: Policy) -> tuple[Outcome, str]:
    ordered = _in_order(gold.parts, answer.parts, equal)
    names = [{part.partition("=")[0] for part in shape.parts if "=" in part} for shape in (gold, answer)]
    if ordered == "correct" or bool(names[0]) != bool(names[1]):  # values without their names keep the order
        return ordered, "list"
    outcome = _any_order(gold.parts, answer.parts, equal)
    return (policy.list_order, "list_order") if outcome == "correct" else (outcome, "list")


def _in_order(gold: Sequence[str], answer: Sequence[str], equal: Equal) -> Outcome:
    if len(gold) != len(answer):
        return "wrong"
    outcome: Outcome = "correct"
    for first, second in zip(gold, answer, strict=True):
        match equal(first, second):
            case "wrong":
                return "wrong"
            case "unverifiable":
                outcome = "unverifiable"
    return outcome


def _any_order(gold: Sequence[str], answer: Sequence[str], equal: Equal) -> Outcome:
    """Each member of one side has an equal on the other. Repeated members of the answer must be repeated
    too."""
    if len(gold) != len(answer):
        gold, answer = tuple(dict.fromkeys(gold)), tuple(dict.fromkeys(answer))
        if len(gold) != len(answer):
            return "wrong"
    left = list(answer)
    outcome: Outcome = "correct"
    for first in gold:
        results = {second: equal(first, second) for second in left}
        found = next((second for second, result in results.items() if result == "correct"), None)
        if found is not None:
            left.remove(found)
        elif "unverifiable" in results.values():
            outcome = "unverifiable"
        else:
            return "wrong"
    return outcome
