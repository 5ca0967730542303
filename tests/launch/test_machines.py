"""What the launchers of several machines tell each other."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data.heartbeat import FOLDER
from data.stage import EXIT_FAILED
from launch import machines
from launch.cause import Cause
from launch.machines import Machine, last_heard, note_of, wait_for_the_end_of_machine_0

ROOT = Path(__file__).resolve().parents[2]
KILLED = Cause(rank=3, host="b", code=137, what="was killed by SIGKILL", is_consequence=False)
LOST = Cause(rank=0, host="a", code=76, what="", is_consequence=True)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    here, there = (Machine(tmp_path / "runs" / "01_sft", number) for number in (0, 1))
    there.end(KILLED)  # of a launch before
    os.utime(note_of(there.folder, 1), (0, 0))
    for machine in (here, there):
        machine.begin()
    yield here, there
    for machine in (here, there):  # else what it has begun would end this process half a minute later
        machine.end(None)


def test_a_machine_without_a_cause_learns_it_from_another(two: tuple[Machine, Machine]) -> None:
    here, there = two
    here.end(LOST)
    assert here.cause_elsewhere(0.3) is None
    there.end(KILLED)
    there.attempt = 1
    there.begin()  # it is faster
    assert here.cause_elsewhere(0) == KILLED
    for machine in two:
        machine.end(None)
    assert not list(here.folder.parent.iterdir())


def test_the_end_of_machine_0_is_its_note_or_its_closed_port(two: tuple[Machine, Machine]) -> None:
    here, there = two
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        waiter = threading.Thread(target=wait_for_the_end_of_machine_0, args=(address, there.folder, 0))
        waiter.start()
        waiter.join(1)
        assert waiter.is_alive()
        here.end(LOST)
        waiter.join(30)
        assert not waiter.is_alive()
        here.attempt = 1
        here.begin()
        wait_for_the_end_of_machine_0(address, there.folder, 0)  # the port is that of its next launch
    note_of(here.folder, 0).unlink()
    wait_for_the_end_of_machine_0(address, there.folder, 0)


@pytest.mark.parametrize("cause", [LOST, KILLED, None])
def test_a_machine_that_is_done_waits_for_machine_0_to_save(
    two: tuple[Machine, Machine], cause: Cause | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "LOOK_SECONDS", 0.1)
    here, there = two
    assert there.failure_of_machine_0() is None, "nobody starts again"
    there.restarts_left = 1
    with ThreadPoolExecutor() as pool:
        waiter = pool.submit(there.failure_of_machine_0)
        with pytest.raises(TimeoutError):
            waiter.result(0.5)
        here.end(cause)
        assert waiter.result(30) == cause


def test_a_machine_that_is_done_learns_that_machine_0_has_started_again(two: tuple[Machine, Machine]) -> None:
    here, there = two
    there.restarts_left = here.attempt = 1
    here.begin()
    failure = there.failure_of_machine_0()
    assert failure is not None
    assert failure.code == EXIT_FAILED


def test_a_machine_that_has_ended_is_ended_by_no_other(two: tuple[Machine, Machine]) -> None:
    here, there = two
    there.end(KILLED)
    here.end(None)
    watches = [thread for thread in threading.enumerate() if thread.name == "other machines"]
    for watch in watches:
        watch.join(30)
        assert not watch.is_alive()


WAITS = """
import signal, sys, time
from pathlib import Path
from launch import machines
machines.LEAVE_SECONDS = machines.LOOK_SECONDS = 0.1
machines.Machine(Path(sys.argv[1]), 0).begin()
print("ready", flush=True)
time.sleep(60)
"""


def test_a_machine_that_waits_in_vain_is_ended(tmp_path: Path) -> None:
    folder = tmp_path / "01_sft"
    waits = subprocess.Popen(
        [sys.executable, "-c", WAITS, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert waits.stdout is not None
    assert waits.stdout.readline() == b"ready\n"
    there = Machine(folder, 1)
    there.begin()
    there.end(KILLED)
    assert waits.wait(30) == -signal.SIGTERM


def test_a_machine_that_is_gone_is_told_by_its_silence(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for rank, (host, age) in enumerate(((socket.gethostname(), 99), ("b", 5), ("b", 70))):
        state = {"rank": rank, "host": host, "time": time.time() - age, "phase": "generate"}
        (tmp_path / FOLDER / f"{rank}.json").write_text(json.dumps(state))
    told = last_heard(tmp_path)
    assert told == "last heard of: rank 2 on b 70 s ago (generate), rank 1 on b 5 s ago (generate)"
