"""Step labels by several processes of one launch, and by ones that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from data.store import read_rows, write_attempts
from tests.inference.step_oracle import attempt, problem

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def start(recipe: Path, processes: int) -> subprocess.Popen[bytes]:
    config = ROOT / "launch/accelerate/ddp_cpu.yaml"
    launcher = ["-m", "launch.accelerated", "--config_file", str(config), "--num_processes", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "inference.label_steps"]
    environment = {**os.environ, "SLOWTHINK_RUNS": str(recipe.parent / "runs"), "OMP_NUM_THREADS": "1"}
    with open(recipe.parent / "log", "ab") as log:
        return subprocess.Popen(
            [*command, "--config", str(recipe)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def finish(recipe: Path, processes: int) -> str:
    """The rows of a run that ends well."""
    done = start(recipe, processes).wait(240)
    assert done == 0, (recipe.parent / "log").read_text()[-3000:]
    table = next((recipe.parent / "runs").rglob("step_labels.parquet"))
    assert not list(table.parent.glob("*.journal*"))
    return repr(read_rows(table, "step_labels"))


def make_recipe(folder: Path, tiny_model: Path) -> Path:
    folder.mkdir()
    lines = [[f"{j} + {j * (i if j > 2 else 1)}" for j in range(8)] for i in range(4)]
    rows = [
        attempt(own, "correct" if n % 3 == i else "wrong", i, problem=problem(n))
        for n in range(7)
        for i, own in enumerate(lines)
    ]
    write_attempts(folder / "a", rows)
    fields = {
        "stage": "label_steps",
        "attempts": str(folder / "a"),
        "model_name_or_path": str(tiny_model),
        "dtype": "float32",
        "batch_size": 4,
        "max_tokens": 80,
        "rollouts": 6,
        "method": "binary_search",
    }
    path = folder / "01_label.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def test_neither_processes_nor_kills_change_the_rows(tiny_model: Path, tmp_path: Path) -> None:
    alone = finish(make_recipe(tmp_path / "alone", tiny_model), 1)
    recipe = make_recipe(tmp_path / "killed", tiny_model)
    for processes in (2, 1):
        process = start(recipe, processes)
        deadline, size = time.monotonic() + 120, journalled(recipe.parent)
        while process.poll() is None and journalled(recipe.parent) <= size and time.monotonic() < deadline:
            time.sleep(0.005)
        assert process.poll() is None, (recipe.parent / "log").read_text()[-3000:]
        os.kill(worker(recipe) if processes > 1 else process.pid, signal.SIGKILL)
        assert process.wait(60) != 0  # the launcher ends the other process
    assert journalled(recipe.parent)
    assert finish(recipe, 2) == alone
    assert "going on after" in (recipe.parent / "log").read_text()


def journalled(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("rollouts.journal*"))


def worker(recipe: Path) -> int:
    """The second process of a launch."""
    wanted = {b"RANK=1", f"SLOWTHINK_RUNS={recipe.parent / 'runs'}".encode()}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted <= set(variables):
            return int(pid)
    raise AssertionError((recipe.parent / "log").read_text()[-3000:])
