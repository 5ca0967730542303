"""Fields of stage `grpo` that its trainer reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class RolloutOptions:
    """How a GRPO run generates and logs; fields of stage `grpo`."""

    dynamic_sampling: int = 0
    """Rounds in which groups whose rewards are all equal are replaced by fresh questions (DAPO); 0: none are
    replaced, and their rows are left out of the backward pass."""
    rollout_batch_size: int | None = None
    """Rows that a process generates together without vLLM; null: all of a generation."""
    full_length_first: bool = True
    """Whether the first steps run at the longest length that may occur, so that a lack of memory shows at
    once and not hours later; their results are the same."""
    log_rollouts_every: int = 1
    """Generations between two that are written to rollouts/; 0 writes none."""
    patience: int = 5
    """Logged steps for which a known failure must be seen before it is warned of."""
    stop_on_nan: bool = True
    """Whether to stop before a gradient that is not finite moves the model."""
    stop_on_collapse: bool = False
    """Whether to stop when the reward falls below half of its best; the last good checkpoint is kept
    anyway."""

    def __post_init__(self) -> None:
        for key in ("dynamic_sampling", "log_rollouts_every"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}: {getattr(self, key)} must not be negative")
        for key in ("rollout_batch_size", "patience"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}: {value} must be at least 1")
