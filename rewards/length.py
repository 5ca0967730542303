"""Rewards for the length of a completion: `overlong`, `cosine_length`, `kimi_length`.

Lengths are tokens of the policy, as `completion_ids` counts them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rewards.accuracy import Graded
from rewards.texts import Turn


@dataclass(frozen=True, kw_only=True)
class Overlong:
    """Soft overlong punishment, 0 to -1 (DAPO, arXiv 2503.14476, eq. 13).

    0 up to max_completion_tokens - cache_tokens, then falling linearly to -1 at max_completion_tokens.
    """

    max_completion_tokens: int
    """Length at which the punishment is full; as a rule the trainer's max_completion_length."""
    cache_tokens: int
    """Length of the slope before it; 0 punishes only what is longer than max_completion_tokens."""

    def __post_init__(self) -> None:
        if not 0 <= self.cache_tokens <= self.max_completion_tokens:
            raise ValueError(
                f"cache_tokens: {self.cache_tokens} must be between 0 and max_completion_tokens, "
                f"which is {self.max_completion_tokens}"
            )

    def __call__(self, *, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float | None]:
        return [self._punishment(len(ids)) for ids in completion_ids]

    def _punishment(self, tokens: int) -> float:
        excess = tokens - (self.max_completion_tokens - self.cache_tokens)
        if excess <= 0:
            return 0.0
        return -1.0 if tokens > self.max_completion_tokens else -excess / self.cache_tokens


@dataclass(frozen=True, kw_only=True)
class CosineLength(Graded):
    """Correct answers earn more the shorter they are, wrong ones lose less the longer they thought.

    Half a cosine from 0 to max_tokens (Yeo et al. 2025, arXiv 2502.03373, appendix C.1), constant from there
    on. None where the answer cannot be verified.
    """

    max_tokens: int
    """Length at which the value for long completions is reached."""
    min_value_wrong: float = -1.0
    """A wrong answer of no tokens."""
    max_value_wrong: float = -0.5
    """A wrong answer of max_tokens."""
    min_value_correct: float = 0.5
    """A correct answer of max_tokens."""
    max_value_correct: float = 1.0
    """A correct answer of no tokens."""
    exceed_value: float | None = None
    """Any completion of max_tokens or more (-10 in the paper), so that running out of tokens is not the
    best way to be wrong; none by default, as in TRL."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: {self.max_tokens} must be at least 1")

    def __call__(
        self,
        *,
        completions: Sequence[Turn],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        verdicts = self.verdicts(completions, columns)
        return [
            None if v.outcome == "unverifiable" else self._value(v.outcome == "correct", len(ids))
            for v, ids in zip(verdicts, completion_ids, strict=True)
        ]

    def _value(self, correct: bool, tokens: int) -> float:
        if self.exceed_value is not None and tokens >= self.max_tokens:
            return self.exceed_value
        short, long = self.max_value_correct, self.min_value_correct
        if not correct:
            short, long = self.min_value_wrong, self.max_value_wrong
        progress = min(tokens / self.max_tokens, 1.0)
        return long + 0.5 * (short - long) * (1.0 + math.cos(progress * math.pi))


@dataclass(frozen=True, kw_only=True)
class KimiLength(Graded):
    """Length against the other completions of the same prompt, 0.5 (shortest) to -0.5 (longest).

    Kimi k1.5 (arXiv 2501.12599, sec. 2.3.3): lambda = 0.5 - (length - min) / (max - min), which a wrong
    answer gets only where it is negative; 0 where all are equally long, None where the answer cannot be
    verified. A group that the trainer spreads over several processes is compared within each process.
    """

    def __call__(
        self,
        *,
        prompts: Sequence[Any],
        completions: Sequence[Turn],
        completion_ids: Sequence[Sequence[int]],
        **columns: Any,
    ) -> list[float | None]:
        keys = [repr(prompt) for prompt in prompts]
        lengths: dict[str, list[int]] = defaultdict(list)
        for key, ids in zip(keys, completion_ids, strict=True):
            lengths[key].append(len(ids))
        spans = {key: (min(group), max(group)) for key, group in lengths.items()}
        rewards: list[float | None] = []
        for key, ids, verdict in zip(keys, completion_ids, self.verdicts(completions, columns), strict=True):
            shortest, longest = spans[key]
            value = 0.5 - (len(ids) - shortest) / (longest - shortest) if longest > shortest else 0.0
            values = {"correct": value, "wrong": min(0.0, value), "unverifiable": None}
            rewards.append(values[verdict.outcome])
        return rewards
