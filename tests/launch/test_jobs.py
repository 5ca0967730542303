"""`slowthink run --jobs --seeds`: real stages side by side, which meet, fail, are stopped and have copies.

They are `collect`, whose rows come from a function in the working folder, in which one waits for another."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from data.recipe import load_recipe
from data.store import read_json
from launch.live import picture_of
from launch.pipeline import stage_command
from launch.side_by_side import _with_free_port

OWN = """
import os, pathlib, signal, time

def rows(name, until="", reads="", says="", deaf=False, fails=False, stops=False):
    "One row; comes, and waits until another has come."
    print(says)
    if stops:
        os.kill(os.getpid(), signal.SIGUSR1)
    if deaf:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    pathlib.Path(name).write_text(os.environ["OMP_NUM_THREADS"])
    end = time.monotonic() + 120
    while until and not pathlib.Path(until).exists():
        assert time.monotonic() < end, f"{until} has not come"
        time.sleep(0.01)
    if fails:
        pathlib.Path(name + "_failed").touch()
        raise ValueError("broken on purpose")
    return [{"question": f"What is 1+1, {name}?", "answer": "2"}]
"""
Write = Callable[..., None]
CLI = [sys.executable, "-m", "launch.cli"]
PATIENT = """
import pathlib, sys
from launch import cli, side_by_side

class Requests(side_by_side.StopRequests):
    def _pass_on(self, number, frame):
        super()._pass_on(number, frame)
        pathlib.Path(f"heard{self.interrupts}").touch()

side_by_side.StopRequests = Requests
side_by_side.END_SECONDS = float("inf")
sys.exit(cli.main())
"""
"""After one Ctrl-C it waits for ever; it tells when it has heard one, since two that come at once are one."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a pipeline of stages with the options of `rows` for each, and goes to its working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLOWTHINK_RUNS", "runs")
    monkeypatch.delenv("OMP_NUM_THREADS")
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "pipe").mkdir()

    def write(**stages: dict[str, Any]) -> None:
        for name, options in stages.items():
            seed = {"seed": options.pop("seed")} if "seed" in options else {}
            source = {
                "id": "own:rows",
                "role": "train",
                "licence": "MIT",
                "options": {"name": name, **options},
            }
            recipe = {"stage": "collect", "sources": [source], **seed}
            (tmp_path / "pipe" / f"{name}.yaml").write_text(yaml.safe_dump(recipe))

    return write


def run(*options: str, report: bool = False, **environment: str) -> tuple[int, list[str], list[str]]:
    """Exit code and the lines of both outputs."""
    command = [*CLI, "run", "pipe", *(() if report else ("--no-report",)), *options]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def manifest(stage: str, pipeline: str = "pipe") -> dict[str, Any]:
    return read_json(Path("runs", pipeline, stage, "manifest.json"))


def test_what_does_not_depend_on_each_other_runs_at_once(write: Write) -> None:
    """The first two wait for each other; a third has no place before one of them has ended."""
    write(s1={"until": "s2"}, s2={"until": "s1"}, s3={"reads": "run:s2"}, s4={"reads": "run:s3"})
    code, told, errors = run("--jobs", "2")
    assert (code, errors) == (0, [])
    assert {told[0], told[1]} == {"> s1", "> s2"}
    assert told.index("> s3") > next(n for n, line in enumerate(told) if line.startswith("s2: rows_in 1"))
    assert [line for line in told if line.startswith("  ")][-1] == "  4 done"
    assert Path("s1").read_text() == str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert not list(Path("runs/pipe").glob(".*")), "what a finished stage has said is not kept"
    code, told, _ = run("--jobs", "2", OMP_NUM_THREADS="7")
    assert (code, told) == (0, [f"= s{n}: finished -> runs/pipe/s{n}" for n in (1, 2, 3, 4)])
    Path("pipe/s4.yaml").write_text(Path("pipe/s4.yaml").read_text() + "seed: 1\n")
    assert run("--jobs", "3", OMP_NUM_THREADS="7")[0] == 0
    assert Path("s4").read_text() == "7", "what is set is left as it is"


def test_a_failure_stops_what_reads_it_and_nothing_else(write: Write) -> None:
    write(
        s1={"fails": True, "until": "s2", "says": "squared error: 0.25, and more"},
        s2={"until": "s1_failed"},
        s3={"reads": "run:s1"},
        s4={"reads": "run:s3"},
        s5={"reads": "run:s2"},
        s6={"stops": True, "until": "s1_failed"},
        s7={"reads": "run:s6"},
    )
    code, told, errors = run("--jobs", "2")
    assert code == 2
    assert manifest("s1")["status"] == "failed"
    assert manifest("s2")["status"] == manifest("s5")["status"] == "finished"
    assert not Path("runs/pipe/s3").exists()
    assert errors[0] == "s1 | error: sources[0]: own:rows: broken on purpose"
    assert errors[-3:] == [
        "error: s1 ended with code 2",
        "error: s6 ended with code 75",
        "not run: s3 (reads s1), s4 (reads s3), s7 (reads s6)",
    ]
    assert Path("runs/pipe/.s1.said").is_file()
    assert "  2 done, 2 failed, 3 not to be run" in told


def _take_ctrl_c() -> None:
    """A test that a shell runs in the background ignores it, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def started() -> Iterator[Callable[[], subprocess.Popen]]:
    """Starts the pipeline with two jobs in a session of its own, as a terminal does."""
    processes: list[subprocess.Popen] = []

    def start(cli: Sequence[str] = CLI) -> subprocess.Popen:
        command = [*cli, "run", "pipe", "--no-report", "--jobs", "2"]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=_take_ctrl_c
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(*names: str) -> None:
    end = time.monotonic() + 120
    while not all(Path(name).exists() for name in names):
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "to_all", "code"), [(signal.SIGTERM, False, 75), (signal.SIGINT, True, 130)], ids=str
)
def test_a_request_to_stop_reaches_all_and_all_goes_on_afterwards(
    write: Write, started: Callable, number: int, to_all: bool, code: int
) -> None:
    """Ctrl-C is sent to all by the terminal, other signals are passed on."""
    write(s1={"until": "later"}, s2={"until": "later"}, s3={})
    process = started()
    wait_for("s1", "s2")
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert errors.splitlines()[-1] == "stopped: s1, s2, s3. The same command goes on"
    assert manifest("s1")["status"] == manifest("s2")["status"] == "interrupted"
    assert not Path("runs/pipe/s3").exists()
    Path("later").touch()
    assert run("--jobs", "2")[0] == 0
    assert [manifest(name)["attempts"] for name in ("s1", "s2", "s3")] == [2, 2, 1]


def test_a_second_ctrl_c_ends_those_that_do_not_hear(write: Write, started: Callable) -> None:
    write(s1={"until": "never", "deaf": True}, s2={})
    process = started([sys.executable, "-c", PATIENT])
    wait_for("s1", "runs/pipe/s2/metrics.json")
    os.kill(process.pid, signal.SIGINT)
    wait_for("heard1")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=100) == 130
    assert manifest("s1")["status"] == "running"


def test_copies_have_other_seeds_and_read_their_own(write: Write) -> None:
    write(s1={"seed": 5}, s2={"reads": "run:s1"})
    code, told, _ = run("--jobs", "2", "--seeds", "2")
    assert code == 0
    assert set(told[:2]) == {"> s1", "> pipe.seed1/s1"}
    for pipeline, seeds in (("pipe", [5, 0]), ("pipe.seed1", [6, 1])):
        found = [manifest(name, pipeline) for name in ("s1", "s2")]
        assert [each["seed"] for each in found] == seeds, "the second is the default of the stage, raised"
        assert [each["pipeline"] for each in found] == [pipeline] * 2
        assert found[1]["inputs"]["run:s1"]["fingerprint"] == found[0]["output"]
    for options, copy in ((["--jobs", "2", "--seeds", "2"], ""), (["--seeds", "2"], ""), ([], "1")):
        code, told, _ = run(*options, SLOWTHINK_SEED=copy)
        assert code == 0
        assert told[-2:] == [
            f"= pipe.seed1/{name}: finished -> runs/pipe.seed1/{name}" for name in ("s1", "s2")
        ]
    code, told, _ = run("--seeds", "3", "--only", "s2", "--dry-run")
    assert [line.partition(" ->")[0] for line in told[::2]] == [
        "s2: ok, finished, would be skipped",
        "pipe.seed1/s2: ok, finished, would be skipped",
        "pipe.seed2/s2: ok, would run",
    ]
    assert told[5].strip().startswith("SLOWTHINK_SEED=2 ")
    code, _, errors = run("--seeds", "3", "--only", "s2")
    assert code == 2
    assert "run it first: SLOWTHINK_SEED=2 slowthink run pipe --only s1" in errors[-1]


def test_a_run_ends_with_the_page_of_all_its_copies(write: Write) -> None:
    """Also one of which a stage has failed; it is left as it is where nothing has run since."""
    page = Path("runs/pipe/report/index.html")
    write(s1={}, s2={"fails": True})
    code, told, _ = run("--jobs", "2", report=True)
    assert (code, told[-1]) == (2, f"report: {page}")
    assert "broken on purpose" in page.read_text()
    write(s2={})
    code, told, _ = run("--jobs", "2", "--seeds", "2", report=True)
    assert (code, told[-1]) == (0, f"report: {page}")
    text = page.read_text()
    assert "with other seeds" in text
    assert "broken on purpose" not in text
    page.write_text("as it was")
    code, told, _ = run("--seeds", "2", report=True)
    assert (code, told[-1], page.read_text()) == (0, f"report: {page}", "as it was")
    command = [*CLI, "report", "runs/pipe", "runs/pipe.seed1", "--output", "elsewhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "report: elsewhere/index.html\n"), done.stderr
    assert "with other seeds" in Path("elsewhere/index.html").read_text()


def test_a_copy_cannot_share_a_folder(write: Write) -> None:
    write(s1={})
    Path("pipe/s1.yaml").write_text(Path("pipe/s1.yaml").read_text() + "output_dir: elsewhere\n")
    code, told, errors = run("--seeds", "2")
    assert (code, told) == (2, [])
    assert "output_dir: each copy" in errors[0]


def test_a_terminal_shows_what_runs(write: Write) -> None:
    write(s1={"until": "later"}, s2={"until": "later"}, s3={"reads": "run:s1"})
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    command = [*CLI, "run", "pipe", "--no-report", "--jobs", "2"]
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = ""

    def read_until(text: str) -> None:
        nonlocal seen
        end = time.monotonic() + 120
        while text not in seen:
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 1.0)[0]:
                seen += os.read(ours, 65536).decode(errors="replace")

    read_until("2 running, 1 to come")
    read_until("rank 0")
    seen = ""
    Path("later").touch()
    read_until("s3: rows_in 1")
    assert process.wait(timeout=120) == 0
    os.close(ours)


def test_until_a_stage_has_loaded_its_earlier_folder_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"status": "finished"}')
    written = (tmp_path / "manifest.json").stat().st_mtime

    def shown(folder: Path, began: float) -> str:
        with (console := Console(width=80)).capture() as capture:
            console.print(picture_of({"s1": (folder, began)}))
        return capture.get().strip()

    assert shown(tmp_path / "nowhere", written) == shown(tmp_path, written + 1) == "s1  starts"
    assert shown(tmp_path, written - 1) == "s1  finished"


def test_launches_side_by_side_have_ports_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "01_sft.yaml"
    for launch, flag in (("ddp_cpu", True), ("{config: ddp_cpu, main_process_port: 29600}", False)):
        path.write_text(f"stage: sft\nlaunch: {launch}\n")
        command = " ".join(stage_command(_with_free_port(load_recipe(path))))
        assert ("--main_process_port 0 -m training.sft" in command) == flag


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (["--jobs", "2"], "--jobs: with --on slurm the queue decides"),
        (["--seeds", "2"], "for k in 0 1; do SLOWTHINK_SEED=$k slowthink run pipe --on slurm; done"),
    ],
)
def test_slurm_has_its_own_way(write: Write, options: list[str], fix: str) -> None:
    code, _, errors = run("--on", "slurm", *options)
    assert code == 2
    assert fix in errors[0]


def test_a_copy_may_be_submitted_by_itself(write: Write) -> None:
    write(s1={"seed": 5})
    code, told, _ = run("--on", "slurm", "--dry-run", SLOWTHINK_SEED="1")
    assert (code, len(told)) == (0, 2)
    script = Path("runs/pipe.seed1/slurm/s1.sbatch").read_text()
    assert "\nexport SLOWTHINK_SEED=1\n" in script
    assert "SLOWTHINK_SEED=1 slowthink run pipe --on slurm" in script
