"""What every training tells while it runs: heartbeats, time by phase, and rows of metrics with its speed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import WandbCallback
from transformers.integrations.integration_utils import rewrite_logs

from data.heartbeat import Phase, beat, own_memory, phase, take_phase_seconds
from data.metric_log import memory_row, mend, phase_row, write_row
from data.reporting import wants_wandb
from training.speed import Speed, TokenCount

_PHASES: dict[str, Phase] = {
    "evaluate": "forward_backward",
    "_save_checkpoint": "checkpoint",
    "save_model": "checkpoint",
}
"""Methods of a trainer, and the phases that they belong to."""
_COLLECTIVES = ("gather", "gather_for_metrics", "reduce", "wait_for_everyone")
"""Methods of its accelerator that wait for other processes."""


@contextmanager
def observed(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Tell of what the trainer does within, in the stage's folder."""
    for name, its_phase in _PHASES.items():
        setattr(trainer, name, phase(its_phase)(getattr(trainer, name)))
    for name in _COLLECTIVES:
        setattr(trainer.accelerator, name, phase("sync")(getattr(trainer.accelerator, name)))
    if (vllm := getattr(trainer, "vllm_generation", None)) is not None:
        vllm.sync_weights = phase("sync")(vllm.sync_weights)
    callbacks = trainer.callback_handler.callbacks
    if wants_wandb() and not any(isinstance(callback, WandbCallback) for callback in callbacks):
        trainer.add_callback(WandbCallback())
    observe = Observe(trainer, folder)
    callbacks.insert(0, observe)  # so that wandb gets its numbers with those of the trainer
    try:
        yield
    finally:
        observe.close()


class Observe(TrainerCallback):
    """Beats with every micro-batch and writes a row for all that the trainer logs.

    From the begin of an optimizer step to its end the phase is forward_backward, but for what has a phase of
    its own (generation, rewards).
    """

    def __init__(self, trainer: Any, folder: Path) -> None:
        self.trainer = trainer
        self.folder = folder
        self.step = ExitStack()
        self.count = TokenCount(trainer.accelerator.unwrap_model(trainer.model))
        self.speed = Speed(trainer)

    def close(self) -> None:
        self.step.close()
        self.count.close()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            mend(self.folder, state.global_step)
        self.speed.begin()
        beat(step=state.global_step, total=state.max_steps, unit="step")

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step.enter_context(phase("forward_backward"))

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        beat()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.step.close()
        beat(step=state.global_step)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        beat()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        told = self._of_all_processes()
        if not state.is_world_process_zero:
            return
        seconds, now = take_phase_seconds(), round(time.time(), 3)
        tokens, attended = (sum(of[key] for of in told) for key in ("tokens", "attended"))
        numbers = {
            **self.speed.row(tokens, attended, sum(seconds.values()) - seconds["load"]),
            **phase_row(seconds),
            **memory_row(told),
        }
        write_row(
            self.folder, {"time": now, "step": state.global_step, **numbers, **rewrite_logs(logs or {})}
        )
        _hand_to_wandb(numbers)

    def _of_all_processes(self) -> list[dict[str, float]]:
        """What each process has done since the last row, and its memory."""
        tokens, attended = self.count.take()
        own = {"tokens": tokens, "attended": attended, **own_memory()}
        accelerator = self.trainer.accelerator
        told = accelerator.gather(torch.tensor(list(own.values()), device=accelerator.device))
        return [dict(zip(own, of, strict=True)) for of in told.view(-1, len(own)).tolist()]


def _hand_to_wandb(numbers: dict[str, float]) -> None:
    """They go out with what the trainer's own callback logs next."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.log(numbers, commit=False)
