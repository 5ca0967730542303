"""Are two scalar expressions equal? Decided by evaluating them, not by rewriting one into the other.

Evaluation is exact, in rational arithmetic, as long as only + - * / and integer powers occur, else with 100
decimal digits. Expressions in variables are compared at fixed rational points of all signs (Schwartz-Zippel
identity testing), wherever both sides are real. Exponents, factorials and sizes are bounded.
"""

from __future__ import annotations

import math
import random
import re
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Literal

import mpmath

from rewards.expression import Node, operations, variables

LARGEST_BITS = 50_000
"""Of any exact number; a larger one is not computed."""
LARGEST_FACTORIAL = 500
POINTS = 10
"""Evaluations of expressions in variables."""
FEWEST_POINTS = 3
"""At which both sides must be defined for a verdict."""
DIGITS = 100
EXTREME = 40
"""Values are trusted as equal only where no part of them is beyond 10^40 or below 10^-40: between those, 100
digits tell apart any two different numbers that an answer can write."""

Same = Literal["same", "different", "unknown"]
Value = Any  # Fraction, or a number of the thread's mpmath context


def same(first: Node, second: Node) -> Same:
    """Whether both expressions have the same value, for all values of their variables.

    A log without a base is taken as natural and as decimal: where that matters, the answer is `unknown`.
    """
    bases = (None, 10) if "log" in operations(first) | operations(second) else (None,)
    results: set[Same] = {_same(first, second, base) for base in bases}
    return results.pop() if len(results) == 1 else "unknown"


def constant_ratio(first: Node, second: Node) -> Fraction | float | None:
    """first / second where that is the same real number, not 0, at every point; else None."""
    ratios = []
    for point in _points(first, second):
        values = [_evaluate(node, point, None)[0] for node in (first, second)]
        if all(isinstance(value, Fraction) for value in values) and values[1]:
            ratios.append(values[0] / values[1])
        elif None not in values and all(_is_real(value) and value for value in values):
            ratios.append(_context().mpf(1) * _Evaluation({}, None).divide(*map(_real, values)))
    if len(ratios) < FEWEST_POINTS or not ratios[0]:
        return None
    close = all(compare(ratio, ratios[0]) == "same" for ratio in ratios)
    return (ratios[0] if isinstance(ratios[0], Fraction) else float(ratios[0])) if close else None


def real_value(node: Node) -> Value | None:
    """Value of an expression without variables, where it is a real number."""
    if variables(node):
        return None
    value, _ = _evaluate(node, {}, None)
    if value is None or not _is_real(value):
        return None
    return _real(value)


def _same(first: Node, second: Node, log_base: int | None) -> Same:
    names = variables(first) | variables(second)
    compared = 0
    for index, point in enumerate(_points(first, second)):
        values, extremes = zip(*(_evaluate(node, point, log_base) for node in (first, second)), strict=True)
        comparable = None not in values and (index < POINTS // 2 or all(_is_real(value) for value in values))
        if not comparable:
            continue
        result = compare(*values)
        if result != "same" or any(extremes):
            return "unknown" if result == "same" else result
        compared += 1
        if not names:
            return "same"
    return "same" if compared >= FEWEST_POINTS else "unknown"


def compare(first: Value, second: Value) -> Same:
    """Exactly, or to 80 of the 100 digits; what agrees in 40 digits but not in 80 is unknown."""
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return "same" if first == second else "different"
    evaluation = _Evaluation({}, None)
    first, second = evaluation.number(first), evaluation.number(second)
    difference, size = abs(first - second), max(abs(first), abs(second))
    if difference <= size * evaluation.mp.mpf(10) ** (20 - DIGITS) or size < evaluation.mp.mpf(10) ** (
        20 - DIGITS
    ):
        return "same"
    return "different" if difference > size * evaluation.mp.mpf(10) ** -EXTREME else "unknown"


def _real(value: Value) -> Value:
    """A real number without the imaginary part that computing it may have left."""
    return value.real if isinstance(value, _context().mpc) else value


def as_float(value: Value) -> Value:
    """The number with 100 digits."""
    return _Evaluation({}, None).number(value) if isinstance(value, Fraction) else _context().mpf(value)


def _is_real(value: Value) -> bool:
    if isinstance(value, Fraction) or not isinstance(value, _context().mpc):
        return True
    return abs(value.imag) <= abs(value) * _context().mpf(10) ** (20 - DIGITS)


def _points(*nodes: Node) -> list[dict[str, Fraction]]:
    """Where to evaluate: the first half all positive, the rest with any signs."""
    names = sorted(frozenset().union(*(variables(node) for node in nodes)))
    if not names:
        return [{}]
    points = []
    for index in range(POINTS):
        numbers = [random.Random(f"{name} {index}") for name in names]
        sizes = [Fraction(number.randrange(101, 1500), 499) for number in numbers]
        signs = [1 if index < POINTS // 2 else number.choice((1, -1)) for number in numbers]
        points.append({name: size * sign for name, size, sign in zip(names, sizes, signs, strict=True)})
    return points


def _evaluate(node: Node, point: Mapping[str, Fraction], log_base: int | None) -> tuple[Value | None, bool]:
    """(value, whether a part of it is extreme); the value is None where there is none."""
    evaluation = _Evaluation(point, log_base)
    try:
        value = evaluation(node)
    except (ArithmeticError, ValueError, TypeError, NotImplementedError):  # a pole, or more than is computed
        return None, True
    return value, evaluation.extreme


class _UndefinedError(ArithmeticError):
    """Not defined here, or too large to compute."""


_local = threading.local()


def _context() -> Any:
    """mpmath context of this thread: its functions change the precision while they run."""
    if not hasattr(_local, "context"):
        _local.context = mpmath.MPContext()
        _local.context.dps = DIGITS
    return _local.context


class _Evaluation:
    def __init__(self, point: Mapping[str, Fraction], log_base: int | None) -> None:
        self.point = point
        self.log_base = log_base
        """Of a log without one; None: e."""
        self.extreme = False
        self.mp = _context()

    def __call__(self, node: Node) -> Value:
        if node.op == "num":
            return node.value
        if node.op == "var":
            return self.point[node.name]
        if node.op == "const":
            return {"pi": +self.mp.pi, "e": +self.mp.e, "i": self.mp.mpc(0, 1)}[node.name]
        parts = [self(part) for part in node.parts]
        if node.op == "apply":
            return self.unknown_function(node.name, parts[0])
        value = _EXACT[node.op](self, *parts) if node.op in _EXACT else self.function(node.op, parts)
        if not isinstance(value, Fraction):
            self.check(value)
        elif max(value.numerator.bit_length(), value.denominator.bit_length()) > LARGEST_BITS:
            raise _UndefinedError("too large")
        return value

    def check(self, value: Value) -> None:
        if not self.mp.isfinite(value):
            raise _UndefinedError("not finite")
        if value and abs(self.mp.mag(value)) > EXTREME * 3.33:
            self.extreme = True
            if abs(self.mp.mag(value)) > LARGEST_BITS:
                raise _UndefinedError("too large")

    def number(self, value: Value) -> Value:
        if isinstance(value, Fraction):
            return self.mp.mpf(value.numerator) / value.denominator
        return value

    def unknown_function(self, name: str, value: Value) -> Fraction:
        """Some number that only depends on the function's name and its argument."""
        text = str(value) if isinstance(value, Fraction) else self.mp.nstr(value, 30)
        return Fraction(random.Random(f"{name}({text})").randrange(1, 1000), 997)

    def arithmetic(self, op: Callable[[Value, Value], Value], left: Value, right: Value) -> Value:
        if not (isinstance(left, Fraction) and isinstance(right, Fraction)):
            left, right = self.number(left), self.number(right)
        return op(left, right)

    def divide(self, left: Value, right: Value) -> Value:
        if not right:
            raise _UndefinedError("division by zero")
        return self.arithmetic(lambda a, b: a / b, left, right)

    def power(self, base: Value, exponent: Value) -> Value:
        if isinstance(exponent, Fraction) and isinstance(base, Fraction) and exponent.denominator == 1:
            bits = max(base.numerator.bit_length(), base.denominator.bit_length())
            if abs(exponent) * bits > LARGEST_BITS:
                raise _UndefinedError("too large")
            if base == 0 and exponent <= 0:
                raise _UndefinedError("0 to a power that is not positive")
            return base**exponent.numerator
        if not base:
            return self.zero_power(exponent)
        if (
            isinstance(exponent, Fraction)
            and self.is_negative(base)
            and exponent.denominator % 2 == 1 < exponent.denominator
        ):
            return self.root(self.power(base, Fraction(exponent.numerator)), Fraction(exponent.denominator))
        base, exponent = self.number(base), self.number(exponent)
        if abs(exponent) * max(abs(self.mp.mag(base)), 1) > LARGEST_BITS:
            raise _UndefinedError("too large")
        return self.mp.power(base, exponent)

    def is_negative(self, value: Value) -> bool:
        return not isinstance(value, self.mp.mpc) and value < 0

    def zero_power(self, exponent: Value) -> Fraction:
        if isinstance(self.number(exponent), self.mp.mpc) or self.number(exponent) <= 0:
            raise _UndefinedError("0 to a power that is not positive")
        return Fraction(0)

    def root(self, inside: Value, degree: Value = Fraction(2)) -> Value:
        """Real root where there is one (the cube root of -8 is -2), else the principal one."""
        if not isinstance(degree, Fraction) or degree.denominator != 1 or degree <= 0:
            return self.power(inside, self.divide(Fraction(1), degree))
        if not inside:
            return Fraction(0)
        inside = self.number(inside)
        if degree.numerator % 2 and not isinstance(inside, self.mp.mpc) and inside < 0:
            return -self.mp.root(-inside, degree.numerator)
        return self.mp.root(inside, degree.numerator)

    def factorial(self, value: Value) -> Value:
        if isinstance(value, Fraction) and value.denominator == 1:
            if not 0 <= value <= LARGEST_FACTORIAL:
                raise _UndefinedError("factorial of a negative or large number")
            return Fraction(math.factorial(value.numerator))
        return self.mp.gamma(self.small(value) + 1)

    def binomial(self, n: Value, k: Value) -> Value:
        return self.mp.binomial(self.small(n), self.small(k))

    def small(self, value: Value) -> Value:
        value = self.number(value)
        if abs(value) > LARGEST_FACTORIAL:
            raise _UndefinedError("factorial of a large number")
        return value

    def logarithm(self, value: Value, base: Value | None = None) -> Value:
        if not value:
            raise _UndefinedError("logarithm of 0")
        result = self.mp.log(self.number(value))
        if base is None:
            return result
        return self.divide(result, self.mp.log(self.number(base)) if base else Fraction(0))

    def function(self, op: str, parts: list[Value]) -> Value:
        value = self.number(parts[0])
        if op == "abs":
            return abs(parts[0])
        if op in ("floor", "ceil"):
            return Fraction(int(getattr(self.mp, op)(value))) if abs(value) < 1e15 else self.too_large()
        if op == "exp":
            return self.power(+self.mp.e, value)
        if op == "log" and len(parts) == 1:
            return self.logarithm(value, Fraction(self.log_base) if self.log_base else None)
        if op in ("log", "ln"):
            return self.logarithm(*parts)
        if op == "lg":
            return self.logarithm(value, Fraction(10))
        name = re.sub("^arc", "a", op)
        if not hasattr(self.mp, name):
            raise _UndefinedError(op)
        if op.endswith("h") and abs(value) > LARGEST_BITS // 2:
            self.too_large()
        return getattr(self.mp, name)(value)

    def too_large(self) -> Value:
        raise _UndefinedError("too large")


_EXACT: dict[str, Callable[..., Value]] = {
    "neg": lambda _, a: -a,
    "add": lambda run, a, b: run.arithmetic(lambda x, y: x + y, a, b),
    "sub": lambda run, a, b: run.arithmetic(lambda x, y: x - y, a, b),
    "mul": lambda run, a, b: run.arithmetic(lambda x, y: x * y, a, b),
    "div": _Evaluation.divide,
    "pow": _Evaluation.power,
    "sqrt": _Evaluation.root,
    "root": _Evaluation.root,
    "factorial": _Evaluation.factorial,
    "binom": _Evaluation.binomial,
}
