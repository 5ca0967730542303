"""Phases, and the file in which a process says what it does."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from data import heartbeat
from data.heartbeat import FOLDER, beat, phase, read_heartbeats, start_heartbeat, stop_heartbeat
from data.heartbeat import take_phase_seconds as take


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that goes on when it is told to."""
    now = [100.0]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(heartbeat, "_own", heartbeat.Heartbeat())

    def go_on(seconds: float) -> None:
        now[0] += seconds

    return go_on


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Callable[[Callable[[dict[str, Any]], bool]], dict[str, Any]]]:
    """Waits until this process's file is as wanted."""
    start_heartbeat(tmp_path, None)

    def wait(wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + 20
        while not ((states := read_heartbeats(tmp_path)) and wanted(states[0])):
            assert time.monotonic() < end, states
            time.sleep(0.02)
        return states[0]

    yield wait
    stop_heartbeat()


def test_time_counts_for_the_innermost_phase_and_all_of_it_counts_once(clock: Callable[[float], None]):
    clock(1)
    beat(done=0, total=2, unit="row")
    clock(2)
    with phase("forward_backward"):
        clock(4)
        with phase("generate"):
            clock(8)
        clock(16)
        with suppress(ValueError), phase("reward"):
            clock(32)
            raise ValueError
        seconds = take()
        clock(64)
    assert {name: value for name, value in seconds.items() if value} == {
        "load": 1,
        "idle": 2,
        "forward_backward": 20,
        "generate": 8,
        "reward": 32,
    }
    assert {name: value for name, value in take().items() if value} == {"forward_backward": 64}


def test_the_phase_is_that_of_the_main_thread(clock: Callable[[float], None]):
    def elsewhere() -> None:
        with phase("reward"):
            clock(8)

    with phase("generate"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert take()["generate"] == 8


def test_the_file_tells_of_the_last_beat_and_the_phase_that_goes_on(tmp_path: Path, told: Any):
    beat(done=3, total=8, unit="completion")
    state = told(lambda state: state.get("done") == 3)
    assert state["pid"] == os.getpid()
    assert (state["rank"], state["world"], state["phase"]) == (0, 1, "idle")
    assert state["rss_gib"] > 0
    with phase("sync"):  # also where no beat follows: it may wait for long
        waiting = told(lambda state: state["phase"] == "sync")
        assert waiting["beats"] == state["beats"] + 1
        assert state["time"] <= waiting["time"] <= time.time()
    stop_heartbeat()
    assert not list((tmp_path / FOLDER).iterdir())


def test_files_of_a_run_before_are_cleared_and_alien_ones_passed_over(tmp_path: Path):
    place = tmp_path / FOLDER
    place.mkdir()
    (place / "7.json").write_text(json.dumps({"rank": 7}))
    start_heartbeat(tmp_path, None)
    for name, text in (("1.json", '{"rank": 1, "ho'), ("2.json", "[1]"), ("3.json", "{}"), ("4.json", "3")):
        (place / name).write_text(text)
    (place / "5.json").write_bytes(b"\xff\xfe\x00")
    (place / "6.json").mkdir()
    assert {state["rank"] for state in read_heartbeats(tmp_path)} <= {0}
    stop_heartbeat()
    assert read_heartbeats(tmp_path / "none") == []
