"""Sets of real numbers, however they are written: intervals, unions, points, inequalities in one variable.

"x \\ge 2", "2 \\le x < \\infty", "[2, \\infty)" and "x \\in \\{2\\} \\cup (2, \\infty)" are one set.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from rewards.arithmetic import EXTREME, as_float, compare, real_value
from rewards.expression import NotAnExpressionError, parse
from rewards.structure import MOST_PARTS, split

_VARIABLE = re.compile(r"[A-Za-z]|\\[a-z]+")
_REALS = re.compile(r"\\mathbb\{?R\}?")
_EMPTY = {"\\emptyset", "\\varnothing", "∅", "\\{\\}"}
_FLIPPED = {"<": ">", "\\le": "\\ge", ">": "<", "\\ge": "\\le"}


@dataclass(frozen=True, slots=True)
class Piece:
    """An interval; a point is closed at both ends."""

    low: Any
    high: Any
    low_closed: bool
    high_closed: bool


_INFINITY = math.inf
_LINE = Piece(-_INFINITY, _INFINITY, False, False)
Pieces = tuple[Piece, ...]


def is_set(text: str) -> bool:
    """Whether a text that `real_set` can read is a set for certain: (1,2) may be a point, {1,2} two
    answers."""
    return not re.fullmatch(r"\([^\[\]]*\)|\\\{.*\\\}|\{.*\}|[^\\\[\](]*=.*", text) or "\\cup" in text


def real_set(text: str) -> Pieces | None:
    """The set in increasing, disjoint pieces; None where the text is something else or has a letter too
    many."""
    pieces: list[Piece] = []
    parts, _ = split(text, {"or", "\\cup", "\\lor"})
    if len(parts) > MOST_PARTS:
        return None
    names = set()
    for part in parts:
        read = _part(part)
        if read is None:
            return None
        name, own = read
        names |= {name} - {""}
        pieces += own
    return _merge(pieces) if len(names) <= 1 else None


def same_set(first: Pieces, second: Pieces) -> bool:
    """Equal pieces."""
    return len(first) == len(second) and all(
        (a.low_closed, a.high_closed) == (b.low_closed, b.high_closed)
        and _equal(a.low, b.low)
        and _equal(a.high, b.high)
        for a, b in zip(first, second, strict=True)
    )


def _part(text: str) -> tuple[str, Pieces] | None:
    """(variable, pieces) of one part of a union."""
    parts, operators = split(text, {"<", ">", "\\le", "\\ge", "=", "\\ne", "\\in"})
    if operators == ["\\in"]:
        pieces = real_set(parts[1])
        return (parts[0], pieces) if pieces is not None and _VARIABLE.fullmatch(parts[0]) else None
    if operators:
        return _inequality(parts, operators)
    whole, removed = (split(text, {"\\setminus", "\\backslash"})[0] + [""])[:2]
    pieces = _named_set(whole)
    if pieces is not None and removed:
        points = _named_set(removed)
        pieces = None if points is None else _without(pieces, points)
    return None if pieces is None else ("", pieces)


def _named_set(text: str) -> Pieces | None:
    if _REALS.fullmatch(text):
        return (_LINE,)
    if text in _EMPTY:
        return ()
    points = re.fullmatch(r"\\\{(.*)\\\}|\{(.*)\}", text)
    if points:
        values = [_value(part) for part in split(points[1] or points[2] or "", {","})[0]]
        return None if None in values else _merge([Piece(value, value, True, True) for value in values])
    if len(text) > 2 and text[0] in "([" and text[-1] in ")]":
        ends = [value for part in split(text[1:-1], {","})[0] if (value := _value(part)) is not None]
        if len(ends) == 2 and ends[0] <= ends[1] and text.count(",") == 1:
            return (Piece(ends[0], ends[1], text[0] == "[", text[-1] == "]"),)
    return None


def _inequality(parts: list[str], operators: list[str]) -> tuple[str, Pieces] | None:
    """ "x > 2", "1 < x \\le 3", "x = 5", "x \\ne 5", or the same of |x|."""
    values = [_value(part) for part in parts]
    unknown = [index for index, value in enumerate(values) if value is None]
    if len(unknown) != 1 or len(parts) > 3:
        return None
    subject = unknown[0]
    match = re.fullmatch(r"(\||)([A-Za-z]|\\[a-z]+)\1", parts[subject])
    if match is None or parts[subject] == "i":
        return None
    piece = _LINE
    for index, value in enumerate(values):
        if index == subject:
            continue
        operator = operators[index] if index < subject else operators[index - 1]
        if index == subject + 1 and operator in _FLIPPED:
            operator = _FLIPPED[operator]  # as if the number stood on the left
        narrowed = _narrow(piece, value, operator, alone=len(parts) == 2)
        if narrowed is None:
            return None
        piece = narrowed
        if operator == "\\ne":
            return match[2], _mirrored((piece,), match[1]) and _without((_LINE,), (piece,))
    return match[2], _mirrored((piece,), match[1])


def _narrow(piece: Piece, value: Any, operator: str, alone: bool) -> Piece | None:
    """The piece where `value operator x` holds."""
    if operator in ("<", "\\le"):
        return replace(piece, low=value, low_closed=operator == "\\le")
    if operator in (">", "\\ge"):
        return replace(piece, high=value, high_closed=operator == "\\ge")
    return Piece(value, value, True, True) if alone else None


def _mirrored(pieces: Pieces, bars: str) -> Pieces:
    """All x for which |x| is in the pieces."""
    if not bars:
        return pieces
    zero = as_float(0)
    positive = [
        replace(p, low=max(p.low, zero), low_closed=p.low_closed if p.low >= 0 else True)
        for p in pieces
        if p.high >= 0
    ]
    return _merge([*positive, *(Piece(-p.high, -p.low, p.high_closed, p.low_closed) for p in positive)])


def _without(pieces: Pieces, points: Pieces) -> Pieces:
    for point in points:
        if not _equal(point.low, point.high):
            return pieces
        pieces = tuple(
            part
            for piece in pieces
            for part in (
                (
                    Piece(piece.low, point.low, piece.low_closed, False),
                    Piece(point.low, piece.high, False, piece.high_closed),
                )
                if piece.low < point.low < piece.high
                else (
                    replace(
                        piece,
                        low_closed=piece.low_closed and not _equal(piece.low, point.low),
                        high_closed=piece.high_closed and not _equal(piece.high, point.low),
                    ),
                )
            )
        )
    return _merge(list(pieces))


def _merge(pieces: list[Piece]) -> Pieces:
    """Sorted, without empty pieces; overlapping and touching ones are one."""
    merged: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (piece.low, not piece.low_closed)):
        if _equal(piece.low, piece.high) and not (piece.low_closed and piece.high_closed):
            continue
        last = merged[-1] if merged else None
        touches = last is not None and _equal(last.high, piece.low) and (last.high_closed or piece.low_closed)
        if last is None or (last.high < piece.low and not touches) or not (touches or last.high > piece.low):
            merged.append(piece)
        elif _equal(last.high, piece.high):
            merged[-1] = replace(last, high_closed=last.high_closed or piece.high_closed)
        elif piece.high > last.high:
            merged[-1] = replace(last, high=piece.high, high_closed=piece.high_closed)
    return tuple(merged)


def _equal(first: Any, second: Any) -> bool:
    return first == second or (abs(first) < _INFINITY > abs(second) and compare(first, second) == "same")


def _value(text: str) -> Any | None:
    """The real number that a text writes, infinity included."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest in ("\\infty", "∞", "infty", "inf", "infinity"):
        return sign * _INFINITY
    try:
        value = real_value(parse(text))
    except NotAnExpressionError:
        return None
    return None if value is None or abs(value) > 10**EXTREME else as_float(value)
