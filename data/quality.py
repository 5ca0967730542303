"""Quality rules: what makes a question or a trace unfit to train on, whatever its verdict.

A rule takes a trace and returns the evidence against it, or None when it passes (`data.filters.Rule`).
`QUALITY_RULES` names those without parameters; `quality_rules` picks from them. The rules `s1_*` are those of
simplescaling/s1@77272c6:data/filter.ipynb; they drop more than they mean to and are here so that the
published counts can be recomputed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Literal

from data import faults
from data.did_you_mean import did_you_mean
from data.filters import Rule, empty_response, empty_thinking, truncated
from data.language import MIN_WORDS, language_words, script_of
from data.schema import Attempt

Part = Literal["question", "answer", "solution", "thinking", "response"]
PARTS: tuple[Part, ...] = ("question", "answer", "solution", "thinking", "response")


def text_of(trace: Attempt, part: Part) -> str:
    """That text of the trace or of its problem."""
    return getattr(trace.completion if part in ("thinking", "response") else trace.problem, part)


# ------------------------------------------------------------------ rules with parameters


def missing(*parts: Part) -> Rule:
    """One of these texts is empty, white space, or what a table writes for nothing: nan, null, <NA>, None.

    `None` may be an answer.

    Raises:
        ValueError: an unknown part.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"missing: {part!r} is not one of {', '.join(PARTS)}")

    def rule(trace: Attempt) -> str | None:
        for part in parts:
            text = text_of(trace, part).strip()
            if text.lower() in ("", "nan", "null", "<na>") or (text == "None" and part != "answer"):
                return f"no {part}" if not text else f"{part} is {text!r}"
        return None

    return rule


def faulty(fault: Callable[[str], str | None], *parts: Part) -> Rule:
    """One of these texts has the fault (a function of `data.faults`)."""

    def rule(trace: Attempt) -> str | None:
        for part in parts:
            evidence = fault(text_of(trace, part))
            if evidence is not None:
                return f"{part}: {evidence}"
        return None

    return rule


MIN_LANGUAGE_SHARE = 0.5


def wrong_language(target: str, min_share: float = MIN_LANGUAGE_SHARE, *parts: Part) -> Rule:
    """Less than `min_share` of the words of question or thinking (or `parts`) are in the language `target`.

    Texts pass that have too few words beside formulas and code: 5 in other scripts, 20 in the script of the
    target, where shorter ones are often mistaken for another language. See `data.language.language_share`.

    Raises:
        ValueError: an unknown target.
    """
    script_of(target)

    def fault(text: str) -> str | None:
        if target == "en" and min_share <= MIN_LANGUAGE_SHARE and _passes_as_english(text):
            return None
        right, own, foreign = language_words(text, target)
        words = own + foreign
        if words < MIN_WORDS_OF_ONE_SCRIPT and not (foreign >= MIN_WORDS and own < min_share * words):
            return None
        share = right / words
        return f"{share:.2f} of {words:.0f} words are {target}" if share < min_share else None

    return faulty(fault, *(parts or ("question", "thinking")))


MIN_WORDS_OF_ONE_SCRIPT = 20
_COMMON_WORDS = (
    "the of and to is that are what how find it if for be with by this has have each then there from can let"
    " he she his her you many much which when all at we so"
)
_ENGLISH = frozenset(_COMMON_WORDS.split())
_OTHER_LETTERS = re.compile("[\u0180-\u1fff\u2c00-\ud7ff\uf900-\uffff]")
_LATIN_WORD = re.compile(r"(?<![\w\\])[^\W\d_]{2,}")


def _passes_as_english(text: str) -> bool:
    """Latin text that is too short to be judged or has many of the commonest English words: the quick way."""
    if _OTHER_LETTERS.search(text):
        return False
    words = _LATIN_WORD.findall(text.lower())
    return len(words) < MIN_WORDS_OF_ONE_SCRIPT or sum(map(_ENGLISH.__contains__, words)) >= 0.15 * len(words)


def too_large(max_line_characters: int = 100_000, max_bytes: int = 10_000_000) -> Rule:
    """A line has more than `max_line_characters`, or all texts together more than `max_bytes` of UTF-8."""

    def rule(trace: Attempt) -> str | None:
        texts = [text_of(trace, part) for part in PARTS]
        size = sum(map(len, texts))
        if 4 * size > max_bytes:
            size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
            if size > max_bytes:
                return f"{size} bytes > {max_bytes}"
        for part, text in zip(PARTS, texts, strict=True):
            if (
                len(text) > max_line_characters
                and (longest := max(map(len, text.splitlines()))) > max_line_characters
            ):
                return f"{part} has a line of {longest} > {max_line_characters} characters"
        return None

    return rule


# ------------------------------------------------------------------ rules without


_NO_WORK = re.compile(
    r"\\(?:boxed|text|mathrm|left|right)\b|\b(?:the|final|correct|my|answer|result|solution|is|so|thus|"
    r"hence|therefore|it|equals?|we|get|have)\b|[^\w]",
    re.IGNORECASE,
)


def answer_only(trace: Attempt) -> str | None:
    """The thinking is the gold answer and nothing else but words like "the final answer is"."""
    thinking = trace.completion.thinking
    if not thinking.strip() or len(thinking) > 2 * len(trace.problem.answer) + 200:
        return None
    work = _NO_WORK.sub("", thinking).lower()
    answer = _NO_WORK.sub("", trace.problem.answer).lower()
    return f"thinking is only {thinking.strip()[:80]!r}" if work in ("", answer) else None


LONGEST_PARAGRAPH_WORDS = 200


def long_paragraphs(trace: Attempt) -> str | None:
    """The thinking has more than 200 words (split at white space) without a line break: a wall of text.

    One of the three things for which DeepSeek-R1 drops chains of thought (arXiv 2501.12948 section 2.3.3),
    which gives no number. At 200 words 18 % of DeepSeek-R1's own chains on planning puzzles go, and 0.1 % of
    o1-mini's and 1.8 % of Qwen2.5-7B-Instruct's on MATH.
    """
    longest = max((len(line.split()) for line in trace.completion.thinking.splitlines()), default=0)
    return (
        f"a paragraph of {longest} > {LONGEST_PARAGRAPH_WORDS} words"
        if longest > LONGEST_PARAGRAPH_WORDS
        else None
    )


_FENCE = re.compile(r"^[ \t]*(?:```|~~~).*$", re.MULTILINE)


def code_blocks(trace: Attempt) -> str | None:
    """The thinking has fenced code (a line that begins with ``` or ~~~; arXiv 2501.12948 section 2.3.3)."""
    fence = _FENCE.search(trace.completion.thinking)
    return f"thinking has a code block: {fence[0].strip()[:80]!r}" if fence else None


def _unless_aime_drawing(pattern: re.Pattern[str]) -> Rule:
    """s1 keeps every AIME question that has a drawing program, whatever else it contains."""

    def rule(trace: Attempt) -> str | None:
        question = trace.problem.question
        match = pattern.search(question)
        if match is None or ("[asy]" in question and "aime" in trace.problem.source.lower()):
            return None
        return f"question has {match[0]!r}"

    return rule


s1_images = _unless_aime_drawing(re.compile(r"\[asy\]|!\[Image\]"))
"""s1: `[asy]` or `![Image]` in the question."""
s1_numbered_parts = _unless_aime_drawing(re.compile(r"p[1-9]\d{0,2}\."))
"""s1: `p1.` to `p999.` anywhere in the question, also inside a word ("the map2. then")."""
s1_bold = _unless_aime_drawing(re.compile(r"\*\*(?=.*\d)[^\s\]]*\*\*"))
"""s1: bold text without spaces that has a digit somewhere behind it on the line ("**Bold** then 5")."""

QUALITY_RULES: dict[str, Rule] = {
    "missing": missing("question", "answer"),
    "missing_solution": missing("solution"),
    "empty_thinking": empty_thinking,
    "empty_response": empty_response,
    "truncated": truncated,
    "error_message": faulty(faults.error_message, "question", "thinking", "response"),
    "control_tokens": faulty(faults.control_token, "question", "thinking", "response"),
    "damaged": faulty(faults.damage, "question", "answer", "thinking", "response"),
    "unclosed": faulty(faults.unclosed, "question", "response"),
    "image": faulty(faults.image, "question"),
    "image_mention": faulty(faults.image_mention, "question"),
    "several_questions": faulty(faults.several_questions, "question"),
    "answer_only": answer_only,
    "long_paragraphs": long_paragraphs,
    "code_blocks": code_blocks,
    "too_large": too_large(),
    "s1_images": s1_images,
    "s1_numbered_parts": s1_numbered_parts,
    "s1_bold": s1_bold,
}
"""Every rule without parameters, by the name that a recipe gives it."""
DEFAULT_RULES = (
    "missing",
    "too_large",
    "error_message",
    "damaged",
    "control_tokens",
    "unclosed",
    "image",
    "several_questions",
    "answer_only",
)
"""Those that drop what no one wants; the others are choices."""


def quality_rules(names: Iterable[str]) -> dict[str, Rule]:
    """The rules of these names, in this order.

    Raises:
        ValueError: an unknown name, with the nearest.
    """
    names = list(names)
    for name in names:
        if name not in QUALITY_RULES:
            raise ValueError(f"quality: no rule is called {name!r}; {did_you_mean(name, QUALITY_RULES)}")
    return {name: QUALITY_RULES[name] for name in names}
