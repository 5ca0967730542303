"""Language consistency: the share of the thinking that is in the language it should be in (DeepSeek-R1, arXiv
2501.12948 section 2.3.2: the proportion of target language words in the chain of thought)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.language import language_share, script_of
from data.thinking import thinking_format
from rewards.texts import Turn, splits


@dataclass(frozen=True, kw_only=True)
class Language:
    """Share (0 to 1) of the thinking's words that are in the target language.

    0 for empty thinking: not to think is never paid. None for thinking that has fewer than five words
    beside formulas and code. The response is not looked at.
    """

    target: str = "en"
    """Language that the thinking should be in (ISO 639-1 code)."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags or s1: how thinking and response are told apart."""
    thinking_prefilled: bool = False
    """Whether the chat template has already written the thinking's opening tag."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        script_of(self.target)

    def __call__(self, *, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        """One share per completion."""
        thinkings = [s.thinking for s in splits(completions, self.thinking_format, self.thinking_prefilled)]
        return [language_share(t, self.target) if t.strip() else 0.0 for t in thinkings]
