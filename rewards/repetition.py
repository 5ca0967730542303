"""Reward `repetition`: a penalty for saying the same again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rewards.texts import Turn, completion_text


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """Share of n-grams that occurred before, times max_penalty (arXiv 2502.03373, appendix C.2).

    Over tokens it equals TRL's penalty and works in any language; over words, in lower case, open-r1's
    (huggingface/open-r1@0056faa:src/open_r1/rewards.py), which needs a language that writes spaces. 0 for
    completions shorter than n.
    """

    n: int = 3
    """Length of the n-grams."""
    max_penalty: float = -1.0
    """What a completion would get in which every n-gram is a repeat; not above 0."""
    over: Literal["tokens", "words"] = "tokens"
    """What the n-grams consist of."""

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n: {self.n} must be at least 1")
        if self.max_penalty > 0:
            raise ValueError(f"max_penalty: {self.max_penalty} must not be above 0")

    def __call__(
        self,
        *,
        completions: Sequence[Turn],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        if self.over == "tokens":
            return [self._penalty(ids) for ids in completion_ids]
        return [self._penalty(completion_text(completion).lower().split()) for completion in completions]

    def _penalty(self, items: Sequence[Any]) -> float:
        ngrams = list(zip(*(items[i:] for i in range(self.n)), strict=False))
        repeated = len(ngrams) - len(set(ngrams))
        return self.max_penalty * repeated / len(ngrams) if repeated else 0.0
