"""The tokens of a scalar expression: numbers, letters, LaTeX commands, symbols."""

from __future__ import annotations

import re


class NotAnExpressionError(ValueError):
    """The text is no scalar expression that the parser knows."""


_GREEK_NAMES = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi
    Omega ell hbar
"""
_FUNCTION_NAMES = """
    arcsin arccos arctan arccot sinh cosh tanh coth sin cos tan cot sec csc log ln lg exp sqrt binom
"""
GREEK = frozenset(_GREEK_NAMES.split())
FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
ALIASES = {
    "tg": "tan",
    "ctg": "cot",
    "cosec": "csc",
    "arctg": "arctan",
    "tbinom": "binom",
    "dbinom": "binom",
}
_TOKEN = re.compile(
    r"(?P<num>[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?|\.[0-9]+)|(?P<command>\\[A-Za-z]+|\\[|])"
    r"|(?P<word>[A-Za-z]+)|(?P<symbol>[-+*/^_(){}\[\]|!√'])|(?P<space>\s+)"
)
_NAMES = (*sorted(FUNCTIONS), *ALIASES, "pi", "frac")
_COMMANDS = {*GREEK, *_NAMES, "cdot", "times", "div", "pitchfork"}
_BEFORE_LETTERS = sorted({*GREEK, *_NAMES, "cdot", "times"}, key=len, reverse=True)
_GLUED = re.compile(rf"(\\(?:{'|'.join(_BEFORE_LETTERS)}))([A-Za-z]{{1,2}})")
_NAME_OR_LETTER = re.compile("|".join([*sorted(_NAMES, key=len, reverse=True), "[A-Za-z]"]))
_NAMES_AND_LETTERS = re.compile(f"[A-Za-z]?(?:(?:{'|'.join(_NAMES)})[A-Za-z]?)+")


def tokens_of(text: str) -> list[str]:
    """Tokens in order.

    Raises:
        NotAnExpressionError: a character or a word that no expression has.
    """
    tokens, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotAnExpressionError(f"unexpected {text[position]!r}")
        if match["word"]:
            tokens += _letters(match["word"])
        elif match["command"]:
            tokens += _command(match["command"])
        elif not match["space"]:
            tokens.append(match[0])
        elif _between_numbers(tokens, text[match.end() : match.end() + 1]):
            raise NotAnExpressionError("two numbers beside each other")
        position = match.end()
    return tokens


def _command(command: str) -> list[str]:
    """A command, or a known one with the letters that a lost space has glued to it ("\\pit", "\\cdotC")."""
    glued = _GLUED.fullmatch(command)
    return [glued[1], *glued[2]] if glued and command[1:] not in _COMMANDS else [command]


def _between_numbers(tokens: list[str], following: str) -> bool:
    """Whether a space stands between two numbers, the first of which is no index or exponent ("\\log_2
    3")."""
    after_script = len(tokens) > 1 and tokens[-2] in ("_", "^")
    return bool(tokens) and tokens[-1][0].isdigit() and following.isdigit() and not after_script


def _letters(word: str) -> list[str]:
    """Single letters of a short word (a product), or the functions that a longer one names ("sinxcosx").

    Raises:
        NotAnExpressionError: the word is neither.
    """
    if len(word) <= 3 and word not in _NAMES and not re.fullmatch("[IVXLCDM]{2,}", word):
        return list(word)
    if not _NAMES_AND_LETTERS.fullmatch(word):
        raise NotAnExpressionError(f"unknown word {word!r}")
    return [piece if len(piece) == 1 else "\\" + piece for piece in _NAME_OR_LETTER.findall(word)]
