"""Hints that state the answer (rationalization, STaR, arXiv 2203.14465 section 3.2), and attempts that give
away that they had one.

A model that is told the answer can write reasoning for problems it fails, but also reasoning that leans on
the answer; trained on that, it would lean on hints that it no longer gets. `hint_leak` finds such attempts
by what they say. It errs towards dropping: another attempt costs little.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from data.schema import Attempt, Problem, Rejected, attempt_row, rejected

logger = logging.getLogger(__name__)

ANSWER = "{answer}"


def check_hint(hint: str, key: str = "hint") -> None:
    """Refuse a hint without `{answer}` or with another placeholder.

    Raises:
        ValueError: names it.
    """
    for name in re.findall(r"\{[^{}]*\}", hint):
        if name != ANSWER:
            raise ValueError(f"{key}: unknown placeholder {name!r}; there is only {ANSWER}")
    if ANSWER not in hint:
        raise ValueError(f"{key}: {hint!r} has no {ANSWER}, where the answer stands; write {ANSWER} in it")


def fill_hint(hint: str, answer: str) -> str:
    """The hint for a problem with this answer."""
    return hint.replace(ANSWER, answer)


def hinted(question: str, hint: str, answer: str) -> str:
    """The question with the hint behind it, and a space between them where the hint begins with no space."""
    filled = fill_hint(hint, answer)
    return question + (filled if filled[:1].isspace() else f" {filled}")


def hint_leak(attempt: Attempt, hint: str) -> str | None:
    """What shows that the attempt used the hint, None where nothing does.

    In thinking or response: the hint's own text, or words about being told ("the hint", "given that the
    answer is"). In the thinking alone (in the response, where there is no thinking): the answer as a reason
    before any calculation ("since the answer is"), or as the conclusion of the first sentence. Words that the
    question has itself, lines that calculate the answer and intermediate values are no leak.
    """
    question = attempt.problem.question
    for part in ("thinking", "response"):
        text = getattr(attempt.completion, part)
        found = _own_text(text, attempt, hint) or _says_told(text, question)
        if found:
            return f"{part}: {found!r}"
    part = "thinking" if attempt.completion.thinking.strip() else "response"
    reasoning = getattr(attempt.completion, part)
    found = _reason(reasoning) or _conclusion(reasoning, attempt.problem)
    return f"{part} begins with {found!r}" if found else None


def without_leaks(attempts: Sequence[Attempt], hint: str | None) -> tuple[list[Attempt], list[Rejected]]:
    """The attempts that do not show the hint they had (all where there was none), and the others."""
    kept, leaks = [], []
    for attempt in attempts:
        evidence = None if hint is None else hint_leak(attempt, hint)
        if evidence is None:
            kept.append(attempt)
        else:
            leaks.append(rejected(attempt_row(attempt), "hint_leak", evidence))
    if leaks:
        logger.info("%d of %d attempts show their hint and are rejected", len(leaks), len(attempts))
    return kept, leaks


# ------------------------------------------------------------------ the hint's own text

_ORDINARY_WORDS = (
    "a an the so and to is be it we get that this thus hence therefore final correct right true answer result"
    " solution value equals equal box boxed text of for our my"
)
_ORDINARY = frozenset(_ORDINARY_WORDS.split())
"""Words of which conclusions are made; a hint of these alone cannot be told from one."""
_MIN_PART_WORDS = 3
"""A piece of the hint around the answer must have so many words to be looked for on its own."""


def telling_texts(hint: str, answer: str) -> list[str]:
    """Texts that only the hint can have brought in, in lower case with single spaces: the filled hint, and
    its fixed pieces. None for a hint of signs or of a conclusion's ordinary words: `= {answer}`, `The answer
    is {answer}.`"""
    pieces = [squeezed(piece) for piece in hint.split(ANSWER)]
    texts = [piece for piece in pieces if len(_words(piece)) >= _MIN_PART_WORDS and _is_telling(piece)]
    if any(_is_telling(piece) or (_words(piece) and re.search(r"[(\[<]", piece)) for piece in pieces):
        texts.append(squeezed(fill_hint(hint, answer)))
    return texts


def squeezed(text: str) -> str:
    """Lower case, white space as single spaces."""
    return " ".join(text.casefold().split())


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text)


def _is_telling(piece: str) -> bool:
    return any(word not in _ORDINARY for word in _words(piece))


def _own_text(text: str, attempt: Attempt, hint: str) -> str | None:
    problem = attempt.problem
    plain, asked = squeezed(text), squeezed(problem.question)
    for telling in telling_texts(hint, problem.answer):
        if telling in plain and telling not in asked:
            return telling
    quoted = squeezed(hinted(problem.question, hint, problem.answer))
    if _words(asked) and quoted.replace(" ", "") in plain.replace(" ", ""):
        return quoted
    return None


# ------------------------------------------------------------------ words about it

_MODAL = r"(?:must|should|has to|have to|needs to|can|could|will|would|may|might)"
_PROPERTY = (
    "an?|in|of|between|less|more|at|greater|smaller|larger|positive|negative|non-?\\w+|even|odd|unique|real|"
    "rational|integers?|not|one|either|supposed|expected|required|asked|likely|probably|independent|always|never"
)
_ASIDE = (
    r"(?! (?:choices?|options?|formats?|forms?|range|types?|box)\b| to (?:part|question|the|this|that)\b"
    rf"| {_MODAL} (?!(?:only )?be\b)| (?:is|was|{_MODAL}(?: only)? be) (?:{_PROPERTY})\b)"
)
"""What the question may say of an answer without giving it: its choices, its form, its range."""
_THE_ANSWER = rf"the (?:(?:correct|final|right|true) )?answer\b{_ASIDE}"
_HINT = re.compile(r"\bthe (?:\w+ )?hints?\b|\bthis hint\b|\bhinted answer\b|\bhint (?:says|tells|states)\b")
_TOLD = re.compile(
    rf"\bgiven (?:that )?{_THE_ANSWER}"
    rf"|\b(?:told|know|knowing|informed|given)(?: already)? (?:that )?{_THE_ANSWER}"
    rf"|\bthe (?:given|provided|supplied|stated) (?:final )?answer\b{_ASIDE}"
    r"|\b(?:answer|solution) (?:is|was|has been) (?:already )?(?:given|provided)\b(?! (?:by|as|in)\b)"
)


def _says_told(text: str, question: str) -> str | None:
    plain, asked = squeezed(text), squeezed(question)
    found = None if "hint" in asked else _HINT.search(plain)
    if found is None and not _TOLD.search(asked):
        found = _TOLD.search(plain)
    return found[0] if found else None


# ------------------------------------------------------------------ the answer before the work

_OPENING_WORDS = 60
_CALCULATION = re.compile(r"[=≈]|\b(?:equals?|gives?|makes?|leaves?)\b", re.IGNORECASE)
_REASON = re.compile(
    rf"\b(?:since|because|as) (?:we know )?(?:that )?{_THE_ANSWER} (?:is|=|must|should|equals)"
)
_SENTENCE_CHARACTERS = 2000
"""Of a longer first sentence (`$ $ $ ...`) no more is looked at; the search in it takes quadratic time."""
_GREETING_WORDS = 3
"""Sentences of so few words ("Okay, so.") are passed over in search of the first that says something."""


def _reason(reasoning: str) -> str | None:
    """`since the answer is`, before anything was calculated."""
    opening = " ".join(reasoning.split(maxsplit=_OPENING_WORDS)[:_OPENING_WORDS])
    found = _REASON.search(_CALCULATION.split(opening, maxsplit=1)[0].casefold())
    return found[0] if found else None


def _conclusion(reasoning: str, problem: Problem) -> str | None:
    """The first sentence, where it states the answer and calculates nothing before it."""
    sentence = _first_sentence(reasoning)
    answer = re.escape(problem.answer.strip())
    if not answer or not sentence:
        return None
    value = rf"[\s:$*(\[{{\\]*(?:boxed\{{)?[\s$]*(?<![\w.]){answer}(?!\w|\.\d)"
    copula = rf"(?i:is|was|=|:|equals|(?:to|{_MODAL})(?: only)? be|as|of)?"
    stated = re.search(
        rf"(?i:\b(?:answer|result|solution)\b)\W{{0,3}}{copula}{value}|boxed\{{{answer}\}}", sentence
    )
    if re.fullmatch(rf"[\W_]*(?:boxed\{{)?{answer}[\W_]*", sentence):
        return sentence
    if stated is None or _CALCULATION.search(sentence[: stated.start()]):
        return None
    return None if stated[0] in problem.question else stated[0]


def _first_sentence(reasoning: str) -> str:
    passed = ""
    for sentence in re.split(r"(?<=[.!?:])\s+|\n+", reasoning.strip()[:_SENTENCE_CHARACTERS]):
        passed = f"{passed} {sentence}".strip()
        if len(sentence.split()) > _GREETING_WORDS or re.search(r"\d", sentence):
            break
    return passed
