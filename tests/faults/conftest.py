"""Stages on a tiny model, run as their own command in this process, and a disk that can be filled."""

from __future__ import annotations

import json
import logging
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.schema import Problem, problem_id
from data.store import read_json, read_rows, write_attempts, write_problems
from launch.stages import STAGES
from tests.inference.step_oracle import attempt, problem
from tests.training.test_sft import traces

GENERATION = {"dtype": "float32", "batch_size": 4, "max_tokens": 12}
TRAINING = {
    "max_steps": 6,
    "save_steps": 2,
    "logging_steps": 1,
    "learning_rate": 5e-3,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}
RECIPES: dict[str, dict[str, Any]] = {
    "sample": {"problems": "FOLDER", "num_completions": 6, **GENERATION},
    "evaluate": {
        "benchmarks": [{"path": "FOLDER/sums.jsonl", "role": "eval", "licence": "MIT"}],
        "num_completions": 4,
        "k": [1],
        **GENERATION,
    },
    "label_steps": {
        "attempts": "FOLDER",
        "rollouts": 6,
        "labels": "soft",
        "limit": 6,
        **GENERATION,
        "max_tokens": 80,
    },
    "search": {
        "problems": "FOLDER",
        "scorer_model": "text",
        "scorer": "tests.inference.search.test_stage:TextScorer",
        "strategies": [{"strategy": "best_of_n", "n": 3}, {"strategy": "beam", "n": 4, "width": 2}],
        "max_step_tokens": 5,
        "temperature": 1.0,
        **GENERATION,
    },
    "sft": {"dataset": "FOLDER", "pad_token": "<|fim_pad|>", "max_length": 256, **TRAINING},
    "grpo": {
        "problems": "FOLDER",
        "attn_implementation": "documents",
        "rewards": [{"function": "tests.training.grpo_runs:digits"}],
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "steps_per_generation": 2,
        "max_completion_length": 12,
        **TRAINING,
        "save_steps": 1,
    },
}
TABLES = {
    "sample": ("attempts",),
    "evaluate": ("attempts",),
    "label_steps": ("step_labels",),
    "search": ("searches", "nodes"),
}


@dataclass(frozen=True)
class Stages:
    """Recipes of one pipeline."""

    recipes: Path
    patch: pytest.MonkeyPatch

    def run(self, stage: str, runs: Path) -> int:
        """`python -m <stage> --config ...` in this process, with its run folder in `runs`. The exit code."""
        self.patch.setenv("SLOWTHINK_RUNS", str(runs))
        module = STAGES[stage].module
        self.patch.setattr(sys, "argv", [module, "--config", str(self.recipes / f"{stage}.yaml")])
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def change(self, stage: str, **fields: Any) -> None:
        """Other fields in the stage's recipe; None leaves one out."""
        path = self.recipes / f"{stage}.yaml"
        changed = {**yaml.safe_load(path.read_text()), **fields}
        path.write_text(yaml.safe_dump({key: value for key, value in changed.items() if value is not None}))

    def folder(self, stage: str, runs: Path) -> Path:
        return runs / self.recipes.name / stage

    def result(self, stage: str, runs: Path) -> list[Any]:
        """What must not depend on faults: the rows without times, or step and loss of every step."""
        folder = self.folder(stage, runs)
        if stage not in TABLES:
            history = read_json(folder / "log_history.json")
            return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
        return [
            json.dumps({key: value for key, value in row.items() if "seconds" not in key and key != "cost"})
            for table in TABLES[stage]
            for row in read_rows(folder / f"{table}.parquet", table)
        ]


@pytest.fixture
def stages(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stages]:
    """Every stage of `RECIPES`, on few rows."""
    data, recipes = tmp_path / "data", tmp_path / "tiny"
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(8)]
    write_problems(
        data,
        [
            Problem(id=problem_id(row["question"]), question=row["question"], answer=row["answer"])
            for row in rows
        ],
    )
    (data / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_attempts(data, traces(), "traces")
    lines = [[f"{j} + {j * (i if j > 2 else 1)}" for j in range(4)] for i in range(2)]
    solved = [
        attempt(own, "correct" if n % 2 == i else "wrong", i, problem=problem(n))
        for n in range(6)
        for i, own in enumerate(lines)
    ]
    write_attempts(data, solved)
    recipes.mkdir()
    for stage, fields in RECIPES.items():
        recipe = {"stage": stage, "model_name_or_path": str(tiny_model), **fields}
        (recipes / f"{stage}.yaml").write_text(yaml.safe_dump(recipe).replace("FOLDER", str(data)))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    loggers = logging.getLogger().handlers[:]
    yield Stages(recipes, monkeypatch)
    logging.getLogger().handlers = loggers
    for number, handler in handlers.items():
        signal.signal(number, handler)


class SmallDisk:
    """A file system of its own, which a file fills but for so many bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def leave(self, free_bytes: int) -> None:
        self.empty()
        (self.path / "others").write_bytes(bytes(shutil.disk_usage(self.path).free - free_bytes))

    def empty(self) -> None:
        (self.path / "others").unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """16 MiB in memory; skipped where this may not be mounted."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
