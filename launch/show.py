"""`slowthink show`: what ran, from what, with which numbers. Reads manifests and metrics, nothing else."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data.recipe import RUN_PREFIX
from data.run_folder import read_manifest
from data.store import read_json

WIDTH = 120
"""Of what goes to no terminal, unless $COLUMNS says otherwise."""
STATUS_STYLES = {"finished": "green", "running": "yellow", "interrupted": "yellow"}
_COUNTED = ("problems", "questions", "attempts", "searches", "pairs", "rows", "steps", "rejected")
_FLOWS = ("rows", "solutions")
"""Counted as NAME_in and NAME_out."""
_COURSES = (("_first", "_last"), ("_start", "_end"), ("_before", "_after"), ("_before", ""))
"""Endings of the names that a number has at the beginning and at the end of a training."""
_MOST_NUMBERS = 4


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
    except ValueError as error:
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


def duration(seconds: float) -> str:
    """Seconds for people: 3.2s, 48s, 12m05s, 3h07m."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest}s"
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def picked(metrics: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What a line has room for: how much went through a stage, and the few numbers that matter.

    These are the accuracy of each benchmark of an evaluation; of a comparison its headline, one evaluation
    after the other; of a training how its measures began and ended; of other stages that do not let rows
    through the first few numbers.
    """
    counts, used = _counts(metrics)
    numbers = [*_accuracies(metrics.get("benchmarks")), *_compared(metrics), *_courses(metrics)]
    if not numbers and not any(f"{name}_out" in used for name in _FLOWS):
        others = [k for k, v in metrics.items() if k not in used and "seconds" not in k and _is_number(v)]
        shown = [f"{key} {number(metrics[key])}" for key in others[:_MOST_NUMBERS]]
        numbers = [", ".join(shown)] if shown else []
    return counts, numbers


def _counts(metrics: dict[str, Any]) -> tuple[list[str], set[str]]:
    """Counts as text, and the keys that they are from."""
    found: list[str] = []
    used: set[str] = set()
    for name in _FLOWS:
        before, after = metrics.get(f"{name}_in"), metrics.get(f"{name}_out")
        if _is_number(before) and _is_number(after):
            found.append(f"{before:,} -> {after:,} {name}")
            used |= {f"{name}_in", f"{name}_out"}
    for name in _COUNTED:
        if isinstance(metrics.get(name), int):
            used.add(name)
            if metrics[name] or name != "rejected":
                found.append(f"{metrics[name]:,} {name}")
    for name in ("tokens", "completion_tokens"):
        if _is_number(metrics.get(name)):
            used.add(name)
            found.append(f"{_short(metrics[name])} {name.replace('_', ' ')}")
    return found, used


def _accuracies(benchmarks: Any) -> Iterator[str]:
    """Of each benchmark of an evaluation: accuracy with its interval, and the votes of the most
    completions."""
    for name, found in benchmarks.items() if isinstance(benchmarks, dict) else ():
        accuracy = isinstance(found, dict) and (found.get("accuracy") or found.get("pass@1"))
        if not isinstance(accuracy, dict):
            continue
        votes = max(
            (key for key in found if key.startswith("maj@")), key=lambda key: int(key[4:]), default=""
        )
        most = f", {votes} {number(found[votes].get('mean'))}" if votes else ""
        mean, low, high = (number(accuracy.get(key)) for key in ("mean", "low", "high"))
        yield f"{name} {mean} [{low}, {high}]{most}"


def _compared(metrics: dict[str, Any]) -> list[str]:
    """The headline of a comparison: a line for each benchmark."""
    names = metrics.get("evaluations")
    names = [f" {name}" for name in names] if isinstance(names, list) else []
    lines: dict[str, list[str]] = {}
    for key, value in metrics.items():
        if ends := [name for name in names if key.endswith(name)]:
            lines.setdefault(key.removesuffix(max(ends, key=len)), []).append(number(value))
    return [f"{name} {' -> '.join(values)}" for name, values in lines.items()]


def _courses(metrics: dict[str, Any]) -> list[str]:
    """What a training began and ended with."""
    found: dict[str, str] = {}
    for begins, ends in _COURSES:
        for key, value in metrics.items():
            name = key.removesuffix(begins)
            if key.endswith(begins) and name not in found and name + ends in metrics:
                found[name] = f"{name} {number(value)} -> {number(metrics[name + ends])}"
    return [", ".join(found.values())] if found else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: Any) -> str:
    """Three decimals of what is small, four digits of what is not; "-" of what is no number."""
    if not _is_number(value):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 10 or not value else f"{value:.4g}"


def _short(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{number:,.0f}"


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
