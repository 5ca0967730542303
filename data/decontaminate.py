"""Decontamination: find questions that share text with a benchmark.

Word n-grams as simplescaling/s1@77272c6:data/decontaminate_util.py (n = 8), with two differences. Questions
are normalised first, so that LaTeX, punctuation and Unicode variants of one question agree; numbers and
operators stay, since `2 + 3` and `2 - 3` are different questions. And questions of fewer than n words, which
have no n-gram, are compared whole: a short question is a match when it is a run of words inside the other.
`data.suspects` finds the few questions of a large pool that are worth a comparison.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from data.schema import Problem

_IMAGE = re.compile(r"!\[[^\]\n]{0,500}\]\([^)\n]{0,2000}\)")
DROPPED_COMMANDS = (
    *("left", "right", *(f"{b}ig{g}{side}" for b in "bB" for g in ("", "g") for side in ("", "l", "r"))),
    *("displaystyle", "textstyle", "limits", "ldots", "dots", "cdots", "quad", "qquad", "begin", "end"),
    *("text", "textbf", "textit", "emph", "mathrm", "mathbf", "mathit", "mbox", "operatorname", "boldsymbol"),
)
"""LaTeX commands that normalisation takes out."""
_DROPPED = re.compile(rf"\\(?:{'|'.join(DROPPED_COMMANDS)})(?![a-zA-Z])|\\[,;:! ()\[\]$]")
SAME_COMMANDS = {
    r"\dfrac": r"\frac",
    r"\tfrac": r"\frac",
    r"\cfrac": r"\frac",
    r"\dbinom": r"\binom",
    r"\tbinom": r"\binom",
    r"\cdot": "*",
    r"\times": "*",
    r"\div": "/",
    r"\leq": "<=",
    r"\le": "<=",
    r"\geq": ">=",
    r"\ge": ">=",
    r"\neq": "≠",
    r"\ne": "≠",
    r"\pm": "±",
    r"\infty": "∞",
    r"\circ": "°",
    r"\degree": "°",
    r"\angle": "∠",
    r"\triangle": "△",
}
"""LaTeX commands that mean the same."""
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_CHARACTERS = dict.fromkeys("\xd7\xb7\u22c5", "*") | dict.fromkeys("\xf7\u2215\u2044", "/")
_CHARACTERS |= {"\u2212": "-", "\u2013": "-", "≤": "<=", "≥": ">="}
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[-+*/=<>≠±∠△]|[{_CJK}]|∞|[^\W_{_CJK}]+(?:[\^_][^\W_{_CJK}]+|(?<=\d)\.\d+)*[!°]?")
_ASCII_TOKEN = re.compile(r"[-+*/=<>]|[a-z0-9]+(?:[\^_][a-z0-9]+|(?<=[0-9])\.[0-9]+)*!?")
_OPERATORS = "-+*/=<>≠±∠△"
_NO_FACTORIAL = re.compile(r"((?<! )(?<!^)[^\d ])!")
_OPERATOR_OR_BANG = re.compile("[-+*/=<>!≠±∠△]")
_RAISED = re.compile("[⁰¹²³⁴-⁹]+")
_LOWERED = re.compile("[₀-₉]+")
_THOUSANDS = re.compile(r",(?<=\d,)(?=\d{3}(?!\d))|\{,\}(?<=\d\{,\})(?=\d{3}(?!\d))")
_SCRIPT = re.compile(r"([\^_])\s*\{\s*([^{}]*)\}")
_HYPHEN = re.compile(r"-(?<=[^\W\d_]-)(?=[^\W\d_]{2})")


def normalised_words(question: str) -> list[str]:
    """Words of a question in lower case, each with the operators in front of it: `2 - x = 7!` is 2, -x, =7!.

    Dollar signs, braces, layout commands, drawings, punctuation and invisible characters are gone; `x^{2}`
    and `x²` are `x^2`; `1,000` is `1000`; `\\dfrac` is `\\frac`; a hyphen between letters separates words.
    Chinese, Japanese and Korean characters are words of their own. Time is linear in the length of the text.
    """
    text = without_drawings(question) if "[asy]" in question else question
    if "![" in text:
        text = _IMAGE.sub(" ", text)
    if "**" in text:
        text = text.replace("**", " ")
    if "\\" in text:
        text = _DROPPED.sub(" ", text.replace(r",\!", ","))
        text = _COMMAND.sub(lambda match: SAME_COMMANDS.get(match[0], match[0]) + " ", text)
        text = re.sub(r"\\frac +(\d)(\d)", r"\\frac \1 \2 ", text)
    if not text.isascii():
        text = _LOWERED.sub(r"_\g<0>", _RAISED.sub(r"^\g<0>", text))
        text = unicodedata.normalize("NFKC", text).casefold()
        for character in set(text):
            if unicodedata.category(character) == "Cf" or character in _CHARACTERS:
                text = text.replace(character, _CHARACTERS.get(character, ""))
    text = text.lower() if (ascii_only := text.isascii()) else text.replace("π", "pi")
    if "," in text:
        text = _THOUSANDS.sub("", text)
    if "{" in text:
        text = _SCRIPT.sub(r"\1\2", text)
    if not ascii_only:
        text = text.replace("^°", "°")
    if "-" in text:
        text = _HYPHEN.sub(" ", text)
    tokens = (_ASCII_TOKEN if ascii_only else _TOKEN).findall(text)
    return _join_operators(tokens) if _OPERATOR_OR_BANG.search(text) else tokens


def _join_operators(tokens: list[str]) -> list[str]:
    """Operators go to the word behind them; `!` stays after a digit or one letter (a factorial)."""
    text = " ".join(tokens)
    if "!" in text:
        text = _NO_FACTORIAL.sub(r"\1", text)
    for operator in _OPERATORS:
        if operator in text:
            text = text.replace(operator + " ", operator)
    return text.rstrip(_OPERATORS + " ").split(" ") if text else []


def without_drawings(text: str) -> str:
    """Asymptote blocks hold drawing code, which many questions share."""
    first, *others = text.split("[asy]")
    return first + "".join(other.partition("[/asy]")[2] if "[/asy]" in other else other for other in others)


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """Why a question counts as contaminated."""

    benchmark_id: str
    """`Problem.id` of the benchmark question."""
    benchmark_source: str
    ngram: str
    """The words that both share."""

    @property
    def evidence(self) -> str:
        return f"{self.benchmark_source} {self.benchmark_id}: {self.ngram!r}"


class BenchmarkIndex:
    """The word n-grams of benchmark questions.

    Args:
        problems: the benchmark questions.
        ngram_words: words that two questions must share in a row; 0 compares whole questions only.
        ngram_characters: characters of these words, without spaces, that also make a match; 0 compares none.
    Raises:
        ValueError: `ngram_words` or `ngram_characters` is negative.
    """

    def __init__(self, problems: Iterable[Problem], ngram_words: int = 8, ngram_characters: int = 0) -> None:
        if ngram_words < 0:
            raise ValueError(f"ngram_words: {ngram_words} is negative; 0 compares whole questions only")
        if ngram_characters < 0:
            raise ValueError(
                f"ngram_characters: {ngram_characters} is negative; 0 does not compare characters"
            )
        self.ngram_words = ngram_words
        self.ngram_characters = ngram_characters
        self._problems = list(problems)
        self.words = [normalised_words(p.question) for p in self._problems]
        self._whole = {tuple(words): i for i, words in reversed(list(enumerate(self.words))) if words}
        self._runs: dict[int, dict[tuple[str, ...], int]] = {}
        self._characters: dict[str, int] = {}
        for i, words in enumerate(self.words if ngram_characters else []):
            for part in _pieces(words, ngram_characters):
                self._characters.setdefault(part, i)
        self._short = {words for words in self._whole if len(words) < ngram_words}
        self._short_lengths: dict[str, list[int]] = {}
        for first in {words[0] for words in self._short}:
            lengths = {len(words) for words in self._short if words[0] == first}
            self._short_lengths[first] = sorted(lengths)

    def __len__(self) -> int:
        return len(self._problems)

    def match(self, question: str) -> Match | None:
        """The first shared run of words, None where the question is clean.

        A match is: the same question; a run of `ngram_words` words in both; a shorter question that is,
        whole, a run of words inside the other one.
        """
        words = normalised_words(question)
        if not words:
            return None
        if tuple(words) in self._whole:
            return self._match(self._whole[tuple(words)], words)
        for part in _pieces(words, self.ngram_characters) if self._characters else ():
            if part in self._characters:
                return self._match(self._characters[part], [part])
        if self.ngram_words == 0:
            return None
        length = min(self.ngram_words, len(words))
        known = self._runs_of(length)
        for run in _runs(words, length):
            if run in known:
                return self._match(known[run], run)
        for start, word in enumerate(words):
            for length in self._short_lengths.get(word, ()):
                if (run := tuple(words[start : start + length])) in self._short:
                    return self._match(self._whole[run], run)
        return None

    def _match(self, number: int, words: Sequence[str]) -> Match:
        problem = self._problems[number]
        return Match(benchmark_id=problem.id, benchmark_source=problem.source, ngram=" ".join(words))

    def _runs_of(self, length: int) -> dict[tuple[str, ...], int]:
        """`length` words in a row -> the first question that has them; built once."""
        if length not in self._runs:
            index: dict[tuple[str, ...], int] = {}
            for i, words in enumerate(self.words):
                for run in _runs(words, length):
                    index.setdefault(run, i)
            self._runs[length] = index
        return self._runs[length]


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every `length` words in a row."""
    return zip(*(words[start:] for start in range(length)), strict=False)


def _pieces(words: list[str], length: int) -> Iterator[str]:
    """Every `length` characters in a row of the words without spaces."""
    text = "".join(words)
    for start in range(len(text) - length + 1):
        yield text[start : start + length]
