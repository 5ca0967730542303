"""Checkpoints that a killed training run goes on from.

A checkpoint counts only when it holds the marker file that `MarkCompleteCheckpoints` writes as the very last
thing, after everything else is on disk; what a kill left half-written has no marker and is never read. The
marker holds the size of every file, which tells of one that was cut or lost later (a copy that broke off).
The trainer deletes the oldest checkpoint before the newest is marked, so save_total_limit must be at least 2.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from data.heartbeat import beat, phase
from data.store import read_json, write_json
from training.finite import StopWhenNotFinite
from training.observe import observed
from training.preemption import StopWhenAsked
from training.universal import load_for_these_processes

logger = logging.getLogger(__name__)

MARKER = ".complete"


def resume_or_train(trainer: Trainer, folder: Path, *, stop_on_nan: bool = True) -> dict[str, float]:
    """Train, from the newest complete checkpoint of `folder` on if it has one, and save the model there.

    Args:
        stop_on_nan: whether a loss, gradient or weight that is not finite ends the run.
    Raises:
        ValueError: all checkpoints are damaged, or a folder of another kind is named like one.
        TrainingStoppedError: see `StopWhenNotFinite`.
        Preempted: it was asked to stop; see training/preemption.py.
    Returns:
        the trainer's metrics (train_runtime, ...) of this process.
    """
    if trainer.args.save_total_limit == 1:
        trainer.args.save_total_limit = 2  # the older one is deleted before the newer one is marked complete
    if trainer.args.device.type == "cpu":  # of several it is cpu:0, where no optimizer loads
        vars(trainer.args)["_setup_devices"] = torch.device("cpu")
    if stop_on_nan:
        trainer.args.logging_nan_inf_filter = False  # which would log another number in its place
        trainer.add_callback(StopWhenNotFinite(lambda: newest_complete_checkpoint(folder)))
    trainer.add_callback(MarkCompleteCheckpoints())
    _stop_at_the_last_step(trainer)
    checkpoint = _choose(folder)
    if checkpoint is not None:
        load_for_these_processes(trainer, checkpoint)
    with observed(trainer, folder), StopWhenAsked(trainer) as stop:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    stop.raise_if_stopped()
    trainer.save_model(str(folder))
    return result.metrics


def _choose(folder: Path) -> Path | None:
    """The checkpoint that all processes go on from. The first one chooses: others may still see the folder as
    it was a minute ago, on a network file system. What is half-written or damaged is removed, since the
    trainer counts it among the checkpoints that it keeps, and would delete a whole one for it."""
    checkpoint = None
    if PartialState().is_main_process:
        _refuse_other_checkpoints(folder)
        checkpoint = newest_complete_checkpoint(folder)
        if checkpoint is not None:
            logger.info("going on from %s", checkpoint.name)
        for other in _checkpoints(folder):
            if not _is_marked(other) or damage(other) is not None:
                logger.warning("%s is not complete and removed", other.name)
                shutil.rmtree(other)
    return broadcast_object_list([checkpoint])[0]


def _refuse_other_checkpoints(folder: Path) -> None:
    """The trainer counts every `checkpoint-*` among those that it keeps, and deletes the oldest."""
    others = sorted({*folder.glob("checkpoint-*/")} - {*_checkpoints(folder)})
    if others:
        raise ValueError(
            f"{others[0]} is no checkpoint-<step> of the trainer, which would count it among those that it "
            "keeps, and delete a whole one, or it, for it; move it elsewhere"
        )


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
        with phase("sync"):
            PartialState().wait_for_everyone()
        assert args.output_dir is not None, "a trainer that saves has an output folder"
        if args.should_save:
            with phase("checkpoint"):
                mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def mark_complete(checkpoint: Path) -> None:
    """Flush every file of the checkpoint to disk, then write its marker."""
    for file in [*checkpoint.rglob("*"), checkpoint]:
        _flush(file)
        beat()
    write_json(checkpoint / MARKER, _sizes(checkpoint))
    _flush(checkpoint)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Bytes of every file but the marker."""
    files = [path for path in checkpoint.rglob("*") if path.is_file() and path.name != MARKER]
    return {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in sorted(files)}


def damage(checkpoint: Path) -> str | None:
    """What a marked checkpoint has lost since it was marked: the first file that is shorter, longer or gone.
    None where all is there; the empty markers of older versions are trusted."""
    marker = checkpoint / MARKER
    if not marker.stat().st_size:
        return None
    try:
        then = read_json(marker)
    except ValueError as error:
        return str(error)
    now = _sizes(checkpoint)
    for name, size in then.items():
        if now.get(name) != size:
            return f"{name} has {now[name]} of {size} bytes" if name in now else f"{name} is gone"
    return None


def newest_complete_checkpoint(folder: Path) -> Path | None:
    """The marked `checkpoint-<step>` of `folder` with the highest step, None where there is none. One that
    is damaged is passed over with a warning.

    Raises:
        ValueError: all are damaged; says which file of the newest, and what to do.
    """
    faults: dict[Path, str] = {}
    for checkpoint in _marked(folder):
        fault = damage(checkpoint)
        if fault is None:
            for path, why in faults.items():
                logger.warning("%s is damaged (%s): passed over for %s", path, why, checkpoint.name)
            return checkpoint
        faults[checkpoint] = fault
    if not faults:
        return None
    newest = next(iter(faults))
    remove = shlex.join(["rm", "-r", *map(str, faults)])
    raise ValueError(
        f"{newest} is damaged ({faults[newest]}), and no earlier checkpoint is whole. Put the file back from "
        f"a copy, or begin anew: {remove}"
    )


def _marked(folder: Path) -> list[Path]:
    return list(filter(_is_marked, _checkpoints(folder)))


def _is_marked(checkpoint: Path) -> bool:
    return (checkpoint / MARKER).is_file()


def _checkpoints(folder: Path) -> list[Path]:
    """The `checkpoint-<step>` of `folder`, newest first, whole or not."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*/")}
    return sorted((path for path in steps if steps[path].isdecimal()), key=lambda path: -int(steps[path]))
