"""Which process of a launch ended first, where and of what: one line, in place of a launcher's traceback.

When one process dies, torchrun stops the others of its machine, and those of other machines lose their
connections: consequences, which are told from the cause by their exit codes.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.stage import EXIT_INTERRUPTED, EXIT_LOST_PEER, EXIT_PREEMPTED, EXIT_USER_ERROR
from data.stall import EXIT_STALLED

KILLED_LATE_SECONDS = 20
"""torchrun kills what has not ended 30 seconds after it was told to."""
_OF_SIGNAL = {
    signal.SIGKILL: "out of memory? see dmesg; limits of Slurm and of containers kill so, too",
    signal.SIGBUS: "often a full /dev/shm",
    signal.SIGSEGV: "a fault of compiled code",
    signal.SIGABRT: "compiled code gave up, as NCCL does when another process is gone; what it said is above",
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
    """It has lost another process, or may have; that one's machine knows better."""

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} {self.what}"


def find_cause(failures: Mapping[int, Any], oom_kills_before: int | None) -> Cause:
    """The first of the processes of this machine that failed.

    Args:
        failures: torch's ProcessFailure by rank.
        oom_kills_before: `oom_kills()` when the launch began.
    """
    first = min(failure.timestamp for failure in failures.values())

    def order(rank: int) -> tuple[int, int, bool]:
        code, seconds = failures[rank].exitcode, failures[rank].timestamp
        follows = 2 if seconds - first > KILLED_LATE_SECONDS else _follows(code)
        return follows, seconds, code != EXIT_LOST_PEER  # who lost a peer was not ended by the launcher

    rank = min(failures, key=order)
    code = failures[rank].exitcode
    return Cause(
        rank=rank,
        host=socket.gethostname(),
        code=shell_code(code),
        what=in_words(code, oom_kills_before),
        is_consequence=code in (EXIT_LOST_PEER, -signal.SIGABRT),
    )


def shell_code(code: int) -> int:
    """An exit code as a shell has it: 137 for SIGKILL."""
    return code if code >= 0 else 128 - code


def _follows(code: int) -> int:
    """Whether a process ends so because another one did: 0 hardly, 1 maybe, 2 usually."""
    if code == -signal.SIGABRT:  # NCCL's watchdog ends a process so whose peer is gone
        return 1
    return 2 if code in (EXIT_LOST_PEER, EXIT_INTERRUPTED, -signal.SIGTERM) else 0


def in_words(code: int, oom_kills_before: int | None) -> str:
    """What an exit code, or with a minus a signal, says of a process; empty where there is nothing to add."""
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


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this one's control group (v2; else of the whole machine) the kernel has killed
    for want of memory, None where it does not say."""
    groups = [line[4:] for line in _lines(root / "proc/self/cgroup") if line.startswith("0::/")]
    for path in (
        *(root / "sys/fs/cgroup" / group / "memory.events" for group in groups),
        root / "proc/vmstat",
    ):
        for line in _lines(path):
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def _lines(path: Path) -> list[str]:
    """Of a file of the kernel's; empty where it has none of that name."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def end_of_group(pid: int) -> None:
    """End what a dead process of a launch has left behind (workers of data loaders, of verifiers): torchrun
    gives each process a group of its own, and does not look at it again once the process has ended."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
