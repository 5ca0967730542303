"""A stage in shares that know nothing of each other, as an array job runs it, ends as one run does."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.recipe import RecipeError, load_recipe
from data.run_folder import RunFolder, plan, read_manifest
from data.schema import Problem, problem_id
from data.shares import shared_folder
from data.stage import run_stage
from data.store import read_rows, write_attempts, write_problems
from launch.stages import find_stage
from tests.inference.step_oracle import attempt, problem

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

COUNT = 13
TABLES = {"sample": "attempts", "evaluate": "attempts", "search": "attempts", "label_steps": "step_labels"}
FIELDS: dict[str, dict[str, Any]] = {
    "sample": {"problems": "P", "num_completions": 2, "max_tokens": 12},
    "evaluate": {"benchmarks": [{"path": "P", "role": "eval"}], "num_completions": 2, "max_tokens": 12},
    "search": {"problems": "P", "strategies": [{"strategy": "majority", "n": 2}], "max_tokens": 12},
    "label_steps": {"attempts": "A", "rollouts": 2, "max_tokens": 60},
}


def recipe(folder: Path, tiny_model: Path, stage: str) -> Path:
    questions = [f"What is {i} + {i}?" for i in range(COUNT)]
    write_problems(folder / "P", [Problem(id=problem_id(q), question=q, answer="2") for q in questions])
    solutions = [attempt(["1 + 1", "2", "3"], "wrong", problem=problem(n)) for n in range(COUNT)]
    write_attempts(folder / "A", solutions)
    fields = yaml.safe_dump(
        {
            "stage": stage,
            "model_name_or_path": str(tiny_model),
            "dtype": "float32",
            "batch_size": 2,
            **FIELDS[stage],
        }
    )
    for place in ("P", "A"):
        fields = fields.replace(f": {place}\n", f": {folder / place}\n")
    path = folder / f"01_{stage}.yaml"
    path.write_text(fields)
    return path


def run(path: Path, stage: str, share: str = "") -> None:
    """The stage, or a share of it, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLOWTHINK_RUNS", str(path.parent / "runs"))
        patch.setenv("SLOWTHINK_SHARE", share or "0/1")
        patch.setattr(sys, "argv", [stage, "--config", str(path)])
        found = find_stage(stage)
        body = getattr(import_module(found.module), "run_search" if stage == "search" else stage)
        run_stage(body, *found.config_classes(), shares=True)


def run_at_once(path: Path, stage: str, *shares: str) -> None:
    """Shares as processes of their own, at the same time."""
    environment = {**os.environ, "SLOWTHINK_RUNS": str(path.parent / "runs"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", find_stage(stage).module, "--config", str(path)]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "SLOWTHINK_SHARE": share},
            stderr=subprocess.PIPE,
            text=True,
        )
        for share in shares
    ]
    for process in started:
        error = process.communicate(timeout=240)[1]
        assert process.returncode == 0, error[-3000:]


@pytest.mark.parametrize("stage", TABLES)
def test_shares_and_a_last_run_make_the_rows_of_one(
    stage: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, shared = (tmp_path / name for name in ("alone", "shared"))
    table = TABLES[stage]
    path = recipe(alone, tiny_model, stage)
    run(path, stage)
    expected = read_rows(alone / "runs" / "alone" / path.stem / f"{table}.parquet", table)

    path = recipe(shared, tiny_model, stage)
    folder = shared / "runs" / "shared" / path.stem
    if stage == "sample":
        run_at_once(path, stage, "0/2", "1/2")
    else:
        run(path, stage, "1/2")
        run(path, stage, "0/2")
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest["status"] == "interrupted"
    assert not (folder / f"{table}.parquet").exists()
    journals = [file.stat().st_size for file in folder.glob("*.journal*")]
    assert len(journals) == 2
    assert min(journals) > 0

    capsys.readouterr()
    run(path, stage)
    assert "going on after" in capsys.readouterr().out
    assert read_rows(folder / f"{table}.parquet", table) == expected
    assert not list(folder.glob("*.journal*"))
    run(path, stage, "0/2")
    assert "finished before" in capsys.readouterr().out


def test_a_stage_that_has_no_shares_says_so(tmp_path: Path) -> None:
    path = tmp_path / "01_curate.yaml"
    path.write_text("stage: curate\nproblems: p\ntraces: [t]\n")
    environment = {**os.environ, "SLOWTHINK_RUNS": str(tmp_path / "runs"), "SLOWTHINK_SHARE": "0/2"}
    command = [sys.executable, "-m", "data.curate", "--config", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "SLOWTHINK_SHARE: stage 'curate' cannot be done in shares" in done.stderr


def test_the_same_share_cannot_run_twice(tiny_model: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe(tmp_path, tiny_model, "sample"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLOWTHINK_RUNS", str(tmp_path / "runs"))
        patch.setenv("SLOWTHINK_SHARE", "1/2")
        with shared_folder(loaded):
            with pytest.raises(RecipeError, match="being written by another"), shared_folder(loaded):
                pass
            with pytest.raises(RecipeError, match="being written by another"):
                RunFolder(loaded, plan(loaded))
            patch.setenv("SLOWTHINK_SHARE", "0/2")
            with shared_folder(loaded):
                pass
        RunFolder(loaded, plan(loaded)).stop("interrupted", "no share holds it any more")
