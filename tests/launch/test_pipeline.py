"""How `slowthink` waits for a stage: what killed it, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import psutil
import pytest

from data.recipe import load_recipe
from data.stage import EXIT_INTERRUPTED
from launch import first_step, pipeline

KILLS_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
ENDS = """
import os, sys
with open(f"{sys.argv[1]}/said", "a") as file:
    print(os.environ["SLOWTHINK_ATTEMPT"], os.environ["SLOWTHINK_RESTARTS_LEFT"], end=", ", file=file)
sys.exit(7)
"""
LAUNCHES = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_stage_that_was_killed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "01_collect.yaml").write_text("stage: collect\n")
    monkeypatch.setattr(pipeline, "stage_command", lambda *_: [sys.executable, "-c", KILLS_ITSELF])
    assert pipeline.run_recipe(load_recipe(tmp_path / "01_collect.yaml")) == 137
    assert "error: the process was killed by SIGKILL" in capsys.readouterr().err


def test_a_launch_knows_how_often_it_would_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "01_sft.yaml").write_text("stage: sft\nlaunch: {config: cpu, restarts: 2}\n")
    monkeypatch.setattr(pipeline, "stage_command", lambda *_: [sys.executable, "-c", ENDS, str(tmp_path)])
    assert pipeline.run_recipe(load_recipe(tmp_path / "01_sft.yaml")) == 7
    assert (tmp_path / "said").read_text() == "0 2, 1 1, 2 0, "


def test_a_second_ctrl_c_leaves_no_process_behind() -> None:
    interrupts = 0

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        while frame is not None and frame.f_code is not pipeline._wait.__code__:
            frame = frame.f_back
        if frame is not None and interrupts < 2:
            interrupts += 1
            raise KeyboardInterrupt

    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHES], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    child = psutil.Process(int(launcher.stdout.readline()))
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    try:
        assert pipeline._wait(launcher) == EXIT_INTERRUPTED
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        launcher.kill()
    assert interrupts == 2
    assert launcher.returncode == -signal.SIGKILL
    assert psutil.wait_procs([child], timeout=60)[1] == [] or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("hears", [True, False])
def test_what_is_ended_leaves_no_process_behind(hears: bool) -> None:
    """Neither a launcher that ends when it is asked, nor one that does not."""
    deaf = "" if hears else "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    launcher = subprocess.Popen([sys.executable, "-c", deaf + LAUNCHES], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    child = psutil.Process(int(launcher.stdout.readline()))
    pipeline.end(launcher, seconds=60 if hears else 0.5)
    assert launcher.returncode == (-signal.SIGTERM if hears else -signal.SIGKILL)
    assert psutil.wait_procs([child], timeout=60)[1] == [] or child.status() == psutil.STATUS_ZOMBIE


def test_ctrl_c_in_first_steps_leaves_no_process_behind(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    tells = LAUNCHES.replace(
        "print(child.pid, flush=True)", f"open({str(told)!r}, 'w').write(f'{{child.pid}} ')"
    )
    tells = tells.replace("SIG_IGN", "SIG_DFL")

    def interrupt(number: int, frame: FrameType | None) -> None:
        if told.is_file() and told.read_text().endswith(" "):
            children.append(psutil.Process(int(told.read_text())))
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    children: list[psutil.Process] = []
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            first_step._run([sys.executable, "-c", tells], os.environ)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    [child] = children
    assert psutil.wait_procs([child], timeout=60)[1] == [] or child.status() == psutil.STATUS_ZOMBIE
