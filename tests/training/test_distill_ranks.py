"""Distillation with two processes of one launch: the curve of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.schema import Problem, problem_id
from data.store import read_json, write_problems
from tests.training.distill_runs import arguments, configured, make_teacher
from tests.training.ranks import DDP, launch, write_recipe
from training.distill import distill

pytestmark = pytest.mark.slow

STEPS = ("step", "loss", "grad_norm", "generated_tokens", "recorded_tokens", "on_policy_share")
MEASURES = ("step", "eval_agreement", "eval_kl", "eval_reverse_kl", "eval_accuracy", "eval_completion_length")


def curve(folder: Path, names: tuple[str, ...]) -> list[list[float]]:
    history = read_json(folder / "log_history.json")
    return [[entry[name] for name in names] for entry in history if names[1] in entry]


def both(tiny_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Folders of the same run in this process and in two: rows of both kinds, five held-out questions."""
    from trl import ModelConfig

    teacher = make_teacher(tmp_path / "teacher", tiny_model)
    asked = [f"How many are {i}?" for i in range(5)]
    write_problems(tmp_path / "held", [Problem(id=problem_id(q), question=q, answer="1") for q in asked])
    stage: dict[str, Any] = {"on_policy_fraction": 0.5, "eval_problems": str(tmp_path / "held")}
    config = configured(tmp_path / "one", teacher, **stage)
    fields = {
        "stage": "distill",
        "problems": config.problems,
        "traces": config.traces,
        "teacher": str(teacher),
        "model_name_or_path": str(tiny_model),
        **stage,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 2,
        "max_completion_length": 24,
        "max_steps": 3,
        "learning_rate": 5.0e-3,
    }
    path = write_recipe(tmp_path / "two" / "01_distill.yaml", fields)
    model = ModelConfig(model_name_or_path=str(tiny_model))
    distill(config, arguments(tmp_path / "one", max_steps=3), model, tmp_path / "one")
    return tmp_path / "one", launch(path, DDP)


def test_two_processes_have_the_curve_of_one(tiny_model: Path, tmp_path: Path) -> None:
    one, two = both(tiny_model, tmp_path)
    for names in (STEPS, MEASURES):
        assert curve(two, names) == [pytest.approx(step, abs=1e-4) for step in curve(one, names)]
    assert [step[0] for step in curve(one, MEASURES)] == [0, 3]
