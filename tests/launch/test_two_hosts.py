"""Training over two hosts: a killed process is named, both hosts go on from the last checkpoint; a cut link
ends both."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.schema import Attempt, Completion, Problem, problem_id
from data.stall import EXIT_STALLED
from data.store import read_json, write_attempts
from tests.launch.hosts import Host, two_hosts

__all__ = ["two_hosts"]

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

DEEPSPEED = {"mixed_precision": "no"}
LAUNCHES = {
    "ddp_cpu": (2, {"launch": "ddp_cpu", "use_cpu": True}),
    "zero2": (4, {"launch": {"config": "zero2", **DEEPSPEED}, "ddp_backend": "gloo"}),
    "zero3": (4, {"launch": {"config": "zero3", **DEEPSPEED}, "ddp_backend": "gloo"}),
}
"""Processes, and what a recipe has."""
ALL = os.environ.get("SLOWTHINK_ALL_LAUNCHES") == "1"


def traces(count: int = 24) -> list[Attempt]:
    made = []
    for i in range(count):
        question = f"What is {i} + {i % 7}?"
        completion = Completion(
            text="",
            thinking=f"{i} and {i % 7}. " * (1 + i % 5),
            response=f"\\boxed{{{i + i % 7}}}",
            finish_reason="stop",
            prompt_tokens=0,
            thinking_tokens=0,
            completion_tokens=0,
            model="m",
            seed=0,
        )
        problem = Problem(id=problem_id(question), question=question, answer=str(i + i % 7))
        made.append(Attempt(problem=problem, index=0, completion=completion, verdict="correct", extracted=""))
    return made


def recipe(folder: Path, model: Path, **options: Any) -> Path:
    write_attempts(folder / "traces", traces(), "traces")
    fields: dict[str, Any] = {
        "stage": "sft",
        "dataset": str(folder / "traces"),
        "model_name_or_path": str(model),
        "pad_token": "<|fim_pad|>",
        "max_length": 256,
        "max_steps": 40,
        "per_device_train_batch_size": 2,
        "disable_tqdm": True,
        "learning_rate": 1.0e-3,
        "logging_steps": 1,
        "save_steps": 4,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "seed": 3,
    }
    path = folder / "01_sft.yaml"
    path.write_text(yaml.safe_dump({**fields, **options}))
    return path


def environment(runs: Path) -> dict[str, str]:
    return {"SLOWTHINK_RUNS": str(runs), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


class Job:
    """The recipe on both hosts."""

    def __init__(self, hosts: tuple[Host, Host], path: Path, *flags: str, processes: int = 2) -> None:
        self.hosts = hosts
        self.runs = path.parent / "runs"
        self.folder = self.runs / path.parent.name / path.stem
        self.logs = [path.with_name(f"{host.name}.log") for host in hosts]
        self.launchers = []
        for rank, (host, log) in enumerate(zip(hosts, self.logs, strict=True)):
            where = ["--num_machines", "2", "--num_processes", str(processes), "--machine_rank", str(rank)]
            master = ["--main_process_ip", "hosta", "--main_process_port", "29500"]
            command = [
                sys.executable,
                "-m",
                "launch.cli",
                "sft",
                "--config",
                str(path),
                *where,
                *master,
                *flags,
            ]
            with log.open("w") as output:
                self.launchers.append(host.start(command, environment(self.runs), output))

    def output(self, host: int) -> str:
        return self.logs[host].read_text()

    def wait_for(self, sign: Path, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not sign.exists():
            said = f"{self.output(0)}\n{self.output(1)}"
            assert all(launcher.poll() is None for launcher in self.launchers), said
            assert time.monotonic() < end, f"no {sign} after {seconds:g} s\n{said}"
            time.sleep(0.02)

    def workers(self) -> dict[int, int]:
        """Process ids of the training processes by rank."""
        found = {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            pairs = dict(item.split(b"=", 1) for item in variables if b"=" in item)
            mine = pairs.get(b"SLOWTHINK_RUNS") == str(self.runs).encode()
            if mine and b"RANK" in pairs and b"training.sft" in command:
                found[int(pairs[b"RANK"])] = pid
        return found

    def stop(self) -> None:
        for launcher in self.launchers:
            if launcher.poll() is None:
                os.killpg(launcher.pid, signal.SIGKILL)
                launcher.wait()
        for pid in self.workers().values():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(two_hosts: tuple[Host, Host]) -> Iterator[Callable[..., Job]]:
    """Starts a job; none outlives its test."""
    jobs: list[Job] = []

    def make(path: Path, *flags: str, processes: int = 2) -> Job:
        jobs.append(Job(two_hosts, path, *flags, processes=processes))
        return jobs[-1]

    yield make
    for job in jobs:
        job.stop()


def losses(folder: Path) -> list[tuple[int, float]]:
    history = read_json(folder / "log_history.json")
    return [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]


def in_one_process(path: Path, processes: int) -> Path:
    """The same recipe, with the same rows in a step."""
    runs = path.parent / "alone"
    command = ["-m", "training.sft", "--config", str(path), "--use_cpu", "true"]
    alone = ["--launch", "cpu", "--num_processes", "1", "--per_device_train_batch_size", f"{2 * processes}"]
    done = subprocess.run(
        [sys.executable, *command, *alone],
        cwd=ROOT,
        env={**os.environ, **environment(runs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return runs / path.parent.name / path.stem


@pytest.mark.parametrize("name", LAUNCHES)
def test_a_killed_process_is_named_and_both_hosts_go_on(
    name: str, tiny_model: Path, tmp_path: Path, start: Callable[..., Job]
) -> None:
    if name != "ddp_cpu" and not ALL:
        pytest.skip("takes minutes: set SLOWTHINK_ALL_LAUNCHES=1")
    processes, fields = LAUNCHES[name]
    path, last = recipe(tmp_path, tiny_model, **fields), processes - 1
    expected = losses(in_one_process(path, processes))
    job = start(path, "--restarts", "1", processes=processes)
    job.wait_for(job.folder / "checkpoint-4" / ".complete")
    os.kill(job.workers()[last], signal.SIGKILL)
    for host, launcher in enumerate(job.launchers):
        assert launcher.wait(300) == 0, job.output(host)
        assert f"error: rank {last} on hostb was killed by SIGKILL" in job.output(host)
        assert "ended with code 137; restart 1" in job.output(host)
        assert "Traceback" not in job.output(host)
    assert "rank 0 on hosta has lost the connection to another process: a consequence" in job.output(0)
    assert f"rank {last} on hostb has lost" not in job.output(1)
    assert not job.workers()
    assert "going on from checkpoint-" in (job.folder / "log.txt").read_text()
    assert losses(job.folder) == [pytest.approx(step, abs=1e-4) for step in expected]


def test_a_cut_link_ends_both_hosts(tiny_model: Path, tmp_path: Path, start: Callable[..., Job]) -> None:
    path = recipe(tmp_path, tiny_model, max_steps=400, **LAUNCHES["ddp_cpu"][1])
    job = start(path, "--stall_seconds", "10")
    job.wait_for(job.folder / "checkpoint-4" / ".complete")
    job.hosts[1].pull_the_plug()
    for number, (host, launcher) in enumerate(zip(job.hosts, job.launchers, strict=True)):
        assert launcher.wait(100) == EXIT_STALLED, job.output(number)
        own = rf"no process has gone on for \d+ s: rank {number} on {host.name} in .*the network"
        assert re.search(own, job.output(number)), job.output(number)
        assert "_inner_training_loop" in (job.folder / "stalls" / f"{number}.txt").read_text()
    assert not job.workers()
