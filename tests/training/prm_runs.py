"""Small runs of stage `prm` for tests: a task that a random model learns in seconds, and a stage call."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from trl import ModelConfig

from data.schema import Problem, problem_id
from data.steps import LabelledSolution, labelled_row
from data.store import read_json, write_rows
from training.prm import PrmConfig, prm


def problem(number: int, role: Any = "train") -> Problem:
    question = f"Question {number}?"
    return Problem(id=problem_id(question), question=question, answer="1", role=role, source="s")


def signs(count: int = 256, steps: int = 4, role: Any = "train") -> list[LabelledSolution]:
    """Steps of letters at random and a sign, + in the right ones and - in the wrong ones; two solutions a
    problem."""
    draw = random.Random(0)
    made = []
    for number in range(count):
        labels = [float(draw.random() < 0.5) for _ in range(steps)]
        letters = [draw.choices("abcdefgh", k=8) for _ in labels]
        for letter, label in zip(letters, labels, strict=True):
            letter[draw.randrange(8)] = "+" if label else "-"
        made.append(
            LabelledSolution(
                problem=problem(number // 2, role),
                steps=tuple(" ".join(letter) for letter in letters),
                labels=tuple(labels),
                right=bool(labels[-1]),
            )
        )
    return made


def write_solutions(folder: Path, solutions: Sequence[LabelledSolution]) -> str:
    """A stage folder with these solutions."""
    write_rows(folder / "step_labels.parquet", map(labelled_row, solutions), "step_labels")
    return str(folder)


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 16,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "save_steps": 3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return TrainingArguments(output_dir=str(folder), **{**defaults, **options})


def run(
    model: Path,
    folder: Path,
    dataset: str,
    stage: dict[str, Any] | None = None,
    loading: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The stage's metrics."""
    config = PrmConfig(dataset=[dataset], **{"step_separator": "\n", **(stage or {})})
    loaded = ModelConfig(model_name_or_path=str(model), **(loading or {}))
    return prm(config, arguments(folder, **options), loaded, folder)


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of every logged step of a finished run."""
    return [
        (entry["step"], entry["loss"]) for entry in read_json(folder / "log_history.json") if "loss" in entry
    ]
