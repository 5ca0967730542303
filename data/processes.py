"""The processes of a launch: which one this is, how many there are, and how many the recipe asks for.

A stage may also be done in shares: launches that know nothing of each other (`share`).

`launch:` of a recipe holds options of `accelerate launch`, and keys of our own (`data.recipe.OWN_KEYS`). Some
of its keys say where and how patiently a stage runs and cannot change its result (`data.recipe.PLACE_KEYS`).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from data.recipe import Recipe, RecipeError

EXPECTED = "SLOWTHINK_PROCESSES"
"""How many processes `slowthink` has asked accelerate for, told to those that really started."""

_FLAGS: dict[str, type] = {
    "num_processes": int,
    "num_machines": int,
    "machine_rank": int,
    "main_process_ip": str,
    "main_process_port": int,
    "mixed_precision": str,
    "restarts": int,
    "stall_seconds": float,
}


def rank() -> int:
    """Number of this process in its launch (accelerate, torchrun); 0 is the one that keeps the run folder."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """How many processes there are, over all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


SHARE = "SLOWTHINK_SHARE"


def share() -> tuple[int, int]:
    """Which share of the stage this launch does, of how many: (2, 8) where $SLOWTHINK_SHARE is 2/8, as each
    task of an array job says it; else (0, 1), the whole stage.

    Raises:
        ValueError: the variable is not K/N with K from 0 to N - 1.
    """
    text = os.environ.get(SHARE, "0/1")
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"{SHARE}: {text!r} is not a share; write K/N with K from 0 to N - 1, such as 2/8")
    return int(number), int(count)


def worker() -> int:
    """Number of this process among those of all shares."""
    return share()[0] * world() + rank()


def workers() -> int:
    """How many processes there are, over all shares."""
    return share()[1] * world()


def is_part() -> bool:
    """Whether another process gathers what this one does: it is not the first of its launch, or its launch
    does a share, the rows of which wait in journals for the stage to be run as a whole."""
    return rank() > 0 or share()[1] > 1


def add_launch_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that take the place of keys of the recipe's `launch:`."""
    group = parser.add_argument_group("launch", "in place of the recipe's `launch:`")
    group.add_argument("--launch", metavar="CONFIG", help="a file of launch/accelerate, for example zero2")
    for key, kind in _FLAGS.items():
        group.add_argument(f"--{key}", type=kind)


def with_launch_flags(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says about its launch.

    Raises:
        RecipeError: a stage without `launch:` is given options of a launch, but no launch.
    """
    given: dict[str, Any] = {key: value for key in _FLAGS if (value := getattr(options, key)) is not None}
    if options.launch:
        given["config"] = options.launch
    if not given:
        return recipe
    if "config" not in {**recipe.launch, **given}:
        raise RecipeError(
            f"--{next(iter(given))}: the recipe has no `launch:`; add --launch ddp (or another of "
            "launch/accelerate)"
        )
    return dataclasses.replace(recipe, launch={**recipe.launch, **given})


def batch_sizes(configs: Iterable[Any]) -> dict[str, int]:
    """Rows of an optimizer step, and completions of a generation, over all processes; empty for a stage that
    has no batches: its processes share out the rows, and any number of them gives the same ones."""
    sizes: dict[str, int] = {}
    for config in configs:
        rows = getattr(config, "per_device_train_batch_size", None)
        if rows is not None:
            sizes["rows of a step"] = rows * config.gradient_accumulation_steps * world()
        if getattr(config, "generation_batch_size", None):
            sizes["completions of a generation"] = config.generation_batch_size
    return sizes


def check_world(recipe: Recipe) -> None:
    """Refuse to start with another number of processes than asked for: batches would have another size, or
    each process would train a model of its own.

    Raises:
        RecipeError: names both numbers and the fix.
    """
    asked = recipe.launch.get("num_processes") or os.environ.get(EXPECTED)
    if asked is None or int(asked) == world():
        return
    raise recipe.error(
        f"launch: {asked} processes are asked for and {world()} started. A config with `distributed_type: "
        "MULTI_GPU` (ddp, ddp_cpu) or DEEPSPEED starts several, `accelerate launch --cpu` never does; to run "
        f"with {world()}, say so: --num_processes {world()} behind the recipe, and mind the global batch"
    )
