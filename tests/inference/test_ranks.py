"""Generation with several processes of one launch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from data.schema import Problem, problem_id
from data.store import read_attempts, write_problems
from inference import draw, sample

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def command(recipe: Path, processes: int) -> list[str]:
    config = ROOT / "launch/accelerate/ddp_cpu.yaml"
    launcher = ["-m", "launch.accelerated", "--config_file", str(config), "--num_processes", str(processes)]
    start = launcher if processes > 1 else []
    return [sys.executable, *start, "-m", "inference.sample", "--config", str(recipe)]


def recipe(folder: Path, tiny_model: Path, tokens: int) -> Path:
    questions = [f"What is {i} + {i}?" for i in range(24)]
    write_problems(folder / "p", [Problem(id=problem_id(q), question=q, answer="2") for q in questions])
    fields = {
        "stage": "sample",
        "problems": str(folder / "p"),
        "model_name_or_path": str(tiny_model),
        "dtype": "float32",
        "batch_size": 4,
        "num_completions": 2,
        "max_tokens": tokens,
    }
    path = folder / "01_sample.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "SLOWTHINK_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"}


def test_two_processes_draw_what_one_does(tiny_model: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        path = recipe(folder, tiny_model, tokens=12)
        done = subprocess.run(
            command(path, processes),
            cwd=ROOT,
            env=environment(folder),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        stage = next((folder / "runs").rglob("attempts.parquet")).parent
        assert not list(stage.glob("attempts.journal*"))
        found.append([(a.problem.id, a.index, a.completion.text) for a in read_attempts(stage)])
    assert found[0] == found[1]
    assert len(found[0]) == 48


def test_a_dead_process_ends_all_and_the_next_start_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, tiny_model, tokens=1500)
    log = open(tmp_path / "log", "w")  # noqa: SIM115
    started = subprocess.Popen(command(path, 2), cwd=ROOT, env=environment(tmp_path), stdout=log, stderr=log)
    victim = None
    deadline = time.monotonic() + 60
    while victim is None and time.monotonic() < deadline and started.poll() is None:
        journals = list((tmp_path / "runs").rglob("attempts.journal.1"))
        if journals and journals[0].stat().st_size:
            victim = next(
                pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if rank_of(pid) == "1"
            )
        time.sleep(0.05)
    assert victim is not None, (tmp_path / "log").read_text()[-2000:]
    os.kill(victim, signal.SIGKILL)
    assert started.wait(60) != 0
    again = subprocess.run(
        command(path, 2), cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert "going on after" in again.stdout + again.stderr
    stage = next((tmp_path / "runs").rglob("attempts.parquet")).parent
    rows = [(a.problem.id, a.index) for a in read_attempts(stage)]
    assert len(rows) == len(set(rows)) == 48


def test_rows_that_a_file_system_does_not_show_yet_are_missed(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process has done its part and is gone; the first one sees no journal of it."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(draw, "wait", lambda: None)
    fields = yaml.safe_load(recipe(tmp_path, tiny_model, tokens=4).read_text())
    config = sample.SampleConfig(**{key: value for key, value in fields.items() if key != "stage"})
    with pytest.raises(OSError, match=r"24 of 48 completions are in no journal that .*; start again"):
        sample.sample(config, tmp_path / "out")


def rank_of(pid: int) -> str | None:
    try:
        content = Path(f"/proc/{pid}/environ").read_bytes()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return None
    if b"inference.sample" not in command or b"launch.accelerated" in command:
        return None
    pairs = dict(item.split(b"=", 1) for item in content.split(b"\0") if b"=" in item)
    return pairs.get(b"RANK", b"").decode()
