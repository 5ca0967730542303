"""`slowthink show`: what ran, from what, with which numbers. Reads manifests and metrics, nothing else."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.recipe import RUN_PREFIX
from data.run_folder import read_manifest
from data.store import read_json
from evaluation.report.summary import duration, picked

WIDTH = 120
"""Of what goes to no terminal, unless $COLUMNS says otherwise."""
STATUS_STYLES = {"finished": "green", "starts": "yellow", "running": "yellow", "interrupted": "yellow"}


def show(folder: Path) -> None:
    """Print a pipeline's run folder as a table, or one stage's folder in full.

    Raises:
        ValueError: the folder holds no run, or is a stage's whose manifest is not readable.
    """
    console = terminal()
    manifest = read_manifest(folder)
    if manifest is not None:
        _show_stage(console, folder, _checked(manifest, folder))
        return
    _show_pipeline(console, folder, stage_folders(folder))


def terminal() -> Any:
    """The console to print to."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=WIDTH)
    return console


def stage_folders(folder: Path) -> list[Path]:
    """A stage's own folder, or those of the stages of a pipeline, in their order.

    Raises:
        ValueError: the folder holds no run.
    """
    if (folder / "manifest.json").is_file():
        return [folder]
    stages = [p.parent for p in sorted(folder.glob("*/manifest.json")) if ".old-" not in p.parent.name]
    if not stages:
        raise ValueError(
            f"{folder}: no run here; run folders are runs/<pipeline> and runs/<pipeline>/<stage>"
        )
    return stages


def _checked(manifest: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(manifest, dict) or "status" not in manifest:
        raise ValueError(
            f"{folder / 'manifest.json'} is no manifest of a stage; delete it and run its stage again"
        )
    return manifest


# ------------------------------------------------------------------ a pipeline


def _show_pipeline(console: Any, folder: Path, stages: list[Path]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, expand=False)
    table.add_column("stage", overflow="fold", min_width=min(30, max(len(stage.name) for stage in stages)))
    table.add_column("status", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for column in ("inputs", "counts", "numbers"):
        table.add_column(column, overflow="fold")
    statuses: Counter[str] = Counter()
    errors: list[str] = []
    seconds = 0.0
    for stage in stages:
        manifest, metrics = read_stage(stage)
        status, took = str(manifest["status"]), manifest.get("seconds")
        took = took if isinstance(took, int | float) else 0
        statuses[status] += 1
        seconds += took
        if manifest.get("error") not in (None, status):
            first_line, *_ = str(manifest["error"]).split("\n")
            errors.append(f"{stage.name}: {first_line}")
        inputs = _inputs(manifest.get("inputs"), [stage.name for stage in stages])
        counts, numbers = picked(metrics)
        cells = (duration(took) if took else "", inputs, ", ".join(counts), "\n".join(numbers))
        table.add_row(Text(stage.name), Text(status, STATUS_STYLES.get(status, "red")), *map(Text, cells))
    summary = ", ".join(f"{count} {status}" for status, count in statuses.items())
    title = f"{folder}: {len(stages)} stages ({summary}), {duration(seconds)}"
    console.print(title, markup=False, soft_wrap=True)
    console.print(table)
    for error in errors:
        console.print(error, markup=False, soft_wrap=True)


def read_stage(stage: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and metrics of a stage; a file that is not what it should be becomes the stage's status."""
    try:
        manifest = _checked(read_manifest(stage), stage)
        return manifest, _metrics(stage)
    except (ValueError, OSError) as error:  # moved aside just now, or not for us to read
        return {"status": "unreadable", "error": str(error)}, {}


def _inputs(inputs: Any, stages: Sequence[str]) -> str:
    """What a stage reads: other stages, by their numbers where these tell them, and files without their
    folders."""
    numbers = Counter(name.partition("_")[0] for name in stages)
    shown = []
    for name in inputs if isinstance(inputs, dict) else ():
        stage = name.removeprefix(RUN_PREFIX)
        number = stage.partition("_")[0]
        known = stage in stages and number.isdigit() and numbers[number] == 1
        shown.append(number if known else stage if name.startswith(RUN_PREFIX) else Path(name).name)
    return ", ".join(shown)


# ------------------------------------------------------------------ a stage


def _show_stage(console: Any, folder: Path, manifest: dict[str, Any]) -> None:
    from rich.markup import escape

    for key in (
        "pipeline",
        "name",
        "stage",
        "status",
        "error",
        "started",
        "ended",
        "seconds",
        "attempts",
        "seed",
    ):
        if manifest.get(key) is not None:
            console.print(f"[bold]{key:>10}[/]  {escape(str(manifest[key]))}", highlight=False)
    metrics = _metrics(folder)
    if steps := metrics.pop("funnel", None):
        console.print(_funnel(steps))
    inputs = manifest.get("inputs", {})
    versions = {name: v for key in ("packages", "git", "host") for name, v in manifest.get(key, {}).items()}
    for title, values in (
        ("recipe", manifest.get("recipe", {})),
        ("inputs", {name: value.get("fingerprint") for name, value in inputs.items()}),
        ("versions", versions),
        ("metrics", metrics),
    ):
        console.rule(title)
        console.print_json(data=values)


def _funnel(steps: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="funnel", expand=False)
    for column in ("rule", "in", "dropped", "out"):
        table.add_column(column, justify="left" if column == "rule" else "right")
    for step in steps:
        table.add_row(step["rule"], *(f"{step[column]:,}" for column in ("in", "dropped", "out")))
    return table


def _metrics(folder: Path) -> dict[str, Any]:
    path = folder / "metrics.json"
    metrics = read_json(path) if path.is_file() else {}
    if not isinstance(metrics, dict):
        raise ValueError(f"{path} holds no metrics of a stage; delete it and run its stage again")
    return metrics
