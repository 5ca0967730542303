"""A training that is asked to stop saves the running step, whenever that is, and goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import TrainerCallback

from data.run_folder import read_manifest
from data.stage import EXIT_PREEMPTED, Preempted
from data.store import read_json
from tests.training.line_runs import train
from tests.training.prm_runs import signs, write_solutions
from training.checkpoints import newest_complete_checkpoint

ROOT = Path(__file__).resolve().parents[2]
STEPS: dict[str, Any] = {"max_steps": 9, "save_strategy": "no"}


class Signals(TrainerCallback):
    """Sends this process signals while a step runs."""

    def __init__(self, step: int, numbers: tuple[int, ...]) -> None:
        self.step, self.numbers = step, numbers

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_the_running_step_is_saved_and_the_run_goes_on_from_it(tmp_path: Path, number: int) -> None:
    undisturbed = train(tmp_path / "undisturbed", **STEPS)
    handlers = [signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGTERM)]
    with pytest.raises(Preempted, match="step 4 is saved"):
        train(tmp_path / "asked", Signals(4, (number,)), **STEPS)
    assert newest_complete_checkpoint(tmp_path / "asked") == tmp_path / "asked" / "checkpoint-4"
    assert not (tmp_path / "asked" / "model.safetensors").exists()
    assert [signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGTERM)] == handlers
    assert train(tmp_path / "asked", **STEPS) == undisturbed


def test_a_second_sigterm_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with pytest.raises(KeyboardInterrupt) as stopped:
            train(tmp_path, Signals(4, (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM)), **STEPS)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not isinstance(stopped.value, Preempted)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_asked_in_the_last_step_the_stage_finishes(tmp_path: Path) -> None:
    assert train(tmp_path, Signals(9, (signal.SIGUSR1,)), **STEPS)[0] == 9
    assert (tmp_path / "model.safetensors").is_file()


def start(recipe: Path) -> subprocess.Popen[str]:
    """The recipe through `slowthink`: two processes behind it and the launcher."""
    environment = {
        **os.environ,
        "SLOWTHINK_RUNS": str(recipe.parent / "runs"),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "launch.cli", "run", str(recipe.parent)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_save_the_same_step_when_slowthink_is_terminated(
    tiny_model: Path, tmp_path: Path
) -> None:
    fields = {
        "stage": "prm",
        "launch": {"config": "ddp_cpu", "num_processes": 2},
        "dataset": [str(write_solutions(tmp_path / "labelled", signs()))],
        "model_name_or_path": str(tiny_model),
        "step_separator": "\n",
        "held_out_fraction": 0.2,
        "use_cpu": True,
        "per_device_train_batch_size": 2,
        "max_steps": 100,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1.0e-3,
    }
    recipe = tmp_path / "p" / "01_prm.yaml"
    recipe.parent.mkdir()
    recipe.write_text(yaml.safe_dump(fields))
    folder = recipe.parent / "runs" / "p" / "01_prm"

    process = start(recipe)
    assert process.stdout is not None
    read = []
    for line in process.stdout:
        read.append(line)
        if "'loss'" in line:
            break
    process.terminate()
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_PREEMPTED, "".join(read) + rest
    manifest = read_manifest(folder)
    assert manifest is not None
    checkpoint = newest_complete_checkpoint(folder)
    assert checkpoint is not None
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 1 <= step < 100
    assert (manifest["status"], manifest["error"]) == ("interrupted", f"asked to stop; step {step} is saved")
    assert len(list(checkpoint.glob("rng_state_*.pth"))) == 2, "each process has saved its part"

    again = start(recipe)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output[-3000:]
    history = read_json(folder / "log_history.json")
    assert [entry["step"] for entry in history if "loss" in entry] == list(range(1, 101))
