"""A DeepSpeed checkpoint that another number of processes goes on from.

Each process of ZeRO keeps a part of the optimizer, and DeepSpeed refuses to load the parts of another number
of processes. Its universal form has the states whole, one folder for each weight (deepspeed 0.19.8,
checkpoint/ds_to_universal.py); it is made beside the parts when it is needed, once: 12 bytes for each weight.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback
from transformers.training_args import OptimizerNames

from data.heartbeat import phase

logger = logging.getLogger(__name__)

LATEST = "latest_universal"
"""File in which DeepSpeed looks for the folder of the universal form."""


def load_for_these_processes(trainer: Trainer, checkpoint: Path) -> None:
    """Have DeepSpeed load the universal form of a checkpoint that other processes than these have written.

    Raises:
        ValueError: the optimizer is one that the universal form does not know.
    """
    accelerator: Any = trainer.accelerator
    plugin = accelerator.state.deepspeed_plugin
    then = broadcast_object_list([len(_parts(checkpoint))])[0]  # as the first process sees it
    if plugin is None or then in (0, accelerator.num_processes):
        return
    optim = OptimizerNames(trainer.args.optim).value
    if optim not in ("adamw_torch", "adamw_torch_fused"):
        raise ValueError(
            f"launch: {checkpoint} was written by {then} processes, and with optim {optim} only as many can "
            f"go on from it; set num_processes: {then} instead of {accelerator.num_processes}"
        )
    if trainer.args.should_save and not (checkpoint / LATEST).is_file():
        logger.info(
            "%s: parts of %d processes are put together for %d", checkpoint, then, accelerator.num_processes
        )
        with phase("load"):  # which may take longest
            make_universal(checkpoint)
    with phase("sync"):
        PartialState().wait_for_everyone()
    plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
    trainer.add_callback(_RepairStates(trainer))


def _parts(checkpoint: Path) -> list[Path]:
    """What each process has written of the optimizer."""
    return sorted(checkpoint.glob("global_step*/*zero_pp_rank_*_optim_states.pt"))


def make_universal(checkpoint: Path) -> None:
    """Write the universal form; a half-written one is never read, since `LATEST` is the last file."""
    from deepspeed.checkpoint.ds_to_universal import main

    parts = _parts(checkpoint)[0].parent
    made = checkpoint / "universal"
    if made.exists():
        shutil.rmtree(made)
    options = argparse.Namespace(
        input_folder=str(parts),
        output_folder=str(made),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    main(options)


class _RepairStates(TrainerCallback):
    """What DeepSpeed's ZeRO-3 gets wrong when it has loaded the universal form: all groups of weights have
    the weight decay of the first, and share one count of steps, which each of them then raises."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer: Any = trainer
        groups = trainer.create_optimizer().param_groups
        self.decays = [group["weight_decay"] for group in groups if group["params"]]

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        optimizer = self.trainer.deepspeed.basic_optimizer
        for group, decay in zip(optimizer.param_groups, self.decays, strict=True):
            group["weight_decay"] = decay
        for state in optimizer.state.values():
            if torch.is_tensor(state["step"]):  # a number is no one's
                state["step"] = state["step"].clone()
