"""Rewards for the shape of a completion: `format`, `tag_count`, `reasoning_steps`.

They follow open-r1 (huggingface/open-r1@0056faa:src/open_r1/rewards.py) for every thinking format of the
project, without what its versions also pay for: empty thinking, text behind the answer, two answers, "First,
First, First,".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.thinking import ThinkingFormat, thinking_format
from rewards.texts import Turn, splits, written_text


@dataclass(frozen=True, kw_only=True)
class Formatted:
    """A reward that looks at the tags of a thinking format."""

    thinking_format: str = "think_tags"
    """think_tags, answer_tags, s1 or s1_steps."""
    thinking_prefilled: bool = False
    """Whether the chat template has already written the thinking's opening tag, which then counts as
    written."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)

    @property
    def form(self) -> ThinkingFormat:
        return thinking_format(self.thinking_format)

    def texts(self, completions: Sequence[Turn]) -> list[str]:
        form = self.form
        return [written_text(completion, form, self.thinking_prefilled) for completion in completions]


@dataclass(frozen=True, kw_only=True)
class Format(Formatted):
    """1 when the text is one thinking block and one response, neither blank, and nothing else; 0 otherwise.

    White space around the tags does not matter unless `strict_whitespace` is set: a model that has never seen
    the exact line breaks would otherwise earn 0 in every group and learn nothing.
    """

    strict_whitespace: bool = False
    """Accept only the line breaks with which the format renders its texts."""

    def __call__(self, *, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        return [float(self._is_formatted(text)) for text in self.texts(completions)]

    def _is_formatted(self, text: str) -> bool:
        if self.strict_whitespace and not self.form.split(text).complete:
            return False
        pattern = _tag_pattern(self.form)
        text = text.strip()
        if tuple(pattern.findall(text)) != _tags(self.form):
            return False
        parts = pattern.split(text)
        full = (1, 1 + len(self.form.middle.split()))  # the thinking and the response
        return all(_is_blank(part) != (index in full) for index, part in enumerate(parts))


@dataclass(frozen=True, kw_only=True)
class TagCount(Formatted):
    """An equal share of 1 for each of the format's tags that occurs exactly once; 0 when out of order.

    A gentler slope towards `format`: it looks at the tags alone, so pair it with a reward for the answer.
    """

    def __call__(self, *, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        return [self._share(text) for text in self.texts(completions)]

    def _share(self, text: str) -> float:
        tags = _tags(self.form)
        found = _tag_pattern(self.form).findall(text.strip())
        counts = Counter(found)
        single = [tag for tag in found if tag in tags and counts[tag] == 1]
        return len(single) / len(tags) if single == [tag for tag in tags if tag in single] else 0.0


def _tags(form: ThinkingFormat) -> tuple[str, ...]:
    """The tags in the order in which the format writes them."""
    return tuple((form.start + form.middle + form.end).split())


def _tag_pattern(form: ThinkingFormat) -> re.Pattern[str]:
    """Any tag of the format, also where it has no place; one allowed inside, at the start only."""
    tags = [re.escape(tag) for tag in _tags(form) + form.tags if tag not in form.inside]
    opening = [rf"\A{tag}|(?<={tag}){tag}" for tag in map(re.escape, form.inside)]
    return re.compile("|".join(tags + opening))


def _is_blank(text: str) -> bool:
    """Whether there is nothing to see: white space, zero-width and control characters only."""
    return not any(character.isprintable() and not character.isspace() for character in text)


@dataclass(frozen=True, kw_only=True)
class ReasoningSteps(Formatted):
    """Share of `target` distinct reasoning steps, at most 1.

    A step is a line that begins with a marker ("Step 2:", "2.", "First,", "- ") which is new (bullets may
    come again) and goes on with words that no earlier step said. Word markers are English.
    """

    target: int = 3
    """Steps that earn the full reward."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.target < 1:
            raise ValueError(f"target: {self.target} must be at least 1")

    def __call__(self, *, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        parts = splits(completions, self.thinking_format, self.thinking_prefilled)
        return [min(1.0, count_steps(f"{p.thinking}\n{p.response}") / self.target) for p in parts]


_MARKERS = re.compile(
    r"((?:(?:step\s+[0-9]+\s*[:.)]|[0-9]+[.)](?=\s)|[-*•](?=\s)"
    r"|(?:first|second|third|next|then|last|final)(?:ly)?,)\s*)+)(.*)",
    re.IGNORECASE,
)
_NOT_SAID = re.compile(r"[^\w+*/=^<>-]")


def count_steps(text: str) -> int:
    """Distinct reasoning steps in a text."""
    markers, contents = set(), set()
    steps = 0
    for line in text.splitlines():
        match = _MARKERS.match(line.replace("**", "").lstrip("#> \t"))
        if match is None:
            continue
        marker, content = match[1].strip("-*• ").lower(), _NOT_SAID.sub("", match[2].lower())
        says = len(content) >= 3 and any(map(str.isalnum, content))
        if says and content not in contents and (not marker or marker not in markers):
            steps += 1
            markers.add(marker)
            contents.add(content)
    return steps
