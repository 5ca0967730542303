"""A reward of your own: the answer must have been reached by the thinking, not come from nowhere."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewards.texts import Turn, splits

NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """1 where the last number of the response is in the thinking too, 0 where it is not, None where the
    response has no number."""

    thinking_format: str = "think_tags"
    """Given by the recipe, as to every reward that has such a field."""
    from_nowhere: float = 0.0
    """What an answer earns that is not in the thinking."""

    def __call__(self, *, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        """One value per completion; `columns` has the questions' columns and `completion_ids`, as in TRL."""
        return [
            self._value(split.thinking, split.response) for split in splits(completions, self.thinking_format)
        ]

    def _value(self, thinking: str, response: str) -> float | None:
        numbers = NUMBER.findall(response)
        if not numbers:
            return None
        return 1.0 if numbers[-1] in NUMBER.findall(thinking) else self.from_nowhere
