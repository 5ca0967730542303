"""`Sandbox` runs Python programs that nobody has read and says what they printed or returned.

    sandbox = Sandbox(limits=Limits(cpu_seconds=4))
    sandbox.run("print(int(input()) + 1)", ["1", "41"])                       # two runs: "2\\n" and "42\\n"
    sandbox.run("def f(a, b): return a + b", [Call("f", [1, 2])])             # one run with result "3"

A program sees the standard library, its own input and nothing else. What the right output would be never
enters the sandbox: comparing is the caller's work. How strong the isolation is, `rewards.sandbox.isolation`
finds out by trying to break it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from rewards.sandbox.isolation import (
    STRONG,
    Isolation,
    Level,
    Report,
    SandboxError,
    choose_isolation,
    execute,
)

logger = logging.getLogger(__name__)

Status = Literal["ok", "error", "timeout", "memory", "killed"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one program may use."""

    cpu_seconds: int = 6
    """Processor time per input."""
    wall_seconds: float = 12.0
    """Time per input, sleeping and waiting included."""
    program_seconds: float = 60.0
    """Time for all inputs of a program; those that are left then are `timeout`."""
    memory_mib: int = 1024
    """Address space that the program adds to that of Python; more than the memory in use."""
    output_kib: int = 1024
    """Each of stdout, stderr and the result of a call; more ends the run as `killed`."""
    threads: int = 64
    """Threads at one time; processes cannot be made at all."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise ValueError(f"{name}: {value} is not a limit; give a number above 0")
        if self.memory_mib < 16:
            raise ValueError(f"memory_mib: hardly a program runs in {self.memory_mib} MiB; give at least 16")


@dataclass(frozen=True)
class Call:
    """Instead of a stdin: a call of a function of the program, or of that method of its class Solution."""

    function: str
    arguments: list[Any]
    """JSON values."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one input gave."""

    status: Status
    """ok: exit code 0; error: exception, other exit code or crash; timeout and memory: beyond these limits;
    killed: beyond another limit, or by the system."""
    stdout: str = ""
    """As UTF-8; bytes that are not become U+FFFD."""
    result: str = ""
    """JSON of what the called function returned: tuples are lists, keys are strings; a value that JSON has
    not, such as a set, is an error."""
    stderr: str = ""
    """The last 2000 bytes, and why it was ended."""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """A way to run programs, chosen and tried when it is made; may be used from any thread or process.

    Raises:
        SandboxError: programs cannot be isolated here; says what is missing.
    """

    limits: Limits = field(default_factory=Limits)
    packages: bool = False
    """Whether programs can import the packages installed beside slowthink, such as numpy and sympy."""
    processes: int = 0
    """Programs that `run_many` runs at one time; 0 means one per processor."""
    levels: tuple[Level, ...] = STRONG
    """Isolation that will do, the preferred first; `weak` lets programs read your files (ANY has it last)."""

    def __post_init__(self) -> None:
        self.isolation  # noqa: B018

    @property
    def isolation(self) -> Isolation:
        """How programs are isolated."""
        return choose_isolation(self.levels, self.packages)

    def run(self, program: str, inputs: Sequence[str | Call], *, stop_early: bool = False) -> list[Run]:
        """Run a program once per input, each time from its beginning in a process of its own.

        stop_early: leave out what comes after the first run that is not ok. Otherwise as many runs as inputs.

        Raises:
            SandboxError: the sandbox did not start, so nothing is known of the program.
        """
        cases = [_case(case) for case in inputs]
        reports = execute(self.isolation, program, cases, asdict(self.limits), stop_early)
        runs = [_run(report) for report in reports]
        if stop_early and runs and runs[-1].status != "ok":
            return runs
        return runs + [Run(status="killed", stderr="the sandbox was ended") for _ in cases[len(runs) :]]

    def run_many(
        self, jobs: Sequence[tuple[str, Sequence[str | Call]]], *, stop_early: bool = False
    ) -> list[list[Run] | None]:
        """`run` for many (program, inputs), some at a time; None where the sandbox did not start (logged)."""
        failures: list[SandboxError] = []

        def attempt(job: tuple[str, Sequence[str | Call]]) -> list[Run] | None:
            try:
                return self.run(*job, stop_early=stop_early)
            except SandboxError as error:
                failures.append(error)
                return None

        workers = self.processes or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(workers, thread_name_prefix="sandbox") as pool:
            runs = list(pool.map(attempt, jobs))
        if failures:
            logger.warning("%d of %d programs could not be run: %s", len(failures), len(jobs), failures[0])
        return runs


def _case(case: str | Call) -> str | dict[str, str]:
    if isinstance(case, str):
        return case
    return {"function": case.function, "arguments": json.dumps(case.arguments)}


def _run(report: Report) -> Run:
    stdout, result, stderr = (
        part.decode("utf-8", "replace") for part in (report.stdout, report.result, report.stderr)
    )
    status = cast(Status, report.outcome)
    return Run(status=status, stdout=stdout, result=result, stderr=stderr.strip(), seconds=report.seconds)
