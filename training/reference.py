"""The reference model of a KL penalty in checkpoints: TRL's SyncRefModelCallback moves it and saves nothing,
so that a resumed run would be held to the first model again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

FILE = "reference.safetensors"


def save_reference(accelerator: Accelerator, model: Any, checkpoint: Path) -> None:
    """Write the reference's parameters into a checkpoint; every process of the launch must call it."""
    from safetensors.torch import save_file

    state = {}
    for name, parameter in _gathered(accelerator, model):
        if accelerator.is_main_process:
            state[name] = parameter.detach().cpu().contiguous().clone()
    if accelerator.is_main_process:
        save_file(state, str(checkpoint / FILE))


def load_reference(accelerator: Accelerator, model: Any, checkpoint: Path) -> None:
    """Set the reference's parameters to those of a checkpoint.

    Raises:
        ValueError: the checkpoint has none, or those of another model.
    """
    from safetensors.torch import load_file

    if not (checkpoint / FILE).is_file():
        raise ValueError(f"{checkpoint} has no {FILE}: it was made without sync_ref_model; start a new run")
    state = load_file(str(checkpoint / FILE))
    for name, parameter in _gathered(accelerator, model):
        if name not in state or state[name].shape != parameter.shape:
            raise ValueError(f"{checkpoint / FILE} is of another model: {name}")
        parameter.data.copy_(state[name])


def _gathered(accelerator: Accelerator, model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """The parameters one by one, whole on every process; under ZeRO-3 what the first one writes is kept."""
    plugin: Any = accelerator.state.deepspeed_plugin
    sharded = plugin is not None and plugin.zero_stage == 3
    plain: Any = accelerator.unwrap_model(model)
    for name, parameter in plain.named_parameters():
        if sharded:
            import deepspeed

            context: Any = deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)
        else:
            context = nullcontext()
        with context:
            yield name, parameter
