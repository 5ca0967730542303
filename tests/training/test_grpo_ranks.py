"""GRPO with several processes of one launch: the same curve as with one, and a resumed ZeRO-3 run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.rollouts import logged_steps
from data.store import write_problems
from tests.training.grpo_runs import curve, problems, reward
from tests.training.grpo_runs import parity as parity_reward

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

NAMES = ("grad_norm", "rollouts/reward", "rollouts/length", "groups/drawn", "groups/trained_useful")
DDP = ["--config_file", str(ROOT / "launch/accelerate/ddp_cpu.yaml"), "--num_processes", "2"]
ZERO3 = [
    *(
        "--use_deepspeed",
        "--zero_stage",
        "3",
        "--zero3_init_flag",
        "true",
        "--zero3_save_16bit_model",
        "true",
    ),
    *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
]


def recipe(folder: Path, model: Path, **options: Any) -> Path:
    """12 completions of 4 questions: of two processes each has one group and a half."""
    write_problems(folder / "p", problems(16))
    fields: dict[str, Any] = {
        "stage": "grpo",
        "problems": str(folder / "p"),
        "model_name_or_path": str(model),
        "attn_implementation": "documents",
        "rewards": [reward(parity_reward)],
        "num_generations": 3,
        "per_device_train_batch_size": 6,
        "max_completion_length": 10,
        "dynamic_sampling": 2,
        "curriculum": "pass_rate",
        "max_steps": 4,
        "learning_rate": 5.0e-3,
        "logging_steps": 1,
        "save_steps": 2,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "seed": 1,
    }
    path = folder / "01_grpo.yaml"
    path.write_text(yaml.safe_dump({**fields, **options}))
    return path


def launch(path: Path, launcher: list[str]) -> Path:
    """Run the recipe; the folder of its stage."""
    start = ["-m", "launch.accelerated", *launcher] if launcher else []
    environment = {**os.environ, "SLOWTHINK_RUNS": str(path.parent / "runs"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *start, "-m", "training.grpo", "--config", str(path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,  # DeepSpeed compiles its optimizer first
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return path.parent / "runs" / path.parent.name / "01_grpo"


def test_two_processes_have_the_curve_of_one(tiny_model: Path, tmp_path: Path) -> None:
    found = {}
    for name, launcher, size in (("one", [], 12), ("two", DDP, 6)):
        (tmp_path / name).mkdir()
        path = recipe(tmp_path / name, tiny_model, per_device_train_batch_size=size, use_cpu=True)
        found[name] = curve(launch(path, launcher), *NAMES)
    assert [step[-2] for step in found["one"]] != [4.0] * 4, "some groups were replaced"
    assert found["two"] == [pytest.approx(step, abs=1e-4) for step in found["one"]]


INSIDE = {  # each generation serves four steps, and the checkpoint is behind the third
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_steps": 6,
    "save_steps": 3,
    "use_cpu": True,
}


def unfinish(folder: Path, *checkpoints: int) -> None:
    """As if the run had been killed before these were complete."""
    for step in checkpoints:
        (folder / f"checkpoint-{step}" / ".complete").unlink()
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"'))


def test_two_processes_go_on_inside_a_generation(tiny_model: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, tiny_model, **INSIDE)
    folder = launch(path, DDP)
    names = (*NAMES, "loss", "entropy")
    whole = curve(folder, *names)
    unfinish(folder, 6)
    assert curve(launch(path, DDP), *names) == [pytest.approx(step, abs=1e-5) for step in whole]


def test_a_run_goes_on_with_another_number_of_processes(tiny_model: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, tiny_model, **INSIDE)
    folder = launch(path, [])
    assert logged_steps(folder) == [0, 4]
    unfinish(folder, 6)
    drawn = curve(launch(path, DDP), "groups/drawn")
    assert [step for step, groups in drawn if groups] == [1, 4]
    assert logged_steps(folder) == [0, 3]


@pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles its CPU operations with g++")
def test_zero3_has_the_curve_of_one_process_and_resumes(tiny_model: Path, tmp_path: Path) -> None:
    """With a reference that follows: it is gathered for a checkpoint and put back when the run goes on."""
    reference = {
        "beta": 0.05,
        "sync_ref_model": True,
        "ref_model_sync_steps": 2,
        "ref_model_mixup_alpha": 1.0,
    }
    names = (*NAMES, "kl")
    for name in ("one", "sharded"):
        (tmp_path / name).mkdir()
    path = recipe(tmp_path / "one", tiny_model, per_device_train_batch_size=12, use_cpu=True, **reference)
    expected = curve(launch(path, []), *names)
    path = recipe(tmp_path / "sharded", tiny_model, ddp_backend="gloo", **reference)
    folder = launch(path, ZERO3)
    assert curve(folder, *names) == [pytest.approx(step, abs=1e-3) for step in expected]

    unfinish(folder, 4)
    assert curve(launch(path, ZERO3), *names) == [pytest.approx(step, abs=1e-3) for step in expected]
    assert expected[2][-1] < expected[1][-1]
