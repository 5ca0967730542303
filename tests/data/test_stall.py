"""Processes that stand still, each of them real: they tell of themselves and end themselves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.heartbeat import read_heartbeats
from data.stall import EXIT_STALLED, is_in_a_collective

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # they wait for stalls in real time

BEGIN = """
import re, sys, time
from threading import Event
from pathlib import Path
from data.heartbeat import beat, phase, start_heartbeat, stop_heartbeat
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
def work_until(name):
    while not (folder / name).exists():
        beat(step=1)
        time.sleep(0.05)
start_heartbeat(folder, seconds)
beat(step=0)
"""
WORKS = BEGIN + "work_until('enough')\nstop_heartbeat()"
REWARD = """
def a_reward_that_hangs():
    Event().wait()
work_until('hang')
with phase("reward"):
    a_reward_that_hangs()
"""
HANGS_IN_A_REWARD = BEGIN + REWARD
WAITS = BEGIN + "with phase('sync'):\n    Event().wait()"
BACKTRACKS = BEGIN + "time.sleep(0.5)\nwith phase('reward'):\n    re.fullmatch('(a|a)*b', 'a' * 80)"


class Start:
    """Starts one of two processes; none outlives its test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []

    def __call__(self, code: str, rank: int, seconds: float = 2.0) -> subprocess.Popen[str]:
        script = self.folder / f"process_{rank}.py"
        script.write_text(code)
        process = subprocess.Popen(
            [sys.executable, str(script), str(self.folder), str(seconds)],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    start = Start(tmp_path)
    yield start
    for process in start.started:
        process.kill()
        process.wait()


def wait_for_both(folder: Path) -> None:
    end = time.monotonic() + 60
    while [state["rank"] for state in read_heartbeats(folder)] != [0, 1]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_one_that_hangs_is_named_and_those_that_wait_for_it_are_not(start: Start, tmp_path: Path) -> None:
    waits = start(WAITS, 0)
    hangs = start(HANGS_IN_A_REWARD, 1)
    wait_for_both(tmp_path)
    end = time.monotonic() + 4
    while time.monotonic() < end:  # rank 1 goes on: rank 0 may wait for as long as it takes
        assert waits.poll() is None
        time.sleep(0.05)
    (tmp_path / "hang").touch()
    output = hangs.communicate(timeout=60)[1]
    assert hangs.returncode == EXIT_STALLED, output
    assert output.startswith("error: rank 1 on ")
    assert re.search(
        r"in phase reward, at threading.py:\d+ wait \(from \S*process_1.py:\d+ a_reward_that_hangs\)", output
    )
    assert "stall_seconds (now 2)" in output
    stacks = tmp_path / "stalls" / "1.txt"
    assert "in a_reward_that_hangs" in stacks.read_text()
    output = waits.communicate(timeout=60)[1]  # of one that has died so that no launcher has noticed
    assert waits.returncode == EXIT_STALLED
    assert "waits for what neither goes on nor ends: rank 1 on" in output
    assert (tmp_path / "stalls" / "0.txt").stat().st_mtime > stacks.stat().st_mtime


def test_where_all_wait_for_each_other_it_is_the_network(start: Start, tmp_path: Path) -> None:
    both = [start(WAITS, rank) for rank in (0, 1)]
    for process in both:
        output = process.communicate(timeout=60)[1]
        assert process.returncode == EXIT_STALLED, output
        assert "no process has gone on for" in output
        assert "the network between them, or a collective" in output


def test_one_that_the_others_have_left_waits_for_nobody(start: Start) -> None:
    process = start(BEGIN + "Event().wait()", 0)
    output = process.communicate(timeout=60)[1]
    assert process.returncode == EXIT_STALLED, output
    assert re.search(r"rank 0 on \S+ has stood still for \d+ s in phase idle, at threading.py", output)


def test_code_that_lets_no_thread_run_is_ended_too(start: Start, tmp_path: Path) -> None:
    process = start(BACKTRACKS, 0)
    output = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "Timeout (" in output
    assert "fullmatch" in output


def test_the_time_in_which_a_process_was_stopped_does_not_count(start: Start, tmp_path: Path) -> None:
    process = start(
        BEGIN + "while not (folder / 'enough').exists(): time.sleep(0.05)\nstop_heartbeat()", 0, 4.0
    )
    end = time.monotonic() + 60
    while not read_heartbeats(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGSTOP)
    time.sleep(4.5)  # more than it may stand still
    process.send_signal(signal.SIGCONT)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.05)
    (tmp_path / "enough").touch()
    assert process.wait(60) == 0


PACKAGES = "/site-packages"
ZERO_3 = f"{PACKAGES}/deepspeed/runtime/zero/partition_parameters.py"
FSDP = f"{PACKAGES}/torch/distributed/fsdp/_fully_shard/_fsdp_state.py"
DISK = (f"{PACKAGES}/torch/serialization.py", f"{PACKAGES}/deepspeed/runtime/checkpoint_engine/torch.py")


@pytest.mark.parametrize(
    ("files", "waits"),
    [
        (["/mine.py", f"{PACKAGES}/torch/distributed/distributed_c10d.py"], True),
        (["/a.py"] * 4 + [f"{PACKAGES}/torch/distributed/run.py"], False),
        (
            [
                "/torch/cuda/streams.py",
                "/torch/utils/_contextlib.py",
                "/torch/_tensor.py",
                ZERO_3,
                "/mine.py",
            ],
            True,
        ),
        (["/torch/cuda/streams.py"] * 5 + [FSDP, "/mine.py"], True),
        ([*DISK, f"{PACKAGES}/deepspeed/runtime/engine.py"], False),
        (["/mine.py"] * 10 + [ZERO_3], False),
    ],
)
def test_who_gathers_weights_waits_for_others(files: list[str], waits: bool) -> None:
    assert is_in_a_collective(files) == waits


def test_work_that_goes_on_is_never_a_stall(start: Start, tmp_path: Path) -> None:
    process = start(WORKS, 0, seconds=1.5)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.05)
    (tmp_path / "enough").touch()
    assert process.wait(60) == 0
