"""The one protocol through which everything is scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

Aggregation = Literal["min", "prod", "last", "mean"]


class Scorer(Protocol):
    """Judges the steps of partial or complete solutions."""

    name: str
    """Model name, as recorded with scores."""
    forwarded_tokens: int
    """Tokens that went through the model so far, padding not counted."""

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each solution one probability per step that it is right, in [0, 1].

        A scorer may keep what it has computed: solutions that begin as those of earlier calls do cost their
        new steps only.

        Args:
            questions: one for each solution.
            solutions: their steps, without separators.
        Raises:
            ValueError: a step without text, or one that the model's format cannot hold; names the solution.
        """
        ...


def aggregate(scores: Sequence[float], how: Aggregation) -> float:
    """One score of a solution from those of its steps (arXiv 2305.20050, appendix F;
    search-and-learn@6f81cac:src/sal/utils/score.py); 0 for a solution without steps."""
    if not scores:
        return 0.0
    if how == "min":
        return min(scores)
    if how == "prod":
        return math.prod(scores)
    return scores[-1] if how == "last" else sum(scores) / len(scores)
