"""What a model wrote, cut into pieces that a terminal or a page colours.

It is hostile: characters that steer a terminal, turn the direction of writing or are not seen are spelled
out, and every text is cut at a length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from data.thinking import ThinkingFormat

Kind = Literal["tag", "thinking", "response", "answer", "plain", "odd", "cut"]
_UNSEEN_CATEGORIES = frozenset(["Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"])
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u2800\u3164\uffa0")
"""Letters and marks that nothing is drawn for."""
_KEPT = "\n\t"
_CONTROL_PICTURES = 0x2400
_VARIATION_SELECTORS = range(0xE0100, 0xE01F0)


class Span(NamedTuple):
    """A piece of a text that has one colour."""

    kind: Kind
    text: str


def completion_spans(text: str, form: ThinkingFormat, extracted: str, limit: int) -> list[Span]:
    """A completion as tags, thinking, response and, in the response, the answer that was read."""
    split = form.split(text)
    unended = split.thinking_end == 0 and (split.thinking or not split.response)
    boundary = len(text) if unended else split.thinking_end
    marks: list[tuple[int, int, Kind]] = [(*m.span(), "tag") for m in _tag_pattern(form).finditer(text)]
    answer = _answer_position(text, boundary, extracted)
    if answer >= 0 and not any(a < answer + len(extracted) and answer < b for a, b, _ in marks):
        marks.append((answer, answer + len(extracted), "answer"))
    spans, done = [], 0
    for start, end, kind in [*sorted(marks), (len(text), len(text), "tag")]:
        middle = min(max(boundary, done), start)
        spans += [Span("thinking", text[done:middle]), Span("response", text[middle:start])]
        spans.append(Span(kind, text[start:end]))
        done = end
    return _seen(_shortened([span for span in spans if span.text], limit))


def plain_spans(text: str, limit: int) -> list[Span]:
    """Any other text that is not ours, such as a question."""
    return _seen(_shortened([Span("plain", text)], limit))


def visible(text: str, limit: int = 200) -> str:
    """A short text on one line, with nothing in it that is not seen."""
    return "".join(span.text for span in plain_spans(text.replace("\n", "⏎").replace("\t", " "), limit))


def _tag_pattern(form: ThinkingFormat) -> re.Pattern[str]:
    tags = {*(form.start + form.middle + form.end).split(), *form.tags}
    return re.compile("|".join(map(re.escape, sorted(tags, key=len, reverse=True))))


def _answer_position(text: str, start: int, extracted: str) -> int:
    """Where the extracted answer last stands behind `start`, in braces or else as a word; -1 if nowhere."""
    if not extracted:
        return -1
    if (braced := text.rfind("{" + extracted + "}", start)) >= 0:
        return braced + 1
    at = text.rfind(extracted, start)
    while at >= 0:
        around = text[at - 1 : at] + text[at + len(extracted) : at + len(extracted) + 1]
        if not any(character.isalnum() for character in around):
            return at
        at = text.rfind(extracted, start, at + len(extracted) - 1)
    return -1


def _shortened(spans: Sequence[Span], limit: int) -> list[Span]:
    """At most `limit` characters: where there are more, those in the middle make place for their number."""
    missing = sum(len(span.text) for span in spans) - limit
    if missing <= 0:
        return list(spans)
    head = limit * 3 // 4
    tail = _first([Span(kind, text[::-1]) for kind, text in reversed(spans)], limit - head)
    note = Span("cut", f" [... {missing:,} characters left out ...] ")
    return [*_first(spans, head), note, *(Span(kind, text[::-1]) for kind, text in reversed(tail))]


def _first(spans: Sequence[Span], count: int) -> list[Span]:
    """The first `count` characters."""
    kept = []
    for span in spans:
        if count <= 0:
            break
        kept.append(Span(span.kind, span.text[:count]))
        count -= len(span.text)
    return kept


def _seen(spans: Sequence[Span]) -> list[Span]:
    """The spans with every character that is not seen spelled out, in a span of its own."""
    return [piece for span in spans for piece in _spelled(span)]


def _spelled(span: Span) -> Iterator[Span]:
    unseen = [character for character in set(span.text) if _is_unseen(character)]
    if not unseen:
        yield span
        return
    pattern = f"([{re.escape(''.join(unseen))}]+)"
    for index, piece in enumerate(re.split(pattern, span.text)):
        if index % 2:
            yield Span("odd", "".join(map(_name, piece)))
        elif piece:
            yield Span(span.kind, piece)


def _is_unseen(character: str) -> bool:
    return character not in _KEPT and (
        unicodedata.category(character) in _UNSEEN_CATEGORIES
        or character in _UNSEEN
        or ord(character) in _VARIATION_SELECTORS
    )


def _name(character: str) -> str:
    """What is shown for a character that is not seen."""
    code = ord(character)
    return chr(_CONTROL_PICTURES + code) if code < 0x20 else f"⟨U+{code:04X}⟩"
