"""Generating with the processes of one launch (accelerate, torchrun), each with a model of its own."""

from __future__ import annotations

import os
from datetime import timedelta


def world() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def wait() -> None:
    """Go on when every process is here; they may be days apart. The launcher ends them all if one dies."""
    if world() > 1:
        import torch
        from accelerate import PartialState
        from accelerate.utils import InitProcessGroupKwargs

        options = InitProcessGroupKwargs(timeout=timedelta(days=7)).to_kwargs()
        state = PartialState(cpu=not torch.cuda.is_available(), **options)  # else a CPU is on its own
        assert state.num_processes == world(), state
        state.wait_for_everyone()
