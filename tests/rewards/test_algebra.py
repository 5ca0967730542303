"""The last tier: verdicts, hard limits, dead workers, threads, forks, and a caller without signal
handlers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rewards import algebra
from rewards.algebra import Limits, decide
from rewards.verify import verify_many

pytestmark = pytest.mark.slow  # every pool loads sympy

BOMB = (r"\sum_{n=1}^{10^{9}} \frac{n!}{(n+1)^{n}}", r"\int_0^1 \sin(\sin(\sin(x^{x^x}))) dx")
INTEGRAL = (r"\int_0^1 x^2 dx", r"\frac{1}{3}")


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    algebra._decisions.clear()
    yield
    algebra._decisions.clear()


def _workers() -> list[int]:
    return [worker.process.pid for worker in algebra._pool().workers]


def test_what_algebra_can_tell() -> None:
    pairs = [INTEGRAL, (r"\int_0^1 x^2 dx", r"\frac{1}{4}"), ("x^", r"\frac{1}{3}"), ("5", "5 cents")]
    assert [(d.outcome, d.rule) for d in decide(pairs)] == [
        ("correct", "algebra"),
        ("wrong", "algebra"),
        ("unverifiable", "undecided"),
        ("unverifiable", "undecided"),
    ]


def test_kinds_that_math_verify_confuses_stay_undecided() -> None:
    pairs = [("(1,2)", r"\{2,1\}"), (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)")]
    assert {d.outcome for d in decide(pairs)} <= {"wrong", "unverifiable"}


def test_a_hanging_pair_is_killed_and_the_others_are_decided() -> None:
    limits = Limits(seconds=1.0, processes=1)
    begin = time.monotonic()
    decisions = decide([BOMB, INTEGRAL, (BOMB[1], BOMB[0])], limits)
    assert time.monotonic() - begin < limits.batch_seconds
    assert [d.rule for d in decisions] == ["timeout", "algebra", "timeout"]
    assert all(0.9 < d.seconds < 10 for d in (decisions[0], decisions[2]))


def test_a_batch_never_takes_longer_than_its_limit() -> None:
    bombs = [(f"{BOMB[0]}+{n}", BOMB[1]) for n in range(50)]
    begin = time.monotonic()
    decisions = decide([*bombs, INTEGRAL], Limits(seconds=2.0, batch_seconds=5.0))
    assert time.monotonic() - begin < 8
    assert {d.rule for d in decisions} <= {"timeout", "algebra"}
    assert (
        decide([INTEGRAL], Limits(seconds=20.0))[0].outcome == "correct"
    )  # what had no time was not remembered


def test_verdicts_are_remembered() -> None:
    first = decide([INTEGRAL])
    workers = _workers()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert decide([INTEGRAL] * 3) == first * 3


def test_fewer_pairs_than_idle_workers() -> None:
    pairs = [(rf"\int_0^1 x^{{{n}}} dx", rf"\frac{{1}}{{{n + 1}}}") for n in range(2, 9)]
    decide(pairs, Limits(seconds=20.0))
    for n in range(20, 23):
        assert decide([(rf"\int_0^1 x^{{{n}}} dx", rf"\frac{{1}}{{{n + 1}}}")])[0].outcome == "correct"


def test_dead_workers_are_replaced() -> None:
    decide([INTEGRAL])
    for pid in _workers():
        os.kill(pid, signal.SIGKILL)
    assert decide([(r"\int_0^1 x^3 dx", r"\frac{1}{4}")])[0].outcome == "correct"


def test_memory_is_limited() -> None:
    huge = (r"\sum_{n=1}^{2000} (x+1)^{n^{3}}", r"\prod_{n=1}^{3000} (x+y+z+n)^{n}")
    limits = Limits(seconds=8.0, memory_mib=700, processes=1)
    assert decide([huge, INTEGRAL], limits)[1].outcome == "correct"
    assert algebra._pool().workers[0].limits.memory_mib == 700


def test_many_threads_share_the_workers() -> None:
    pairs = [(rf"\int_0^1 x^{{{n}}} dx", rf"\frac{{1}}{{{n + 1}}}") for n in range(2, 14)]
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda pair: decide([pair], Limits(seconds=20.0))[0].outcome, pairs))
    assert results == ["correct"] * len(pairs)
    assert threading.active_count() == 1 or len(_workers()) <= Limits().processes


def test_the_callers_alarm_is_left_alone() -> None:
    rang = []
    previous = signal.signal(signal.SIGALRM, lambda *_: rang.append(1))
    try:
        signal.setitimer(signal.ITIMER_REAL, 3600)
        verify_many([INTEGRAL[0]], [f"\\boxed{{{INTEGRAL[1]}}}"])
        remaining, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert 3000 < remaining <= 3600
    assert not rang


SCRIPT = """
import multiprocessing, os, sys
from rewards.algebra import Limits, decide

PAIR = (r"\\\\int_0^1 x^2 dx", r"\\\\frac{1}{3}")

def child():
    assert decide([PAIR], Limits(seconds=20.0))[0].outcome == "correct"

decide([(r"\\\\int_0^1 x^4 dx", r"\\\\frac{1}{5}")], Limits(seconds=20.0))
process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
process.start()
process.join(60)
assert process.exitcode == 0, process.exitcode
child()
print("workers", *[worker.process.pid for worker in __import__("rewards.algebra").algebra._pool().workers])
"""


def test_works_unguarded_in_a_daemonic_fork_and_leaves_no_process_behind() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("\\\\", "\\")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    workers = [int(pid) for pid in done.stdout.split()[1:]]
    assert workers
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


def test_workers_that_cannot_start_are_one_clear_error() -> None:
    with pytest.raises(RuntimeError, match=r"does not start; to see why, run: .*algebra_worker"):
        decide([INTEGRAL], Limits(memory_mib=20))
    assert decide([INTEGRAL], Limits(seconds=20.0))[0].outcome == "correct"


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Limits(seconds=0)
