"""Which of the ends of a launch's processes is the cause."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from data.recipe import RecipeError
from data.stage import EXIT_INTERRUPTED, EXIT_LOST_PEER, EXIT_USER_ERROR, is_lost_peer
from data.stall import EXIT_STALLED
from launch import cause
from launch.cause import end_of_group, find_cause

ABRT, TERM, KILL = -signal.SIGABRT, -signal.SIGTERM, -signal.SIGKILL


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
        (ends((EXIT_LOST_PEER, 6), (TERM, 5)), 1, 143, "was killed by SIGTERM"),
        (ends((KILL, 36), (1, 5)), 1, 1, "exit code 1; the traceback is its own"),
        (ends((EXIT_INTERRUPTED, 6), (EXIT_STALLED, 5)), 1, EXIT_STALLED, "stood still"),
        (ends((TERM, 6), (EXIT_USER_ERROR, 6)), 1, EXIT_USER_ERROR, "has found a mistake"),
        (ends((TERM, 5), (-signal.SIGSEGV, 5)), 1, 139, "was killed by SIGSEGV: a fault of compiled code"),
        (ends((ABRT, 5), (KILL, 5)), 1, 137, "was killed by SIGKILL"),
    ],
)
def test_the_cause_is_the_end_that_followed_no_other(
    failures: dict[int, ProcessFailure], rank: int, code: int, words: str
) -> None:
    found = find_cause(failures, cause.oom_kills())
    assert (found.rank, found.code, found.is_consequence) == (rank, code, False)
    assert words in str(found)
    assert str(found).startswith(f"rank {rank} on {socket.gethostname()} ")


def test_an_abort_may_be_a_consequence_which_another_machine_knows() -> None:
    found = find_cause(ends((EXIT_LOST_PEER, 5), (ABRT, 5), (TERM, 5)), None)
    assert (found.rank, found.code, found.is_consequence) == (1, 134, True)
    assert "was killed by SIGABRT: compiled code gave up" in str(found)


def test_who_lost_a_peer_was_not_ended_by_the_launcher() -> None:
    found = find_cause(ends((TERM, 5), (EXIT_LOST_PEER, 5)), None)
    assert (found.rank, found.is_consequence) == (1, True)


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/"


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        (f"{GLOO}pair.cc:537] Read error [10.77.0.2]:41664: Connection reset by peer", True),
        (f"{GLOO}pair.cc:553] Connection closed by peer [10.77.0.2]:11189", True),
        (f"{GLOO}unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete", True),
        ("Gloo connectFullMesh failed with timed out connecting: SO_ERROR: Connection refused", True),
        ("NCCL error: remote process exited or there was a network error, NCCL version 2.27", True),
        ("CUDA error: the launch timed out and was terminated", False),
        ("DataLoader timed out after 30 seconds", False),
        (f"{GLOO}pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4", False),
        ("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0", False),
    ],
)
def test_a_lost_connection_is_known_by_what_is_said_of_it(
    message: str, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_lost_peer(RuntimeError(message)) == lost
    in_a_config = RecipeError(f"r.yaml: {message}")
    in_a_config.__cause__ = RuntimeError(message)
    assert is_lost_peer(in_a_config) == lost
    assert not is_lost_peer(ConnectionError(message)), "a server's, not a process's"
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_lost_peer(RuntimeError(message))


def test_the_kernel_tells_of_memory() -> None:
    kills = cause.oom_kills()
    if kills is None:
        pytest.skip("this kernel does not count the processes that it has killed for want of memory")
    assert "the kernel has killed a process for it" in str(find_cause(ends((KILL, 5)), kills - 1))
    assert "out of memory? see dmesg" in str(find_cause(ends((KILL, 5)), kills))


def test_the_kills_of_other_containers_are_not_those_of_this_one(tmp_path: Path) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "vmstat").write_text("nr_free_pages 5\noom_kill 7\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/job_3/step_0\n")
    assert cause.oom_kills(tmp_path) == 7
    group = tmp_path / "sys" / "fs" / "cgroup" / "job_3" / "step_0"
    group.mkdir(parents=True)
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 4\noom 2\noom_kill 2\noom_group_kill 0\n")
    assert cause.oom_kills(tmp_path) == 2
    assert cause.oom_kills(tmp_path / "nothing") is None


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
