"""Which process of a launch ended first, where and of what: one line, in place of a launcher's traceback.

When one process dies, torchrun stops the others of its machine, and those of other machines lose their
connections: consequences, which are told from the cause by their exit codes. The launcher of each machine
notes its cause in the stage's folder, where those that only have consequences find it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.heartbeat import FOLDER, read_heartbeats
from data.stage import EXIT_INTERRUPTED, EXIT_LOST_PEER, EXIT_PREEMPTED, EXIT_USER_ERROR
from data.stall import EXIT_STALLED

SECONDS_FOR_OTHERS = 10.0
"""How long the launcher of one machine waits for what another one tells of the cause."""
KILLED_LATE_SECONDS = 20
"""torchrun kills what has not ended 30 seconds after it was told to."""
_OF_SIGNAL = {
    signal.SIGKILL: "out of memory? see dmesg; limits of Slurm and of containers kill so, too",
    signal.SIGBUS: "often a full /dev/shm",
    signal.SIGSEGV: "a fault of compiled code",
    signal.SIGABRT: "compiled code gave up; what it said is above",
    signal.SIGTERM: "somebody asked it to end",
}


@dataclass(frozen=True, kw_only=True)
class Cause:
    """How the process ended that ended first."""

    rank: int
    host: str
    code: int
    """As a shell has it: 137 for SIGKILL."""
    what: str
    """In words; empty where there is nothing to add to what the process has said."""
    is_consequence: bool

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} {self.what}"


def find_cause(failures: Mapping[int, Any], oom_kills_before: int | None) -> Cause:
    """The first of the processes of this machine that failed.

    Args:
        failures: torch's ProcessFailure by rank.
        oom_kills_before: `oom_kills()` when the launch began.
    """
    first = min(failure.timestamp for failure in failures.values())

    def order(rank: int) -> tuple[bool, int]:
        failure = failures[rank]
        killed_late = failure.timestamp - first > KILLED_LATE_SECONDS
        return killed_late or _follows(failure.exitcode), failure.timestamp

    rank = min(failures, key=order)
    code = failures[rank].exitcode
    return Cause(
        rank=rank,
        host=socket.gethostname(),
        code=code if code > 0 else 128 - code,
        what=_in_words(code, oom_kills_before),
        is_consequence=code == EXIT_LOST_PEER,
    )


def _follows(code: int) -> bool:
    """Whether a process usually ends so because another one did."""
    return code in (EXIT_LOST_PEER, EXIT_INTERRUPTED, -signal.SIGTERM)


def _in_words(code: int, oom_kills_before: int | None) -> str:
    if code in (EXIT_LOST_PEER, EXIT_PREEMPTED, EXIT_INTERRUPTED):
        return ""
    if code == EXIT_STALLED:
        return "stood still; its own line says where"
    if code == EXIT_USER_ERROR:
        return "has found a mistake; its own line says which"
    if code > 0:
        return f"ended with exit code {code}; the traceback is its own"
    number = signal.Signals(-code)
    if number == signal.SIGKILL and (oom_kills() or 0) > (oom_kills_before or 0):
        return "was killed by SIGKILL: out of memory (the kernel has killed a process for it; see dmesg)"
    hint = _OF_SIGNAL.get(number)
    return f"was killed by {number.name}" + (f": {hint}" if hint else "")


def oom_kills() -> int | None:
    """How many processes this machine's kernel has killed for want of memory, None where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def note_cause(folder: Path, machine: int, cause: Cause) -> None:
    """Tell the other machines, in the stage's folder if it is there; the first process of the next launch
    clears the place."""
    path = _note(folder, machine)
    if path.parent.is_dir():
        path.with_suffix(".tmp").write_text(json.dumps(asdict(cause)), encoding="utf-8")
        path.with_suffix(".tmp").replace(path)


def _note(folder: Path, machine: int) -> Path:
    return folder / FOLDER / f"machine-{machine}.cause"


def wait_for_the_end_of_machine_0(address: tuple[str, int], folder: Path) -> None:
    """A restart on another machine must not meet the launch that has failed, whose port is open until its
    processes are gone (torchrun gives them 30 seconds). It has ended when its note is there or its port is
    closed; an open port beside a note is that of the next launch, to be joined."""
    end = time.monotonic() + 45
    while time.monotonic() < end and not _note(folder, 0).exists():
        try:
            socket.create_connection(address, timeout=2).close()
        except OSError:
            return
        time.sleep(0.2)


def cause_elsewhere(folder: Path) -> Cause | None:
    """What another machine tells within `SECONDS_FOR_OTHERS`."""
    end = time.monotonic() + SECONDS_FOR_OTHERS
    while time.monotonic() < end:
        for path in sorted(_note(folder, 0).parent.glob("machine-*.cause")):
            cause = Cause(**json.loads(path.read_text(encoding="utf-8")))
            if not cause.is_consequence:
                return cause
        time.sleep(0.2)
    return None


def last_heard(folder: Path) -> str:
    """The processes of other machines, the one that has been silent for longest first."""
    others = [state for state in read_heartbeats(folder) if state["host"] != socket.gethostname()]
    others.sort(key=lambda state: state["time"])
    told = [
        f"rank {state['rank']} on {state['host']} {time.time() - state['time']:.0f} s ago ({state['phase']})"
        for state in others[:4]
    ]
    return f"last heard of: {', '.join(told)}" if told else "no process of another machine has been heard of"


def end_of_group(pid: int) -> None:
    """End what a dead process of a launch has left behind (workers of data loaders, of verifiers): torchrun
    gives each process a group of its own, and does not look at it again once the process has ended."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
