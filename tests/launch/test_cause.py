"""Which of the ends of a launch's processes is the cause."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from data.stage import EXIT_INTERRUPTED, EXIT_LOST_PEER, EXIT_USER_ERROR
from data.stall import EXIT_STALLED
from launch import cause
from launch.cause import end_of_group, find_cause

TERM, KILL = -signal.SIGTERM, -signal.SIGKILL


def ends(*codes_and_seconds: tuple[int, int]) -> dict[int, ProcessFailure]:
    """torch's own records, by rank."""
    made = {}
    for rank, (code, second) in enumerate(codes_and_seconds):
        made[rank] = ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file="")
        made[rank].timestamp = second
    return made


@pytest.mark.parametrize(
    ("failures", "rank", "code", "words"),
    [
        (ends((TERM, 5), (KILL, 5)), 1, 137, "was killed by SIGKILL: out of memory"),
        (ends((EXIT_LOST_PEER, 5), (KILL, 5), (TERM, 5)), 1, 137, "was killed by SIGKILL"),
        (ends((KILL, 36), (1, 5)), 1, 1, "exit code 1; the traceback is its own"),
        (ends((EXIT_INTERRUPTED, 6), (EXIT_STALLED, 5)), 1, EXIT_STALLED, "stood still"),
        (ends((TERM, 6), (EXIT_USER_ERROR, 6)), 1, EXIT_USER_ERROR, "has found a mistake"),
        (ends((TERM, 5), (-signal.SIGSEGV, 5)), 1, 139, "was killed by SIGSEGV: a fault of compiled code"),
    ],
)
def test_the_cause_is_the_end_that_followed_no_other(
    failures: dict[int, ProcessFailure], rank: int, code: int, words: str
) -> None:
    found = find_cause(failures, cause.oom_kills())
    assert (found.rank, found.code, found.is_consequence) == (rank, code, False)
    assert words in str(found)
    assert str(found).startswith(f"rank {rank} on {socket.gethostname()} ")


def test_the_kernel_tells_of_memory() -> None:
    kills = cause.oom_kills()
    if kills is None:
        pytest.skip("this kernel does not count the processes that it has killed for want of memory")
    assert "the kernel has killed a process for it" in str(find_cause(ends((KILL, 5)), kills - 1))
    assert "out of memory? see dmesg" in str(find_cause(ends((KILL, 5)), kills))


def test_what_a_dead_process_has_left_behind_is_ended() -> None:
    sleeper = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'])"
    read, write = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", sleeper], stdin=read, stdout=subprocess.PIPE, start_new_session=True
    )
    assert child.stdout is not None
    assert child.wait(60) == 0
    assert not select.select([child.stdout], [], [], 0)[0]  # somebody still has it
    end_of_group(child.pid)
    assert select.select([child.stdout], [], [], 60)[0]
    assert child.stdout.read() == b""
    os.close(read)
    os.close(write)
