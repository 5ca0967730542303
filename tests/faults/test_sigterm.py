"""SIGTERM to a launch of several processes that generate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from data.run_folder import read_manifest
from data.store import journal_rows
from tests.faults.conftest import Stages

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_sigterm_to_a_launch_of_two_leaves_no_process_and_loses_no_row(
    stages: Stages, tmp_path: Path
) -> None:
    """As a scheduler sends it: to the launcher, when both processes have finished rows."""
    stages.change("sample", max_tokens=200, limit=3, launch="ddp_cpu")
    folder = stages.folder("sample", tmp_path / "runs")
    command = [sys.executable, "-m", "launch.cli", "sample", "--config", str(stages.recipes / "sample.yaml")]
    command += ["--num_processes", "2"]
    environment = {**os.environ, "SLOWTHINK_RUNS": str(tmp_path / "runs")}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    journals = [folder / f"attempts.journal.{rank}" for rank in range(2)]
    while process.poll() is None and not all(path.is_file() and journal_rows(path) for path in journals):
        time.sleep(0.05)
    assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
    started = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(started) >= 3, "the launcher and two processes"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (130, -signal.SIGTERM, 75)
    deadline = time.monotonic() + 20
    while (left := alive(started)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest["status"] == "interrupted"
    finished = sum(len(journal_rows(path)) for path in journals)
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"going on after {finished} finished completions" in (folder / "log.txt").read_text()
    stages.change("sample", launch=None)
    assert stages.run("sample", tmp_path / "quiet") == 0
    assert stages.result("sample", tmp_path / "runs") == stages.result("sample", tmp_path / "quiet")


def alive(pids: list[int]) -> list[int]:
    """Those that are not dead. By their ids: torchrun gives each process a session of its own."""
    command = ["ps", "-o", "pid=,stat=", "-p", ",".join(map(str, pids))]
    found = subprocess.run(command, capture_output=True, text=True)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "Z" not in line]
