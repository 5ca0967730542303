"""A training run whose numbers are no longer finite ends, instead of saving a broken model as finished.

transformers logs a loss that is not finite as the mean of those before (`logging_nan_inf_filter`), and trains
on. GRPO and distillation look at every step besides, where they have the number at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.alarms import TrainingStoppedError


class StopWhenNotFinite(TrainerCallback):
    """Stops on a logged loss or gradient that is not finite, and before weights that are not are kept: in a
    checkpoint (so none that is complete has any) or as the stage's model.

    The gradient of fp16 may overflow, and its loss scaling leaves such steps out. Steps cost nothing more;
    a checkpoint one pass over the weights.

    Args:
        last_good: the checkpoint to go on from.
    """

    def __init__(self, last_good: Callable[[], Path | None]) -> None:
        self.last_good = last_good

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("loss",) if args.fp16 else ("loss", "grad_norm"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise self._stopped(state, f"{name} is {value}")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check_weights(state, kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._check_weights(state, kwargs["model"])

    def _check_weights(self, state: TrainerState, model: torch.nn.Module) -> None:
        if not all(gather_object([are_finite(model)])):  # a process may hold a part of the weights alone
            raise self._stopped(state, "weights are not finite")

    def _stopped(self, state: TrainerState, what: str) -> TrainingStoppedError:
        good = self.last_good()
        return TrainingStoppedError(
            f"step {state.global_step}: {what}, and so would be the model. Lower learning_rate, set "
            "max_grad_norm, or train in float32; with logging_steps: 1 the step is named at which it begins. "
            f"Last good checkpoint: {good or 'none yet'}; the stage goes on from there when started again"
        )


def are_finite(model: torch.nn.Module) -> bool:
    """Whether the weights that this process holds are finite, of ZeRO-3 and FSDP its own part."""
    return all(bool(_own_part(weight).isfinite().all()) for weight in model.parameters())


def _own_part(weight: Any) -> torch.Tensor:
    part = getattr(weight, "ds_tensor", weight).detach()
    return part.to_local() if hasattr(part, "to_local") else part
