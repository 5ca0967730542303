"""Training stages in several processes, for tests: started with the launch configs that users use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.stages import find_stage

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="DeepSpeed compiles its CPU operations with g++"
)


def launcher(config: str, processes: int = 2) -> list[str]:
    """Options of accelerate for a file of launch/accelerate, in float32; `use_cpu: true` is the recipe's."""
    path = ROOT / "launch" / "accelerate" / f"{config}.yaml"
    return ["--config_file", str(path), "--num_processes", str(processes), "--mixed_precision", "no"]


DDP, ZERO2, ZERO3 = launcher("ddp_cpu"), launcher("zero2"), launcher("zero3")


def start(recipe: Path, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run the recipe's stage, in one process where there are no options."""
    stage = yaml.safe_load(recipe.read_text())["stage"]
    begin = ["-m", "launch.accelerated", *options] if options else []
    return subprocess.run(
        [sys.executable, *begin, "-m", find_stage(stage).module, "--config", str(recipe)],
        cwd=ROOT,
        env={**os.environ, "SLOWTHINK_RUNS": str(recipe.parent / "runs"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,  # DeepSpeed compiles its optimizer first
    )


def launch(recipe: Path, options: Sequence[str] = ()) -> Path:
    """The folder of the finished stage."""
    done = start(recipe, options)
    assert done.returncode == 0, done.stderr[-3000:]
    return recipe.parent / "runs" / recipe.parent.name / recipe.stem


def write_recipe(path: Path, fields: dict[str, Any]) -> Path:
    """A recipe for a CPU that logs every step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    always = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    path.write_text(yaml.safe_dump({**always, "logging_steps": 1, "report_to": "none", "seed": 1, **fields}))
    return path


def unfinish(folder: Path, *checkpoints: int) -> None:
    """As if the run had been killed before these were complete."""
    for step in checkpoints:
        (folder / f"checkpoint-{step}" / ".complete").unlink()
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"'))
