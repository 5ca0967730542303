"""Parsing scalar expressions, in LaTeX or plain text, by recursive descent: linear in their length."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rewards.expression_tokens import ALIASES, FUNCTIONS, GREEK, NotAnExpressionError, tokens_of

LONGEST_EXPRESSION = 500
"""Characters; a longer one is not parsed."""
DEEPEST_NESTING = 60


@dataclass(frozen=True, slots=True)
class Node:
    """An operation on its parts, or a leaf: `num` (value), `var` (name), `const` (pi, e, i)."""

    op: str
    parts: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction = Fraction(0)


# ---------------------------------------------------------------- parsing

_PRODUCTS = {"*", "\\cdot", "\\times", "\\ast"}
_QUOTIENTS = {"/", "\\div"}
_CLOSING = {"(": ")", "[": "]", "{": "}", "\\lfloor": "\\rfloor", "\\lceil": "\\rceil", "\\lvert": "\\rvert"}
_OPAQUE = re.compile("[fghFGH]")  # these letters before a bracket are functions
_END = ""


@lru_cache(maxsize=4096)
def parse(text: str) -> Node:
    """The expression that a normalised answer writes.

    Raises:
        NotAnExpressionError: it is something else, or too long or too deep.
    """
    if len(text) > LONGEST_EXPRESSION:
        raise NotAnExpressionError("too long")
    parser = _Parser(tokens_of(text))
    node = parser.sum()
    if parser.token != _END:
        raise NotAnExpressionError(f"unexpected {parser.token!r}")
    return node


class _Parser:
    """Recursive descent over the tokens. One method per level of precedence."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0
        """Open absolute values: inside one, a bar closes it."""

    @property
    def token(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else _END

    def take(self) -> str:
        token = self.token
        self.position += 1
        return token

    def expect(self, token: str) -> None:
        if self.take() != token:
            raise NotAnExpressionError(f"missing {token!r}")

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST_NESTING:
            raise NotAnExpressionError("too deep")
        node = self.signed()
        while self.token in ("+", "-"):
            op = "add" if self.take() == "+" else "sub"
            node = Node(op, (node, self.product()))
        self.depth -= 1
        return node

    def signed(self) -> Node:
        if self.token == "-":
            self.take()
            return Node("neg", (self.product(),))
        if self.token == "+":
            self.take()
        return self.product()

    def product(self) -> Node:
        node = self.power()
        while True:
            if self.token in _PRODUCTS:
                self.take()
                node = Node("mul", (node, self.factor()))
            elif self.token in _QUOTIENTS:
                self.take()
                node = Node("div", (node, self.factor()))
            elif self.begins_atom():
                node = self.beside(node)
            else:
                return node

    def factor(self) -> Node:
        """What follows an explicit operator: may have a sign, as in "2*-3"."""
        if self.token in ("-", "+"):
            return Node("neg", (self.power(),)) if self.take() == "-" else self.power()
        return self.power()

    def beside(self, left: Node) -> Node:
        """Implicit product, or the mixed number of an integer and a proper fraction."""
        is_fraction = self.token in ("\\frac",)
        if self.token[0].isdigit() and left.op == "num":
            raise NotAnExpressionError("two numbers beside each other")
        right = self.power()
        if is_fraction and left.op == "num" and left.value.denominator == 1 and right.op == "div":
            top, bottom = right.parts
            if top.op == bottom.op == "num" and 0 < top.value < bottom.value:
                return Node("add", (left, right))
        return Node("mul", (left, right))

    def begins_atom(self) -> bool:
        token = self.token
        if token == "|" or token == "\\|":
            return not self.bars
        return token not in (_END, "+", "-", "^", "_", "!", "'", ")", "]", "}", *_CLOSING.values())

    def power(self) -> Node:
        node = self.atom()
        while self.token in ("^", "!"):
            is_factorial = self.take() == "!"
            node = Node("factorial", (node,)) if is_factorial else Node("pow", (node, self.script()))
        return node

    def script(self) -> Node:
        """What stands in an exponent: a group, or one signed number, letter or command."""
        if self.token == "{":
            return self.group()
        if self.token == "-":
            self.take()
            return Node("neg", (self.atom(),))
        return self.atom()

    def group(self) -> Node:
        opening = self.take()
        bars, self.bars = self.bars, 0
        node = self.sum()
        self.bars = bars
        self.expect(_CLOSING[opening])
        return node

    def atom(self) -> Node:
        token = self.token
        if token in ("(", "[", "{"):
            return self.group()
        if token in ("\\lfloor", "\\lceil", "\\lvert"):
            return Node({"\\lfloor": "floor", "\\lceil": "ceil", "\\lvert": "abs"}[token], (self.group(),))
        self.take()
        if token in ("|", "\\|"):
            self.bars += 1
            node = self.sum()
            self.bars -= 1
            self.expect(token)
            return Node("abs", (node,))
        if token == _END:
            raise NotAnExpressionError("ends too early")
        if token[0].isdigit() or token[0] == ".":
            return self.number(token)
        if token == "√":
            return Node("sqrt", (self.atom(),))
        name = token.removeprefix("\\")
        name = ALIASES.get(name, name)
        if token.startswith("\\") and (name in ("frac", "binom", "sqrt", "mathrm") or name in FUNCTIONS):
            return self.call(name)
        if token.startswith("\\") and name == "pi":
            return Node("const", name="pi")
        if (token.startswith("\\") and name in GREEK) or re.fullmatch("[A-Za-z]", token):
            return self.variable(name)
        raise NotAnExpressionError(f"unknown {token!r}")

    def number(self, token: str) -> Node:
        value = Fraction(token.replace(",", ""))
        if self.token != "_":
            return Node("num", value=value)
        self.take()
        base = self.script()
        if base.op != "num":
            raise NotAnExpressionError("base is no number")
        return Node("num", value=in_base(token, int(base.value)))

    def variable(self, name: str) -> Node:
        while self.token in ("_", "'"):
            if self.take() == "'":
                name += "'"
                continue
            begin = self.position
            self.script()
            name += "_" + "".join(t for t in self.tokens[begin : self.position] if t not in ("{", "}"))
        if self.token == "(" and (_OPAQUE.fullmatch(name[0]) or self.number_in_brackets()):
            return Node("apply", (self.group(),), name=name)
        if name in ("e", "i"):
            return Node("const", name=name)
        return Node("var", name=name)

    def number_in_brackets(self) -> bool:
        """Whether "(3)" follows: I(0) is the value of I at 0, not I times 0."""
        tokens = self.tokens[self.position + 1 : self.position + 3]
        return len(tokens) == 2 and tokens[0][0].isdigit() and tokens[1] == ")"

    def call(self, name: str) -> Node:
        if name in ("frac", "binom"):
            top, bottom = self.argument(), self.argument()
            return Node("div" if name == "frac" else "binom", (top, bottom))
        if name == "sqrt":
            degree = self.group() if self.token == "[" else None
            inside = self.argument()
            return Node("root", (inside, degree)) if degree else Node("sqrt", (inside,))
        base = exponent = None
        while self.token in ("^", "_"):
            if self.take() == "^":
                exponent = self.script()
            else:
                base = self.script()
        if base is not None and name not in ("log", "ln"):
            raise NotAnExpressionError(f"{name} with a base")
        inside = self.application()
        if exponent is not None and exponent == Node("neg", (Node("num", value=Fraction(1)),)):
            node = Node("arc" + name, (inside,))
            exponent = None
        else:
            node = Node(name, (inside,) if base is None else (inside, base))
        return Node("pow", (node, exponent)) if exponent is not None else node

    def argument(self) -> Node:
        if self.token in ("{", "("):
            return self.group()
        return self.atom()

    def application(self) -> Node:
        """The argument of a function: a group, or the product that follows ("\\sin 2x", "\\ln
        \\frac{1}{2}")."""
        if self.token in ("(", "{", "["):
            return self.group()
        sign = self.token == "-"
        if sign:
            self.take()
        node = self.power()
        while self.begins_atom() and self.token not in ("(", "[", "\\frac", "|"):
            if self.token in _PRODUCTS | _QUOTIENTS or self.token.removeprefix("\\") in FUNCTIONS:
                break
            node = Node("mul", (node, self.power()))
        return Node("neg", (node,)) if sign else node


def in_base(digits: str, base: int) -> Fraction:
    """Value of digits (with a point at most) in a base from 2 to 10.

    Raises:
        NotAnExpressionError: a digit is not one of that base.
    """
    whole, _, fraction = digits.replace(",", "").partition(".")
    if not 2 <= base <= 10 or any(int(digit) >= base for digit in whole + fraction):
        raise NotAnExpressionError(f"{digits} is no number in base {base}")
    return Fraction(int(whole + fraction or "0", base), base ** len(fraction))


def variables(node: Node) -> frozenset[str]:
    """Names of the variables and of the unknown functions."""
    names = frozenset().union(*(variables(part) for part in node.parts))
    return names | {node.name} if node.op in ("var", "apply") else names


def is_unevaluated(node: Node) -> bool:
    """Whether a sum, difference or product of two plain numbers is left to be carried out ("3-4+24")."""
    if node.op in ("add", "sub", "mul") and all(is_rational(part) for part in node.parts):
        mixed_number = node.op == "add" and node.parts[1].op == "div" and node.parts[0].op == "num"
        return not mixed_number
    return any(is_unevaluated(part) for part in node.parts)


def is_rational(node: Node) -> bool:
    """Whether an expression consists of plain numbers and rational operations."""
    return node.op == "num" or (
        node.op in ("add", "sub", "mul", "div", "neg", "pow", "factorial")
        and all(is_rational(part) for part in node.parts)
    )


def operations(node: Node) -> frozenset[str]:
    """All operations in an expression; a log with a base is "log_base"."""
    own = "log_base" if node.op == "log" and len(node.parts) == 2 else node.op
    return frozenset({own}).union(*(operations(part) for part in node.parts))


def is_base_digits(gold: str, answer: str) -> bool:
    """Whether the gold is the answer's digits with the subscript of a base: 664_7 and 664."""
    digits, _, base = gold.partition("_")
    return digits == answer and bool(
        re.fullmatch(r"[0-9.]+", digits) and re.fullmatch(r"[0-9]+|\{[0-9]+\}", base)
    )
