"""Every training stage under every launcher: does it run, is it what one process does, does it go on.

    python -m benchmarks.launch_matrix [--stages sft grpo ...] [--launchers ddp_cpu zero2 ...]

Tiny random models and the small world on a CPU, each stage started as users start it. One process makes four
steps of eight rows; a launcher's two processes do the same with half of the rows each. Then the run is taken
back to the checkpoint behind the second step, as if it had been killed, and goes on: with two processes, and
with one, whose micro-batch is twice as large. A cell has the largest difference of a loss or a gradient norm
to the run of one process in each of the three, relative where a value is above 1; `equal` is at most 1e-3 in
all, and `began anew` that a run's log does not say which checkpoint it went on from. fsdp2 has no CPU form:
its cell says whether it is refused.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from data.schema import Attempt, Problem, written_completion
from data.small_world import build_tokenizer, generate_problems, solve
from data.steps import LabelledSolution, labelled_row
from data.store import read_json, write_attempts, write_json, write_problems, write_rows
from training.checkpoints import MARKER
from training.pretrain import PretrainConfig, build_model

ROOT = Path(__file__).resolve().parents[1]
ROWS, BATCH, STEPS = 32, 8, 4
LAUNCHERS = ("ddp_cpu", "zero2", "zero3", "zero3_offload", "fsdp2")
MEASURES = ("loss", "grad_norm")
EQUAL = 1e-3

EVERYWHERE = {
    "max_steps": STEPS,
    "save_steps": STEPS // 2,
    "learning_rate": 5.0e-3,
    "weight_decay": 0.1,
    "logging_steps": 1,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "seed": 1,
}
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"dataset": "data", "eval_rows": 0},
    "grpo": {
        "problems": "data",
        "rewards": [{"function": "benchmarks.launch_matrix:parity"}],
        "num_generations": 2,
        "max_completion_length": 16,
    },
    "distill": {
        "problems": "data",
        "traces": "data",
        "teacher": "teacher",
        "on_policy_fraction": 0.5,
        "max_completion_length": 48,
    },
    "prm": {"dataset": ["data"], "step_separator": "\n", "held_out_fraction": 0.0},
    "reward_model": {"attempts": ["data"], "step_separator": "\n", "held_out_fraction": 0.0},
}
"""Fields of each stage; `data` and `teacher` are folders of the work."""


def parity(*, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    """A reward of 0 or 1 that a random model gets at random: groups have an advantage."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def make_work(folder: Path) -> None:
    """Two random models, and a table of each kind, of as many rows as all steps take."""
    tokenizer: Any = build_tokenizer(1024)
    for name, width in (("model", 32), ("teacher", 48)):
        config = PretrainConfig(hidden_size=width, intermediate_size=2 * width)
        build_model(config, tokenizer).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    problems = generate_problems(ROWS, 0, "train", min_steps=2, max_steps=4)
    write_problems(folder / "data", problems)
    write_attempts(folder / "data", [_attempt(p, right=True) for p in problems], "traces")
    pairs = [_attempt(p, right=right) for p in problems for right in (True, False)]
    write_attempts(folder / "data", pairs)
    draw = Random(0)
    write_rows(
        folder / "data" / "step_labels.parquet",
        (labelled_row(_labelled(problem, draw)) for problem in problems),
        "step_labels",
    )


def _attempt(problem: Problem, *, right: bool) -> Attempt:
    answer = problem.answer if right else f"{problem.answer}0"
    thinking, response = solve(problem), f"\\boxed{{{answer}}}"
    return Attempt(
        problem=problem,
        index=0 if right else 1,
        completion=replace(
            written_completion(thinking, response), text=f"<think>{thinking}</think>{response}"
        ),
        verdict="correct" if right else "wrong",
        extracted=answer,
    )


def _labelled(problem: Problem, draw: Random) -> LabelledSolution:
    steps = tuple(solve(problem).split("\n"))
    labels = tuple(float(draw.random() < 0.5) for _ in steps)
    return LabelledSolution(problem=problem, steps=steps, labels=labels, right=bool(labels[-1]))


class Cell:
    """A stage under a launcher, in a folder of its own."""

    def __init__(self, work: Path, stage: str, launcher: str) -> None:
        self.work, self.stage, self.launcher = work, stage, launcher
        self.folder = work / f"{stage}-{launcher}"
        self.folder.mkdir()
        folders = {"data": str(work / "data"), "teacher": str(work / "teacher")}
        fields = {
            key: [folders.get(item, item) if isinstance(item, str) else item for item in value]
            if isinstance(value, list)
            else folders.get(value, value)
            for key, value in STAGES[stage].items()
        }
        model = {"stage": stage, "model_name_or_path": str(work / "model")}
        self.recipe = self.folder / f"01_{stage}.yaml"
        self.recipe.write_text(yaml.safe_dump({**model, **EVERYWHERE, **fields}))
        self.run_folder = self.folder / "runs" / self.folder.name / self.recipe.stem

    def start(self, processes: int) -> subprocess.CompletedProcess[str]:
        """As a user starts it on this machine."""
        launch = ["--launch", self.launcher, "--num_processes", str(processes), "--mixed_precision", "no"]
        rows = ["--per_device_train_batch_size", str(BATCH // processes)]
        command = ["-m", "launch.cli", self.stage, "--config", str(self.recipe), *launch, *rows]
        environment = {**os.environ, "SLOWTHINK_RUNS": str(self.folder / "runs"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )

    def curve(self) -> list[list[float]]:
        """Loss and gradient norm of each step."""
        history = read_json(self.run_folder / "log_history.json")
        return [[entry[name] for name in MEASURES] for entry in history if "loss" in entry]

    def take_back(self) -> None:
        """As if it had been killed before the last checkpoint was complete."""
        (self.run_folder / f"checkpoint-{STEPS}" / MARKER).unlink()
        manifest = self.run_folder / "manifest.json"
        write_json(manifest, {**read_json(manifest), "status": "running"})

    def went_on(self) -> bool:
        """Whether a run took up the checkpoint of the middle: one that begins anew has the same curve."""
        return f"going on from checkpoint-{STEPS // 2}" in (self.run_folder / "log.txt").read_text()


def difference(one: list[list[float]], two: list[list[float]]) -> float:
    """Largest difference of two curves, relative where a value is above 1; infinite for other steps."""
    if len(one) != len(two) or not one:
        return float("inf")
    pairs = [pair for a, b in zip(one, two, strict=True) for pair in zip(a, b, strict=True)]
    return max(abs(a - b) / max(1.0, abs(a)) for a, b in pairs)


def measure(cell: Cell, expected: list[list[float]]) -> dict[str, Any]:
    """A row of the table."""
    row: dict[str, Any] = {"stage": cell.stage, "launcher": cell.launcher}
    done = cell.start(2)
    if cell.launcher == "fsdp2":
        refused = done.returncode == 2 and "FSDP" in done.stderr
        return {**row, "result": "refused on a CPU" if refused else f"ended with {done.returncode}"}
    if done.returncode:
        return {**row, "result": f"failed: {done.stderr.strip()[-300:]}"}
    row["two_processes"] = difference(expected, cell.curve())
    shutil.copytree(cell.run_folder, kept := cell.folder / "kept")
    for name, processes in (("resumed", 2), ("resumed_by_one", 1)):
        shutil.rmtree(cell.run_folder)
        shutil.copytree(kept, cell.run_folder)
        cell.take_back()
        done = cell.start(processes)
        if done.returncode:
            return {**row, "result": f"{name} failed: {done.stderr.strip()[-300:]}"}
        if not cell.went_on():
            return {**row, "result": f"{name}: began anew"}
        row[name] = difference(expected, cell.curve())
    worst = max(row["two_processes"], row["resumed"], row["resumed_by_one"])
    return {**row, "result": "equal" if worst <= EQUAL else "differs"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--launchers", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as place:
        work = Path(place)
        make_work(work)
        print(f"{'stage':13}{'launcher':15}{'2':>10}{'2 -> 2':>10}{'2 -> 1':>10}  result", flush=True)
        for stage in options.stages:
            alone = Cell(work, stage, "cpu")
            done = alone.start(1)
            if done.returncode:
                sys.exit(f"{stage} in one process failed: {done.stderr[-2000:]}")
            for launcher in options.launchers:
                row = measure(Cell(work, stage, launcher), alone.curve())
                rows.append(row)
                numbers = [row.get(name) for name in ("two_processes", "resumed", "resumed_by_one")]
                shown = "".join(f"{'' if n is None else format(n, '.1e'):>10}" for n in numbers)
                print(f"{stage:13}{launcher:15}{shown}  {row['result']}", flush=True)
    print(json.dumps({"cells": rows}))


if __name__ == "__main__":
    main()
