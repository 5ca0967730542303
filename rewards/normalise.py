"""Answers without what only concerns their typesetting, and the few questions that their text alone
answers."""

from __future__ import annotations

import re

LONGEST_ANSWER = 10_000
"""Characters; a longer answer is compared as it stands."""

_WRAPPER = r"\\(?:boxed|fbox|mbox|text(?:bf|it|rm|normal)?|math(?:rm|bf|it))\s*\{([^{}]*)\}"
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\\(?=[0-9])", ""),
        (r"\\\$|[£€]|\b(?:dollars?|USD)\b", ""),  # currency; cents are left alone
        (r"(?<!\\)\\[()\[\]]|\$", ""),  # formula marks
        (r"(?<=[0-9])(?:\\,|\{,\}|,\\!)\s*(?=[0-9]{3}(?![0-9]))", ","),  # thousands: 1\,000 1{,}000 1,\!000
        (r"(?<!\\)\\[!,;: ]|~|\\q?quad(?![A-Za-z])|\\displaystyle(?![A-Za-z])", " "),
        (r"\\(?:left|right)(?![A-Za-z])", ""),
        (_WRAPPER, r"\1"),
        (_WRAPPER, r"\1"),  # \boxed{\text{A}}
        (r"\^\{\\circ\}|\^\\circ(?![A-Za-z])|°|\bdegrees?\b", ""),
        (r"\\%|\bpercent(?:age)?\b", "%"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*([0-9])\s*([0-9])(?![0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac\s*([0-9])\s*\{", r"\\frac{\1}{"),
        (r"\\frac\s*\{([^{}]*)\}\s*([0-9])(?![0-9])", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*([0-9A-Za-z])(?![0-9A-Za-z])", r"\\sqrt{\1}"),
        (r"([_^])\{([0-9A-Za-z])\}(?![0-9A-Za-z])", r"\1\2"),
        (r"\\leq?(?:slant)?(?![A-Za-z])|≤|<=", r"\\le "),
        (r"\\geq?(?:slant)?(?![A-Za-z])|≥|>=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\s+", " "),
        (r"(\\[A-Za-z]+) (?=[0-9])", r"\1"),
        # Spaces mean something only between two words, two numbers, or a number and a word.
        (
            r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])|(?<=[0-9]) (?=[A-Za-z](?![A-Za-z]))",
            "",
        ),
        (r"^[*`]+|[*`]+$", ""),
        (r"(?<!\.)[.,;:]$", ""),
    )
)


_PLAIN = re.compile("[+-]?[0-9A-Z]+")  # nothing to rewrite
_CHARACTERS = {
    **dict.fromkeys("\u2212\u2013\u2010\u2011\ufe63\uff0d", "-"),
    **{chr(0xFF01 + index): chr(0x21 + index) for index in range(94) if index != 12},  # full-width forms
    **{small: f"_{digit}" for digit, small in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    **{small: f"^{digit}" for digit, small in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u00f7": "/", "\u00b1": "\\pm ",
    "\u221a": "\\sqrt ", "\u221e": "\\infty ", "\u2248": "\\approx ", "\u2260": "\\ne ", "\u2208": "\\in ",
    "\u222a": "\\cup ", "\u2205": "\\emptyset ", "\u211d": "\\mathbb{R}", "\u03c0": "\\pi ",
    "\u03b8": "\\theta ", "\u03b1": "\\alpha ", "\u03b2": "\\beta ", "\u03bb": "\\lambda ",
    "\u03c6": "\\phi ",
}  # fmt: skip
_INDICES = re.compile("[₀-₉]+|[⁰¹²³⁴-⁹]+")
_UNICODE = str.maketrans(_CHARACTERS)
_ESCAPED_TWICE = re.compile(
    r"\\\\(?=(?:[dtc]?frac|sqrt|left|right|begin|text|[lg]eq?|pi|cdot|times|infty|boxed)(?![a-z]))"
)
_ENCLOSED = re.compile(
    r"\[(['\"])([^'\"]+)\1\]|\{([^{},;]+)\}"
)  # a Python list of one string; braces without meaning


def normalise(answer: str) -> str:
    """The answer without what only concerns its typesetting."""
    if len(answer) > LONGEST_ANSWER or _PLAIN.fullmatch(answer):
        return answer.strip()
    if not answer.isascii():
        answer = _INDICES.sub(lambda match: _index(match[0]), answer).translate(_UNICODE)
    if _ESCAPED_TWICE.search(answer):
        answer = answer.replace("\\\\", "\\")
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    if enclosed := _ENCLOSED.fullmatch(answer):
        return enclosed[2] or enclosed[3]
    return answer


def _index(digits: str) -> str:
    """Unicode subscripts or superscripts as one LaTeX index: "x¹⁰" is x^{10}."""
    ascii_digits = digits.translate(_UNICODE)
    return ascii_digits[0] + "{" + ascii_digits.replace(ascii_digits[0], "") + "}"


_NAMED = re.compile(
    r"([A-Za-z](?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?(?:\([A-Za-z](?:,[A-Za-z])*\))?)=([^=]+)"
)


def named(answer: str) -> tuple[str, str]:
    """(name, value) of "x=5" or "f(x)=x+1"; the name is empty where there is none."""
    match = _NAMED.fullmatch(answer)
    return (match[1], match[2]) if match else ("", answer)


_CHOICE = re.compile(r"\(?([A-E])\)?|\(([A-E])\)([^-+*/=^_].*|-[0-9].*)|([A-E])[.:)](.+)", re.DOTALL)


def choice(answer: str) -> str | None:
    """Letter of a multiple-choice answer: "B", "(B)", "(B) Cecile", "B. Cecile", but not "(A) and (B)"."""
    match = _CHOICE.fullmatch(answer)
    if match is None or re.search(r"\b[A-E]\b", match[3] or match[5] or ""):
        return None
    return match[1] or match[2] or match[4]


_WORDS = re.compile(r"[A-Za-z'\"\u2019,.;:?()/ -]+")
NUMBER_WORD = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thir|for?ty|fif|twen|hundred"
    r"|thousand|million|billion|trillion|half|halves|quarter|dozen|once|twice|single|double|triple|couple|pair"
    r"|pi\b|sqrt|root|square|cube|sin|cos|tan|sec|csc|cot|arc|log|ln\b|exp|alpha|beta|theta|phi"
    r"|nil\b|null\b|[ivxlcdm]{2,}\b)",
    re.IGNORECASE,
)


def is_words(answer: str) -> bool:
    """Whether the answer is ordinary English words, none of which begins like a number or a function."""
    if len(answer) > LONGEST_ANSWER or not _WORDS.fullmatch(answer):
        return False
    return re.search("[A-Za-z]{3}", answer) is not None and not NUMBER_WORD.search(answer)


def fold(answer: str) -> str:
    """Words in lower case; anything else as it is, since X and x are two variables."""
    return answer.lower() if is_words(answer) or answer in ("No", "NO") else answer


_LONG_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}(?![A-Za-z({])")
_CONNECTIVES = {
    "and",
    "or",
    "for",
    "sin",
    "cos",
    "tan",
    "log",
    "ln",
    "all",
    "integers",
    "integer",
    "mod",
    "frac",
    "sqrt",
    "pi",
}


def is_sentence(answer: str) -> bool:
    """Whether the answer has at least four words that are no mathematics."""
    return sum(1 for word in _LONG_WORD.findall(answer) if word not in _CONNECTIVES) >= 4


_QUANTITY = re.compile(
    r"(?<![A-Za-z0-9_^.,/*+{-])-?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?(?:/[0-9]+)?%?(?![0-9^/*+{(,]|\.[0-9])"
)


def number_of_sentence(sentence: str) -> str:
    """The number behind an equals sign at the end of a sentence (units may follow), or the only one in it;
    empty where a word such as "root of" or "not" stands before it, or there is none."""
    numbers = list(_QUANTITY.finditer(sentence))
    if not numbers:
        return ""
    last = numbers[-1]
    rest = sentence[last.end() :]
    before = " ".join(sentence[: last.start()].split()[-3:])
    at_end = before.endswith("=") and len(rest.split()) <= 2 and not re.search("[0-9]", rest)
    if (at_end or len(re.findall("[0-9]+", sentence)) == 1) and not re.search(
        rf"\bnot\b|n't\b|\bexcept|{NUMBER_WORD.pattern}", before, re.IGNORECASE
    ):
        return last[0]
    return ""
