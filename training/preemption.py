"""A training stage that is asked to stop saves a complete checkpoint first.

SIGUSR1 asks for it (Slurm's `--signal`, or `slowthink`, which makes it of the first SIGTERM that it gets),
and so does a first SIGTERM to a stage of one process. A second SIGTERM, and any to one of several processes
(torchrun ends the rest so when one has died), stops at once: the last complete checkpoint remains.

transformers' `enable_jit_checkpoint` does not do: its processes save at steps of their own, each three
seconds after its signal, also before an optimizer step, and the stage would count as finished.
"""

from __future__ import annotations

import logging
import signal
from types import FrameType
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.stage import Preempted

logger = logging.getLogger(__name__)


class StopWhenAsked(TrainerCallback):
    """While entered, a request ends the training behind the step that runs, with a checkpoint of it; all
    processes agree on the step."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._asked = self._stopping = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopWhenAsked:
        several = self._trainer.accelerator.num_processes > 1
        for number in (signal.SIGUSR1,) if several else (signal.SIGUSR1, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        self._trainer.add_callback(self)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if number == signal.SIGTERM:
            signal.signal(signal.SIGTERM, self._before[signal.SIGTERM])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        accelerator, asked = self._trainer.accelerator, self._asked
        if accelerator.num_processes > 1:
            if asked:
                accelerator.set_trigger()
            asked = accelerator.check_trigger()
        if asked:
            logger.info("asked to stop: saving a checkpoint of step %d", state.global_step)
            self._stopping = control.should_save = control.should_training_stop = True

    def raise_if_stopped(self) -> None:
        """To be called when the training has returned.

        Raises:
            Preempted: it was asked to stop, its checkpoint is on disk, and steps are left.
        """
        state = self._trainer.state
        if self._stopping and state.global_step < state.max_steps:
            self._trainer.accelerator.wait_for_everyone()  # for the first one, which marks the checkpoint
            raise Preempted(f"asked to stop; step {state.global_step} is saved")
