"""Generating with the processes of one launch (accelerate, torchrun), each with a model of its own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from data.heartbeat import phase
from data.processes import world


def wait() -> None:
    """Go on when every process is here; they may be days apart. The launcher ends them all if one dies."""
    if world() > 1:
        import torch
        from accelerate import PartialState
        from accelerate.utils import InitProcessGroupKwargs

        options = InitProcessGroupKwargs(timeout=timedelta(days=7)).to_kwargs()
        state = PartialState(cpu=not torch.cuda.is_available(), **options)  # else a CPU is on its own
        assert state.num_processes == world(), state
        with phase("sync"):
            state.wait_for_everyone()


@phase("sync")
def gather(rows: list[Any]) -> list[Any]:
    """The rows of every process of a training, one process after the other; all must call it."""
    from accelerate.utils import gather_object

    return gather_object(rows)
