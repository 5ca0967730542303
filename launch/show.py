"""`slowthink show`: what ran, from what, with which numbers. Reads manifests and metrics, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.run_folder import read_manifest
from data.stage import summary
from data.store import read_json


def show(folder: Path) -> None:
    """Print a pipeline's run folder as a table, or one stage's folder in full.

    Raises:
        ValueError: the folder holds no run.
    """
    from rich.console import Console

    console = Console()
    manifest = read_manifest(folder)
    if manifest is not None:
        _show_stage(console, folder, manifest)
        return
    stages = [p.parent for p in sorted(folder.glob("*/manifest.json")) if ".old-" not in p.parent.name]
    if not stages:
        raise ValueError(
            f"{folder}: no run here; run folders are runs/<pipeline> and runs/<pipeline>/<stage>"
        )
    _show_pipeline(console, folder, stages)


def _show_pipeline(console: Any, folder: Path, stages: list[Path]) -> None:
    from rich.table import Table

    table = Table(title=str(folder), expand=False)
    for column in ("stage", "status", "time", "inputs", "numbers"):
        table.add_column(column, overflow="fold")
    for stage in stages:
        manifest = read_manifest(stage)
        assert manifest is not None
        seconds = f"{manifest['seconds']:.0f} s" if "seconds" in manifest else ""
        inputs = "\n".join(manifest["inputs"])
        table.add_row(manifest["name"], manifest["status"], seconds, inputs, summary(_metrics(stage)))
    console.print(table)


def _show_stage(console: Any, folder: Path, manifest: dict[str, Any]) -> None:
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
            console.print(f"[bold]{key:>10}[/]  {manifest[key]}", highlight=False)
    metrics = _metrics(folder)
    if steps := metrics.pop("funnel", None):
        console.print(_funnel(steps))
    for title, values in (
        ("recipe", manifest["recipe"]),
        ("inputs", {name: value["fingerprint"] for name, value in manifest["inputs"].items()}),
        ("versions", {**manifest["packages"], **manifest["git"], **manifest["host"]}),
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
    return read_json(path) if path.is_file() else {}
