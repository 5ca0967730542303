"""The live view of stages that run, stand still, wait, are dead or done."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data.heartbeat import FOLDER, PHASES
from data.metric_log import FILE, write_row
from data.store import read_json, write_json
from launch.live import show_live

ROOT = Path(__file__).resolve().parents[2]


def stage(folder: Path, *states: dict[str, Any], status: str = "running", **manifest: Any) -> Path:
    """A stage's folder, with what its processes have told."""
    write_json(folder / "manifest.json", {"status": status, "name": folder.name, **manifest})
    for state in states:
        write_json(folder / FOLDER / f"{state['rank']}.json", state)
    return folder


def state(rank: int = 0, *, ago: float = 0.0, **facts: Any) -> dict[str, Any]:
    """Of this test's own process, which is alive."""
    now = time.time()
    told = {"rank": rank, "world": 1, "host": socket.gethostname(), "pid": os.getpid(), "phase": "generate"}
    return {**told, "beats": 7, "time": now - ago, **facts}


@pytest.fixture(autouse=True)
def _not_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert show_live(folder) == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_progress_speed_numbers_and_phases(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    begun = {"unit": "completion", "since": time.time() - 100, "since_done": 100, "total": 2000, "done": 600}
    folder = stage(tmp_path / "03_sample", state(**begun))
    spent = dict.fromkeys(PHASES, 0.0) | {"generate": 30.0, "reward": 10.0}
    for tokens in (100.0, 123.4):
        row = {"done": 600, "right": 0.25, "perf/tokens_per_second": tokens, "memory/rss_gib": 1.5}
        write_row(folder, row | {f"time/{name}": value / 2 for name, value in spent.items()})
    text = shown(folder, capsys)
    assert "03_sample running" in text
    assert f"rank 0 {socket.gethostname()}:{os.getpid()} generate 600 of 2,000 completions" in text
    assert re.search(r"[45](\.\d+)?/s, 4m\d\ds left", text)
    assert "right 0.250 tokens/s 123.4 RSS GiB 1.500" in text
    assert "last 40s: generate 75% reward 25%" in text
    assert "stands" not in text


def test_who_stands_still_is_told_from_who_waits_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    two = {"world": 2, "host": "another-host"}  # this process is younger than these beats
    stuck = state(1, ago=310, phase="reward", at="rewards/own.py:12 grade", **two)
    folder = stage(tmp_path / "grpo", state(0, ago=250, phase="sync", **two), stuck)
    text = shown(folder, capsys)
    assert re.search(r"waits for rank 1 \(4m\d\ds\)", text)
    assert re.search(r"stands still for 5m\d\ds, at rewards/own.py:12 grade", text)
    waiting = [state(rank, ago=70, phase="forward_backward", waits=True, **two) for rank in (0, 1)]
    assert shown(stage(tmp_path / "sft", *waiting), capsys).count("nobody goes on for 1m") == 2
    assert "stands" not in shown(
        stage(tmp_path / "load", state(ago=60, phase="load", host="another-host")), capsys
    )


def test_a_killed_process_and_one_that_is_not_there_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dead_pid: int
):
    folder = stage(tmp_path / "one", state(0, world=3, pid=dead_pid), state(2, world=3))
    text = shown(folder, capsys)
    assert "one running" in text
    assert "dead: no such process" in text
    assert "rank 1 tells nothing: not begun, or done" in text
    killed = stage(tmp_path / "all", state(pid=dead_pid))
    assert "all dead" in shown(killed, capsys)
    reused = stage(tmp_path / "reused", state(ago=1e8))  # this process is younger than what it is said to say
    assert "reused dead" in shown(reused, capsys)
    elsewhere = stage(tmp_path / "elsewhere", state(pid=dead_pid, host="another-host"))
    assert "elsewhere running" in shown(elsewhere, capsys)


def test_files_that_are_half_written_or_alien(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = stage(tmp_path / "02_sft", state(step=3, total=9, unit="step"))
    place = folder / FOLDER
    alien = {"rank": 1, "host": "h", "pid": "x", "phase": None, "time": {}}
    odd = {**state(2), "unit": "row", "total": "many", "done": None, "world": "two", "since": "then"}
    for name, text in (("1", json.dumps(alien)), ("2", json.dumps(odd)), ("3", '{"rank": 3'), ("4", "\0")):
        (place / f"{name}.json").write_text(text)
    (folder / FILE).write_bytes(
        b'{"train/loss": 1.5}\n\xff\xfe\n[2]\n{"train/loss": "x", "time/load": "y"}\n{"tr'
    )
    stage(tmp_path / "01_collect", status="finished", seconds=12.0)
    (tmp_path / "03_grpo").mkdir()
    (tmp_path / "03_grpo" / "manifest.json").write_text("{")
    stage(tmp_path / "04_eval", status="failed", error="no\nspace \x1b[31m[bold]")
    text = shown(tmp_path, capsys)
    assert "01_collect finished 12s" in text
    assert "3 of 9 steps" in text
    assert "03_grpo unreadable" in text
    assert "04_eval failed no" in text
    with pytest.raises(ValueError, match="no run here"):
        show_live(tmp_path / "nothing")


def test_nothing_heavy_is_imported(tmp_path: Path):
    stage(tmp_path, state())
    code = (
        "import sys; from launch.cli import main; main(['show', sys.argv[1], '--live']); "
        "heavy = ('torch', 'transformers', 'pyarrow', 'datasets', 'trl'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_terminal_is_refreshed_until_the_stage_ends(tmp_path: Path):
    folder = stage(tmp_path / "05_sft", state(step=1, total=2, unit="step"))
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "launch.cli", "show", str(folder), "--live"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = ""
    end = time.monotonic() + 60

    def read_until(text: str) -> None:
        nonlocal seen
        while text not in seen:
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 1.0)[0]:
                seen += os.read(ours, 65536).decode(errors="replace")

    read_until("1 of 2 steps")
    write_json(folder / FOLDER / "0.json", state(step=2, total=2, unit="step"))
    read_until("2 of 2 steps")
    write_json(folder / "manifest.json", {**read_json(folder / "manifest.json"), "status": "finished"})
    read_until("finished")
    assert process.wait(timeout=60) == 0
    os.close(ours)
