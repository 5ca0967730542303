"""Checkpoints that a killed training run goes on from.

A checkpoint counts only when it holds the marker file that `MarkCompleteCheckpoints` writes as the very last
thing, after everything else is on disk; what a kill left half-written has no marker and is never read.
The trainer deletes the oldest checkpoint before the newest is marked, so save_total_limit must be at least 2.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

MARKER = ".complete"


def resume_or_train(trainer: Trainer, folder: Path) -> dict[str, float]:
    """Train, from the newest complete checkpoint of `folder` on if it has one, and save the model there.

    Returns:
        the trainer's metrics (train_runtime, ...) of this process.
    """
    if trainer.args.save_total_limit == 1:
        trainer.args.save_total_limit = 2  # the older one is deleted before the newer one is marked complete
    if trainer.args.device.type == "cpu":  # of several it is cpu:0, where no optimizer loads
        vars(trainer.args)["_setup_devices"] = torch.device("cpu")
    trainer.add_callback(MarkCompleteCheckpoints())
    _stop_at_the_last_step(trainer)
    checkpoint = newest_complete_checkpoint(folder)
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(folder))
    return result.metrics


def _stop_at_the_last_step(trainer: Any) -> None:
    """transformers looks whether all steps are done behind a step only: it would train one more from a
    checkpoint of the last one, which a run has that is killed before its model is saved."""
    run_epoch = trainer._run_epoch

    def unless_done(**of_epoch: Any) -> None:
        if trainer.state.global_step >= trainer.state.max_steps:
            trainer.control.should_training_stop = True
        else:
            run_epoch(**of_epoch)

    trainer._run_epoch = unless_done


class MarkCompleteCheckpoints(TrainerCallback):
    """Marks each checkpoint once every process has written its part and the files are on disk."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        PartialState().wait_for_everyone()
        assert args.output_dir is not None, "a trainer that saves has an output folder"
        if args.should_save:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def mark_complete(checkpoint: Path) -> None:
    """Flush every file of the checkpoint to disk, then write its marker."""
    for file in [*checkpoint.rglob("*"), checkpoint]:
        _flush(file)
    marker = checkpoint / MARKER
    marker.touch()
    _flush(marker)
    _flush(checkpoint)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The marked `checkpoint-<step>` of `folder` with the highest step, None where there is none."""
    marked = [path.parent for path in folder.glob(f"checkpoint-*/{MARKER}")]
    steps = {int(path.name.removeprefix("checkpoint-")): path for path in marked if _has_step(path)}
    return steps[max(steps)] if steps else None


def _has_step(path: Path) -> bool:
    return path.name.removeprefix("checkpoint-").isdecimal()
