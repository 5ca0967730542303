"""How much of a text is in one language (DeepSeek-R1, arXiv 2501.12948 section 2.3.2, proportion of target
language words).

Words of another script are foreign by themselves, wherever they stand in a line. Which language the words of
the target's own script are in is decided sentence by sentence by py3langid (no download, no torch), among the
languages below that use the script.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache

_SCRIPTS = {
    "latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u1e00-\u1eff",
    "greek": "\u0370-\u03ff\u1f00-\u1fff",
    "cyrillic": "\u0400-\u052f",
    "armenian": "\u0530-\u058f",
    "hebrew": "\u0590-\u05ff",
    "arabic": "\u0610-\u065f\u066e-\u06ef\u06fa-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefe",
    "devanagari": "\u0900-\u0963\u0970-\u097f",
    "bengali": "\u0980-\u09e3\u09f0-\u09ff",
    "gurmukhi": "\u0a00-\u0a65\u0a70-\u0a7f",
    "gujarati": "\u0a80-\u0ae5\u0af0-\u0aff",
    "tamil": "\u0b80-\u0be5",
    "telugu": "\u0c00-\u0c65",
    "kannada": "\u0c80-\u0ce5",
    "malayalam": "\u0d00-\u0d65",
    "sinhala": "\u0d80-\u0de5",
    "thai": "\u0e01-\u0e3a\u0e40-\u0e4e",
    "lao": "\u0e81-\u0ecf",
    "georgian": "\u10a0-\u10ff",
    "ethiopic": "\u1200-\u135f",
    "khmer": "\u1780-\u17d3",
    "hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3",
    "cjk": "\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
}
_LANGUAGES = {
    "latin": "en de fr es pt it nl pl cs sk sl hr sv da no fi et lv lt hu ro ca tr vi id sw tl",
    "cyrillic": "ru uk bg be mk sr kk",
    "arabic": "ar fa ur ps",
    "devanagari": "hi mr ne",
    "cjk": "zh ja",
    "greek": "el",
    "armenian": "hy",
    "hebrew": "he",
    "bengali": "bn",
    "gurmukhi": "pa",
    "gujarati": "gu",
    "tamil": "ta",
    "telugu": "te",
    "kannada": "kn",
    "malayalam": "ml",
    "sinhala": "si",
    "thai": "th",
    "lao": "lo",
    "georgian": "ka",
    "ethiopic": "am",
    "khmer": "km",
    "hangul": "ko",
}
SCRIPT_OF = {language: script for script, names in _LANGUAGES.items() for language in names.split()}
"""The script of every language that can be a target, by ISO 639-1 code."""

_LETTERS_PER_WORD = {"cjk": 2, "thai": 5, "lao": 5, "khmer": 5}
"""Scripts that put no spaces between words: so many letters count as one word."""
SEGMENT_LETTERS = 32
"""Shorter sentences are judged together with the next one: fewer letters do not tell a language."""
MAX_SEGMENTS = 128
"""Of a longer text at most so many segments, evenly spread, are judged."""
MIN_WORDS = 5
"""A text of fewer words is not judged."""

_NO_LANGUAGE = re.compile(
    r"```.*?```|`[^`\n]*`|\$\$.+?\$\$|\$(?!\s)[^$\n]{1,300}(?<!\s)\$(?!\d)"
    r"|\\\(.{1,1000}?\\\)|\\\[.{1,2000}?\\\]|\\begin\{(\w{1,20}\*?)\}.{0,4000}?\\end\{\1\}"
    r"|\[asy\].{0,4000}?\[/asy\]|\\[A-Za-z]+|https?://\S+",
    re.DOTALL,
)
_SIGNS = re.compile("[\x00-\u03ff\u1e00-\u1fff]+")
_WORDS = re.compile(
    r"[A-Z]{1,4}(?![^\W\d_])|(?<![\w\\])(?P<latin>[LATIN]{2,})(?![\w(])|(?P<greek>[GREEK]{3,})|".replace(
        "LATIN", _SCRIPTS["latin"]
    ).replace("GREEK", _SCRIPTS["greek"])
    + "|".join(f"(?P<{name}>[{s}]+)" for name, s in _SCRIPTS.items() if name not in ("latin", "greek"))
)
_SENTENCE_END = re.compile(r"\n+|(?<=[.!?;:])\s+|(?<=[\u3002\uff01\uff1f\uff1b\uff0e])")


def language_share(text: str, target: str) -> float | None:
    """Share of the words of a text that are in the target language; None where there are fewer than five.

    Formulas, code, links, numbers, single letters and names of up to four capitals are not words. In scripts
    without spaces every two (Chinese, Japanese) or five letters count as a word. A word in another script
    counts even inside a formula. A change between languages of one script is seen from sentence to
    sentence, not within one.

    Raises:
        ValueError: target is none of `SCRIPT_OF`.
    """
    right, own, foreign = language_words(text, target)
    return right / (own + foreign) if own + foreign >= MIN_WORDS else None


def language_words(text: str, target: str) -> tuple[float, float, float]:
    """Words of a text in the target language, in its script, and in other scripts; see `language_share`.

    Raises:
        ValueError: target is none of `SCRIPT_OF`.
    """
    script = script_of(target)
    foreign, segments = _segments(text, script)
    own = sum(words for _, words in segments)
    if own + foreign < MIN_WORDS:
        return own, own, foreign
    judged = segments[:: -(-len(segments) // MAX_SEGMENTS)] if segments else []
    language_of = _identifier(script)
    right = sum(words for segment, words in judged if language_of(segment) == target)
    return own * right / max(sum(words for _, words in judged), 1e-9), own, foreign


def script_of(target: str) -> str:
    """The script of a language.

    Raises:
        ValueError: target is none of `SCRIPT_OF`.
    """
    if target not in SCRIPT_OF:
        raise ValueError(f"target: {target!r} is not one of {', '.join(sorted(SCRIPT_OF))}")
    return SCRIPT_OF[target]


def _segments(text: str, script: str) -> tuple[float, list[tuple[str, float]]]:
    """How many words are in other scripts, and the pieces in this one: (text, words) of each."""
    foreign = 0.0
    segments: list[tuple[str, float]] = []
    pending, letters, words = "", 0, 0.0
    for sentence in _SENTENCE_END.split(_NO_LANGUAGE.sub(lambda match: _SIGNS.sub(" ", match[0]), text)):
        for name, word in _words(sentence):
            size = len(word) / _LETTERS_PER_WORD[name] if name in _LETTERS_PER_WORD else 1.0
            if name != script:
                foreign += size
                continue
            pending, letters, words = f"{pending} {word}", letters + len(word), words + size
        if letters * (3 if script == "cjk" else 1) >= SEGMENT_LETTERS:
            segments.append((pending, words))
            pending, letters, words = "", 0, 0.0
    if words and segments:
        segments[-1] = (segments[-1][0] + pending, segments[-1][1] + words)
    elif words:
        segments.append((pending, words))
    return foreign, segments


def _words(sentence: str) -> Iterator[tuple[str, str]]:
    return ((match.lastgroup, match[0]) for match in _WORDS.finditer(sentence) if match.lastgroup)


@cache
def _identifier(script: str) -> Callable[[str], str]:
    """Text in that script -> its language."""
    languages = _LANGUAGES[script].split()
    if len(languages) == 1:
        return lambda text: languages[0]
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(languages)
    return lambda text: identifier.classify(text)[0]
