"""What every training tells while it runs: heartbeats, and time by phase."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.heartbeat import Phase, beat, phase

_PHASES: dict[str, Phase] = {
    "evaluate": "forward_backward",
    "_save_checkpoint": "checkpoint",
    "save_model": "checkpoint",
}
"""Methods of a trainer, and the phases that they belong to."""
_COLLECTIVES = ("gather", "gather_for_metrics", "reduce", "wait_for_everyone")
"""Methods of its accelerator that wait for other processes."""


@contextmanager
def observed(trainer: Trainer) -> Iterator[None]:
    """Tell of what the trainer does within."""
    for name, its_phase in _PHASES.items():
        setattr(trainer, name, phase(its_phase)(getattr(trainer, name)))
    for name in _COLLECTIVES:
        setattr(trainer.accelerator, name, phase("sync")(getattr(trainer.accelerator, name)))
    if (vllm := getattr(trainer, "vllm_generation", None)) is not None:
        vllm.sync_weights = phase("sync")(vllm.sync_weights)
    observe = Observe()
    trainer.callback_handler.callbacks.insert(0, observe)
    try:
        yield
    finally:
        observe.step.close()


class Observe(TrainerCallback):
    """Beats with every micro-batch. From the begin of an optimizer step to its end the phase is
    forward_backward, but for what has a phase of its own (generation, rewards)."""

    def __init__(self) -> None:
        self.step = ExitStack()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        beat(step=state.global_step, total=state.max_steps, unit="steps")

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
