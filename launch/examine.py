"""What can be known of one stage before it runs: recipe, inputs, data, rewards, trainer keys, batches."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.recipe import Recipe, references
from data.run_folder import pipeline_folder, read_manifest, stage_folder
from launch.findings import Examined, Level
from launch.pipeline import check_stage, processes
from launch.stage_data import data_of

TRAINING = ("sft", "grpo", "distill", "prm", "reward_model")
"""Stages whose memory and time are predicted."""


def examine(recipe: Recipe) -> Examined:
    """Look at everything but memory and time."""
    found = Examined(recipe=recipe)
    try:
        found.configs = check_stage(recipe)
    except ValueError as error:
        found.say("bad", "recipe", str(error))
        return found
    found.say("ok", "recipe", "keys, types and launch")
    _inputs(found)
    if recipe.stage not in TRAINING:
        if recipe.fields.get("rewards"):
            _rewards(found)
        return found
    found.data = data_of(found)
    if recipe.stage == "grpo":
        _rewards(found)
    _arguments(found)
    _batches(found)
    return found


def _inputs(found: Examined) -> None:
    """Stages that are read are finished, or are made before."""
    made, waiting = [], []
    for name in references(found.recipe):
        manifest = read_manifest(pipeline_folder(found.recipe) / name)
        finished = manifest is not None and manifest["status"] == "finished"
        (made if finished else waiting).append(name)
    for text in _paths(found.recipe.fields):
        if not Path(text).exists():
            found.say("bad", "inputs", f"{text} does not exist")
    if made:
        found.say("ok", "inputs", f"finished: {', '.join(made)}")
    if waiting:
        found.say("note", "inputs", f"made by earlier stages, not there yet: {', '.join(waiting)}")


def _paths(value: Any) -> Iterator[str]:
    """Values that are run folders outside the pipeline, or paths of tables."""
    if isinstance(value, str):
        if value.startswith("runs/") or value.endswith((".parquet", ".jsonl")):
            yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _paths(part)


def _rewards(found: Examined) -> None:
    """Whether known exploits are paid: a note, since a run works with them."""
    from rewards.doctor import doctor
    from training.learned_reward import LEARNED_REWARDS

    try:
        said = io.StringIO()
        paid = doctor(found.recipe.path, file=said, more=LEARNED_REWARDS)
    except ValueError as error:
        found.say("note", "rewards", f"not examined: {error}")
        return
    line = said.getvalue().strip().splitlines()[-1].removeprefix(f"{found.recipe.path}: ")
    found.say(
        "note" if paid else "ok", "rewards", line + ("; see `slowthink doctor rewards`" if paid else "")
    )


def micro_batch(found: Examined) -> int:
    """Rows of a process; `check_stage` has those of all where processes share a generation."""
    args = found.configs[1]
    shared = hasattr(args, "num_generations")
    return args.per_device_train_batch_size // (processes(found.recipe) if shared else 1)


def steps(found: Examined) -> int | None:
    """Optimizer steps of the stage; None where that depends on data that is not there."""
    args, data = found.configs[1], found.data
    if args.max_steps > 0:
        return args.max_steps
    if data is None or data.rows is None:
        return None
    rows = data.rows * (args.num_generations if hasattr(args, "num_generations") else 1)
    return max(1, int(rows / _global_batch(found) * args.num_train_epochs))


def _global_batch(found: Examined) -> int:
    args = found.configs[1]
    return micro_batch(found) * processes(found.recipe) * args.gradient_accumulation_steps


def _arguments(found: Examined) -> None:
    """Keys of the trainer that the stage refuses when it starts, as far as they do not depend on its
    processes."""
    from rewards.registry import build_rewards
    from training import distill_arguments, grpo_arguments, prm_arguments
    from training.learned_reward import LEARNED_REWARDS
    from training.refused_keys import NOT_RESUMED, refuse

    own, args, model = found.configs
    with found.looking_at("arguments"):
        refuse(args, NOT_RESUMED)
        if found.recipe.stage == "grpo":
            rewards = build_rewards(own.rewards, own.thinking_format, more=LEARNED_REWARDS)
            grpo_arguments.check_arguments(args, rewards)
        elif found.recipe.stage == "distill":
            distill_arguments.check_arguments(args, model, held_out=own.eval_problems is not None)
        elif found.recipe.stage in ("prm", "reward_model"):
            refuse(args, prm_arguments.REFUSED)


def _batches(found: Examined) -> None:
    args = found.configs[1]
    number, whole = steps(found), _global_batch(found)
    rows = f"{processes(found.recipe)} processes x {micro_batch(found)} x {args.gradient_accumulation_steps}"
    text = f"{rows} = {whole:,} rows a step, {'?' if number is None else f'{number:,}'} steps"
    level: Level = "ok"
    if found.recipe.stage == "grpo":
        groups = int(args.generation_batch_size) // args.num_generations
        text += f"; {groups} groups of {args.num_generations} a generation"
    elif found.data is not None and found.data.rows is not None and whole > found.data.rows:
        level, text = "note", f"{text}: a step is larger than the data"
    if number is not None and args.warmup_steps >= max(1, number):
        level, text = "note", f"{text}: warmup_steps {args.warmup_steps:g} is all of it"
    found.say(level, "batches", text)


def disk(found: Examined, weights: float, optimizer: float, *, here: bool) -> None:
    """Whether the checkpoints fit on the disk of the run folders.

    Args:
        here: whether the stage can run on this machine; else its disk is another's.
        weights: bytes of the saved model.
        optimizer: bytes of the optimizer's states, over all processes.
    """
    args = found.configs[1]
    kept = 0 if str(args.save_strategy.value) == "no" else max(2, args.save_total_limit or 10)
    needed = weights + kept * (weights + optimizer)
    folder = stage_folder(found.recipe).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    limit = "no save_total_limit: 10 assumed" if kept and not args.save_total_limit else f"{kept} checkpoints"
    text = f"{needed / 1e9:,.1f} GB ({limit} and the model), {free / 1e9:,.1f} GB free at {folder}"
    found.say("ok" if needed < free else "bad" if here else "note", "disk", text)
