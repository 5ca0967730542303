"""GRPO with several processes of one launch: the same curve as with one, and a resumed ZeRO-3 run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.rollouts import logged_steps
from data.store import write_problems
from tests.training.grpo_runs import curve, problems, reward
from tests.training.grpo_runs import parity as parity_reward
from tests.training.ranks import DDP, ZERO2, ZERO3, launch, needs_compiler, unfinish, write_recipe

pytestmark = pytest.mark.slow

NAMES = ("grad_norm", "rollouts/reward", "rollouts/length", "groups/drawn", "groups/trained_useful")


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
        "save_steps": 2,
    }
    return write_recipe(folder / "01_grpo.yaml", {**fields, **options})


@needs_compiler
def test_two_processes_have_the_curve_of_one(tiny_model: Path, tmp_path: Path) -> None:
    alone = launch(recipe(tmp_path / "one", tiny_model, per_device_train_batch_size=12))
    expected = curve(alone, *NAMES)
    assert [step[-2] for step in expected] != [4.0] * 4, "some groups were replaced"
    for name, options, within in (("ddp", DDP, 1e-4), ("zero2", ZERO2, 1e-3)):
        found = curve(launch(recipe(tmp_path / name, tiny_model), options), *NAMES)
        assert found == [pytest.approx(step, abs=within) for step in expected], name


INSIDE = {  # each generation serves four steps, and the checkpoint is behind the third
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_steps": 6,
    "save_steps": 3,
}


def test_two_processes_go_on_inside_a_generation(tiny_model: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, tiny_model, **INSIDE)
    folder = launch(path, DDP)
    names = (*NAMES, "loss", "entropy")
    whole = curve(folder, *names)
    unfinish(folder, 6)
    assert curve(launch(path, DDP), *names) == [pytest.approx(step, abs=1e-5) for step in whole]


def test_a_run_goes_on_with_another_number_of_processes(tiny_model: Path, tmp_path: Path) -> None:
    """With as many rows in a step; the completions of a generation are drawn anew."""
    folder = launch(recipe(tmp_path, tiny_model, **INSIDE))
    assert logged_steps(folder) == [0, 4]
    unfinish(folder, 6)
    path = recipe(tmp_path, tiny_model, **{**INSIDE, "per_device_train_batch_size": 2})
    drawn = curve(launch(path, DDP), "groups/drawn")
    assert [step for step, groups in drawn if groups] == [1, 4]
    assert logged_steps(folder) == [0, 3]


@needs_compiler
def test_zero3_has_the_curve_of_one_process_and_resumes(tiny_model: Path, tmp_path: Path) -> None:
    """With a reference that follows: it is gathered for a checkpoint and put back when the run goes on."""
    reference = {
        "beta": 0.05,
        "sync_ref_model": True,
        "ref_model_sync_steps": 2,
        "ref_model_mixup_alpha": 1.0,
    }
    names = (*NAMES, "kl")
    path = recipe(tmp_path / "one", tiny_model, per_device_train_batch_size=12, **reference)
    expected = curve(launch(path), *names)
    path = recipe(tmp_path / "sharded", tiny_model, **reference)
    folder = launch(path, ZERO3)
    assert curve(folder, *names) == [pytest.approx(step, abs=1e-3) for step in expected]

    unfinish(folder, 4)
    assert curve(launch(path, ZERO3), *names) == [pytest.approx(step, abs=1e-3) for step in expected]
    assert expected[2][-1] < expected[1][-1]
