"""SIGKILL at random moments: every stage, started again, ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data.run_folder import read_manifest
from data.store import read_json, read_rows
from tests.training.prm_runs import signs, write_solutions

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("SLOWTHINK_KILLS", "1"))
"""Of each stage."""

RECIPES = {
    "01_collect": """
stage: collect
sources:
  - {path: DATA, role: train, licence: MIT, domain: sums}
""",
    "02_sample": """
stage: sample
problems: run:01_collect
model_name_or_path: MODEL
num_completions: 4
max_tokens: 12
batch_size: 8
limit: 60
""",
    "03_curate": """
stage: curate
problems: run:01_collect
traces: [run:01_collect]
attempts: [run:02_sample]
require_correct: false
size: 60
""",
    "04_sft": """
stage: sft
launch: cpu
dataset: run:03_curate
model_name_or_path: MODEL
pad_token: <|fim_pad|>
packing: true
max_length: 256
per_device_train_batch_size: 1
max_steps: 40
logging_steps: 1
save_steps: 4
learning_rate: 1.0e-3
bf16: false
gradient_checkpointing: false
""",
    "05_evaluate": """
stage: evaluate
model_name_or_path: MODEL
benchmarks:
  - {path: DATA, role: eval, licence: MIT, limit: 40}
num_completions: 4
k: [1, 2, 4]
max_tokens: 12
batch_size: 8
""",
    "06_grpo": """
stage: grpo
launch: cpu
problems: run:01_collect
model_name_or_path: MODEL
attn_implementation: documents
rewards: [{function: "tests.training.grpo_runs:digits"}, accuracy]
dynamic_sampling: 1
curriculum: pass_rate
num_generations: 4
per_device_train_batch_size: 8
steps_per_generation: 2
max_completion_length: 12
max_steps: 40
logging_steps: 1
save_steps: 3
learning_rate: 1.0e-3
bf16: false
gradient_checkpointing: false
""",
    "07_prm": """
stage: prm
launch: cpu
dataset: [LABELLED]
model_name_or_path: MODEL
step_separator: "\\n"
held_out_fraction: 0.2
per_device_train_batch_size: 4
max_steps: 40
logging_steps: 1
save_steps: 3
learning_rate: 1.0e-3
""",
    "08_distill": """
stage: distill
launch: cpu
problems: run:01_collect
teacher: run:04_sft
model_name_or_path: MODEL
per_device_train_batch_size: 8
max_completion_length: 12
max_steps: 40
logging_steps: 1
save_steps: 3
learning_rate: 1.0e-3
bf16: false
gradient_checkpointing: false
""",
}
TABLES = {"01_collect": "problems", "02_sample": "attempts", "03_curate": "traces", "05_evaluate": "attempts"}


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe folder of all these stages on the tiny model."""
    folder = tmp_path_factory.mktemp("kill") / "recipes" / "tiny"
    folder.mkdir(parents=True)
    rng = random.Random(0)
    rows = []
    for i in range(400):
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        thinking = f"{a} + {b} is {a + b}. " * rng.randint(1, 4)
        row = {"question": f"Sum {i}: what is {a} + {b}?", "answer": str(a + b), "thinking": thinking.strip()}
        rows.append({**row, "response": f"\\boxed{{{a + b}}}"})
    data = folder.parent / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    labelled = write_solutions(folder.parent / "labelled", signs())
    for name, text in RECIPES.items():
        for place, path in (("DATA", data), ("MODEL", tiny_model), ("LABELLED", labelled)):
            text = text.replace(place, str(path))
        (folder / f"{name}.yaml").write_text(text)
    return folder


def start(pipeline: Path, stage: str, runs: Path, command: Sequence[str] = ()) -> subprocess.Popen:
    """The stage as a process of its own group, by `slowthink run` or by a command of its own."""
    command = command or ["-m", "launch.cli", "run", str(pipeline), "--only", stage, "--no-report"]
    environment = {**os.environ, "SLOWTHINK_RUNS": str(runs), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_take_ctrl_c,
    )


def _take_ctrl_c() -> None:
    """A test that a shell runs in the background ignores it, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(pipeline: Path, stage: str, runs: Path, command: Sequence[str] = ()) -> Path:
    process = start(pipeline, stage, runs, command)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output.decode()[-3000:]
    return runs / "tiny" / stage


def kill_after(process: subprocess.Popen, folder: Path, seconds: float) -> None:
    """SIGKILL the stage's whole process group, `seconds` after the stage itself began its work."""
    log = folder / "log.txt"
    size = log.stat().st_size if log.is_file() else 0
    while process.poll() is None and (not log.is_file() or log.stat().st_size == size):
        time.sleep(0.02)
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def result(stage: str, folder: Path, *, nearly: bool = False) -> Any:
    """What must not depend on kills: the rows, or the loss (and rewards) of every step, to be compared with
    `nearly` equal ones."""
    if stage in TABLES:
        return read_rows(folder / f"{TABLES[stage]}.parquet", TABLES[stage])
    history = read_json(folder / "log_history.json")
    names = [name for name in ("loss", "rollouts/reward", "rollouts/length") if name in history[0]]
    rows = [
        [entry["step"], *(entry.get(name, 0.0) for name in names)] for entry in history if "loss" in entry
    ]
    return [pytest.approx(row, abs=2e-3) for row in rows] if nearly else rows


@pytest.mark.slow
def test_killed_stages_end_with_the_same_result(pipeline: Path, tmp_path: Path) -> None:
    rng = random.Random(20)
    quiet, killed = tmp_path / "quiet", tmp_path / "killed"
    for stage in RECIPES:
        expected = finish(pipeline, stage, quiet)
        manifest = read_manifest(expected)
        assert manifest is not None
        folder = killed / "tiny" / stage
        hits = late = 0
        while hits < KILLS and late < 10:
            process = start(pipeline, stage, killed)
            kill_after(process, folder, rng.uniform(0, 0.9 * manifest["seconds"]) / (1 + late))
            again = read_manifest(folder)
            if again is not None and again["status"] == "finished":
                shutil.rmtree(folder)  # the kill came when all was done: once more, and earlier
                late += 1
            else:
                assert process.returncode == -signal.SIGKILL
                hits += 1
        assert hits, f"no kill hit {stage}"
        assert result(stage, finish(pipeline, stage, killed)) == result(stage, expected, nearly=True), stage
    evaluated = [read_json(runs / "tiny" / "05_evaluate" / "metrics.json") for runs in (quiet, killed)]
    assert evaluated[0] == evaluated[1]


@pytest.mark.slow
def test_ctrl_c_closes_the_stage_and_says_how_to_go_on(pipeline: Path, tmp_path: Path) -> None:
    signs_of_work = {"02_sample": "attempts.journal", "04_sft": "checkpoint-4/.complete"}
    for stage in ("01_collect", "02_sample", "03_curate", "04_sft"):
        folder = tmp_path / "tiny" / stage
        if stage in signs_of_work:
            process = start(pipeline, stage, tmp_path)
            sign = folder / signs_of_work[stage]
            while process.poll() is None and not sign.is_file():
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGINT)
            output = process.communicate(timeout=60)[0].decode()
            assert process.returncode == 130, output
            assert "To go on: slowthink run" in output
            assert "Traceback" not in output
            manifest = read_manifest(folder)
            assert manifest is not None
            assert manifest["status"] == "interrupted"
        finish(pipeline, stage, tmp_path)
