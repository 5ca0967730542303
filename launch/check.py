"""`slowthink check`: what can be known of a recipe before anything runs, printed stage by stage."""

from __future__ import annotations

import dataclasses
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.recipe import RUN_PREFIX, Recipe, load_pipeline, load_recipe
from evaluation.report.summary import duration
from launch.examine import TRAINING, disk, examine, micro_batch, steps
from launch.findings import Examined
from launch.pipeline import launch_config
from launch.show import WIDTH

DEFAULT_GPU = "H100"
_SIGNS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "bad": "[red]bad[/]"}


@dataclass(frozen=True, kw_only=True)
class Prices:
    """For what the plans are made."""

    gpu: str
    mfu: float | None
    usd_per_gpu_hour: float | None


def check(
    path: Path,
    *,
    first_step: bool = False,
    gpu: str | None = None,
    mfu: float | None = None,
    usd_per_gpu_hour: float | None = None,
) -> int:
    """Check a recipe file or every recipe of a folder. Returns 1 if something will not work, else 0.

    Args:
        first_step: whether to run the first steps of each training stage too, see `launch/first_step.py`.
        gpu: kind of GPU; the one of this machine, or else H100.
        mfu: share of the GPU's peak that training reaches, see `training/time_plan.py`.

    Raises:
        ValueError: no recipe there, an unknown GPU, or a share outside (0, 1].
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries about their own next versions
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # what is not at hand is said, not downloaded
    recipes = load_pipeline(path) if path.is_dir() else [load_recipe(path)]
    if mfu is not None and not 0 < mfu <= 1:
        raise ValueError(f"--mfu: {mfu} must be in (0, 1]")
    prices = Prices(gpu=gpu or _this_gpu(), mfu=mfu, usd_per_gpu_hour=usd_per_gpu_hour)
    console = _console()
    bad = 0
    for recipe in recipes:
        found = examine(recipe)
        planned = None
        if found.configs and recipe.stage in TRAINING:
            planned = _plan(found, prices)
            if first_step and not any(finding.level == "bad" for finding in found.findings):
                from launch.first_step import first_steps

                first_steps(found, planned)
        bad += any(finding.level == "bad" for finding in found.findings)
        _print(console, found)
    console.print(f"{len(recipes)} stages, {bad} of them will not work as they are", markup=False)
    return 1 if bad else 0


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _this_gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if _has_gpu() else DEFAULT_GPU


def _console() -> Any:
    from rich.console import Console

    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=WIDTH)


# ------------------------------------------------------------------ memory, time, cost


def _plan(found: Examined, prices: Prices) -> Any | None:
    """The plan of a stage's memory; what it needs and takes is added to the findings."""
    import yaml

    from inference.accelerators import accelerator
    from training.memory_plan import GIB, predict, saved_states
    from training.stage_jobs import Launch, describe, job_of

    device = accelerator(prices.gpu)
    if device is None:
        raise ValueError(
            f"--gpu: {prices.gpu!r} is not a known GPU; known ones are in inference/accelerators.py"
        )
    recipe = found.recipe
    network = network_of_stage(recipe, "model_name_or_path")
    if network is None:
        name = recipe.fields.get("model_name_or_path")
        found.say("note", "memory", f"the config of {name} is not at hand: memory and time not predicted")
        return None
    assert found.data is not None, "training stages have data"
    launch = Launch.of(yaml.safe_load(launch_config(recipe).read_text(encoding="utf-8")), recipe.launch)
    gpu_bytes = None if launch.cpu else device.memory_gib * GIB
    job = job_of(
        found.configs,
        network,
        launch,
        rows=micro_batch(found),
        tokens=found.data.longest_tokens,
        gpu_bytes=gpu_bytes,
        others=_others(found),
    )
    plan = predict(job)
    parts = ", ".join(f"{name} {value / GIB:.1f}" for name, value in plan.parts.items() if value > 0.05 * GIB)
    limit = f"of {device.memory_gib:g} GiB ({device.name})" if gpu_bytes else "of RAM"
    text = f"{describe(job)}: {plan.gib:.1f} {limit} at the {plan.moment}: {parts}"
    if plan.offloaded:
        each = plan.offloaded / int(recipe.launch.get("num_machines", 1))
        text += f"; and {each / GIB:,.0f} GiB of RAM on each machine, which is not looked at"
    _say_memory(found, job, plan, gpu_bytes or _ram_bytes() / launch.processes, text)
    saved = plan.sizes.all * job.kept_dtype.itemsize
    disk(found, saved, saved_states(job, plan.sizes), here=launch.cpu or _has_gpu())
    if gpu_bytes:
        _say_time(found, job, plan, prices)
    return plan


def _say_memory(found: Examined, job: Any, plan: Any, limit: float, text: str) -> None:
    from training.memory_advice import advice
    from training.memory_plan import GIB

    if plan.total <= limit:
        found.say("ok", "memory", f"fits: {text}")
        return
    helps = advice(job, limit)
    fix = "nothing that was tried makes it fit"
    if helps:
        ram = helps[1].offloaded / GIB
        more = f", and {ram:,.0f} GiB of RAM over all machines" if ram else ""
        fix = f"{'; '.join(helps[0])} ({helps[1].gib:.1f} GiB{more})"
    found.say("bad", "memory", f"does not fit: {text}. What would: {fix}")


def _ram_bytes() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _say_time(found: Examined, job: Any, plan: Any, prices: Prices) -> None:
    from inference.accelerators import accelerator
    from training.time_plan import Work, predict_time

    number, data = steps(found), found.data
    device = accelerator(prices.gpu)
    if number is None or data is None or device is None:
        found.say("note", "time", "depends on data that is not there yet")
        return
    args = found.configs[1]
    rows = number * args.gradient_accumulation_steps * micro_batch(found) * job.processes
    drawn = float(rows) if hasattr(args, "max_completion_length") else 0.0
    reference = hasattr(args, "num_generations") and bool(args.beta)
    work = Work(
        rows=rows,
        tokens=data.mean_tokens,
        drawn=drawn,
        drawn_tokens=float(getattr(args, "max_completion_length", 0) or 0),
        scored=1 + reference if drawn else 0,
    )
    time = predict_time(job, plan.sizes, work, device, prices.mfu)
    lengths = (
        "tokens of the data" if data.measured and not drawn else "at most: every row as long as it may be"
    )
    text = f"{duration(time.training)} training at {time.share:.0%} of the peak"
    if drawn:
        text += f", {duration(time.generation)} generation on as many GPUs"
    text += f"; {time.gpu_hours:,.1f} GPU-hours"
    if prices.usd_per_gpu_hour is not None:
        text += f", {time.gpu_hours * prices.usd_per_gpu_hour:,.0f} USD"
    found.say("ok", "time", f"{text} ({lengths})")


def _others(found: Examined) -> tuple[Any, ...]:
    """Configs of the teacher and of reward models, where they are known; a note on the others."""
    recipe = found.recipe
    keys = ["teacher"] if recipe.stage == "distill" and not recipe.fields.get("teacher_server") else []
    names = [recipe.fields[key] for key in keys]
    for entry in recipe.fields.get("rewards", []) if recipe.stage == "grpo" else []:
        if isinstance(entry, dict) and entry.get("model"):
            names.append(entry["model"])
    found_ones = []
    for name in names:
        network = network_of_name(recipe, name)
        if network is None:
            found.say("note", "memory", f"the config of {name} is not at hand: its memory is not counted")
        else:
            found_ones.append(network)
    return tuple(found_ones)


def network_of_stage(recipe: Recipe, key: str) -> Any | None:
    """The config of the model that a key of a recipe names."""
    name = recipe.fields.get(key)
    return None if name is None else network_of_name(recipe, str(name))


def network_of_name(recipe: Recipe, name: str) -> Any | None:
    """The config of a model, which of an earlier stage that has not run is that of what it begins with."""
    from data.run_folder import pipeline_folder
    from training.model_shape import network_of

    if not name.startswith(RUN_PREFIX):
        return network_of(name)
    stage = name.removeprefix(RUN_PREFIX)
    folder = pipeline_folder(recipe) / stage
    if (folder / "config.json").is_file():
        return network_of(str(folder))
    before = load_recipe(recipe.path.with_name(f"{stage}.yaml"))
    if before.stage == "pretrain":
        return _pretrained(before)
    return network_of_stage(before, "model_name_or_path")


def _pretrained(recipe: Recipe) -> Any:
    from data.small_world import build_tokenizer
    from training.pretrain import PretrainConfig, build_model

    known = {field.name for field in dataclasses.fields(PretrainConfig)}
    config = PretrainConfig(**{key: value for key, value in recipe.fields.items() if key in known})
    tokenizer = build_tokenizer(config.max_position_embeddings, talkative=config.talkative)
    return build_model(config, tokenizer).config


# ------------------------------------------------------------------ print


def _print(console: Any, found: Examined) -> None:
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]{escape(found.recipe.name)}[/] {found.recipe.stage}", highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 1))
    table.add_column("level", no_wrap=True, min_width=4)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in found.findings:
        table.add_row(_SIGNS[finding.level], finding.what, escape(finding.text))
    console.print(table)
