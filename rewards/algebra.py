"""Comparison by computer algebra, which may take forever, in worker processes that are killed when it does.

A worker is a plain subprocess that speaks JSON lines: it needs no signal handler, no fork and no importable
main module of the caller, so this works in any thread, in daemonic processes and beside CUDA. Workers are
started on first use, kept, and started again after they were killed or died.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.schema import Outcome

LONGEST_ANSWER = 500
"""Characters; a longer answer is not tried."""
MOST_DECISIONS_KEPT = 20_000
START_SECONDS = 60
"""A worker that has not loaded sympy by then is started again."""
FAILED_STARTS = 3
"""Workers that may die while they start, one after the other, before that is an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the last tier may take."""

    seconds: float = 3.0
    """Per pair; then its worker is killed and the pair is unverifiable."""
    batch_seconds: float = 60.0
    """Per batch, in all; pairs that were not decided by then are unverifiable."""
    processes: int = 2
    """Worker processes."""
    memory_mib: int = 2048
    """Address space of a worker."""

    def __post_init__(self) -> None:
        if min(self.seconds, self.batch_seconds, self.processes, self.memory_mib) <= 0:
            raise ValueError(f"limits must be positive: {self}")


@dataclass(frozen=True, slots=True)
class Decision:
    """What the last tier says about one pair."""

    outcome: Outcome
    rule: str
    """algebra, undecided, or timeout (also when the worker died, of memory for instance)."""
    seconds: float


DEFAULT_LIMITS = Limits()
_UNDECIDED = Decision("unverifiable", "undecided", 0.0)
_TIMEOUT = Decision("unverifiable", "timeout", 0.0)


def decide(
    pairs: Sequence[tuple[str, str]], limits: Limits = DEFAULT_LIMITS, end: float | None = None
) -> list[Decision]:
    """Compare (gold, answer) pairs, in order, until `end` (of time.monotonic) or for `limits.batch_seconds`.
    Each pair is decided once per process and then remembered; pairs that a batch had no time for are not."""
    wanted = [pair for pair in dict.fromkeys(pairs) if pair not in _decisions and _worth_trying(*pair)]
    end = time.monotonic() + limits.batch_seconds if end is None else end
    fresh = _pool().decide(wanted, limits, end) if wanted else {}
    if len(_decisions) + len(fresh) > MOST_DECISIONS_KEPT:
        _decisions.clear()
    decisions = [fresh.get(pair) or _decisions.get(pair) for pair in pairs]
    _decisions.update(fresh)
    return [
        decision or (_TIMEOUT if _worth_trying(*pair) else _UNDECIDED)
        for pair, decision in zip(pairs, decisions, strict=True)
    ]


_decisions: dict[tuple[str, str], Decision] = {}


def _worth_trying(gold: str, answer: str) -> bool:
    """Whether both texts could be formulas: math-verify reads "5 cents" as 5, "y = 5" too, and drops the
    subscripts of numbers."""
    return all(
        len(text) <= LONGEST_ANSWER
        and _FORMULA.search(text)
        and not _NO_FORMULA.search(_INDEX.sub("_", text))
        for text in (gold, answer)
    )


_INDEX = re.compile(r"(?<![0-9])_\{[^{}]*\}")  # the n=1 of a sum is no equation
_FORMULA = re.compile(r"[0-9\\^_+*/-]")
_NO_FORMULA = re.compile(
    r"boxed|[=<>\u2264\u2265]|\\(?:[lg]eq?|neq?|in|approx)(?![a-z])|[0-9]_|[0-9]:[0-9]|\.\.|___"
    r"|(?<![A-Za-z\\])(?!(?:sin|cos|tan|cot|sec|csc|sinh|cosh|tanh|log|exp|max|min|gcd|lcm|mod|det|dim|and"
    r"|begin|end|[pbv]?matrix|array|cases|frac|sqrt|left|right)(?![a-z]))[A-Za-z]{3,}"
)


# ---------------------------------------------------------------- worker processes


@dataclass(eq=False)
class _Worker:
    """One process, and the pair that it is at."""

    process: subprocess.Popen[str]
    limits: Limits
    pair: tuple[str, str] | None = None
    ready: bool = False
    began: float = field(default_factory=time.monotonic)

    def ask(self, pair: tuple[str, str]) -> bool:
        """Send a pair; False where the process is dead."""
        self.pair, self.began = pair, time.monotonic()
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(pair) + "\n")
            self.process.stdin.flush()
        except OSError:
            return False
        return True

    @property
    def busy(self) -> bool:
        """Whether it owes a line: an answer, or that it is ready."""
        return self.pair is not None or not self.ready

    def deadline(self) -> float:
        return self.began + (self.limits.seconds if self.ready else START_SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue  # what was not yet sent to a dead worker


class _Pool:
    """The workers of this process. One batch at a time; other threads wait, within their own
    batch_seconds."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.workers: list[_Worker] = []
        self.failed_starts = 0
        self.survivors: set[tuple[str, str]] = set()
        """Pairs of this batch whose worker has died."""

    def decide(
        self, pairs: Sequence[tuple[str, str]], limits: Limits, end: float
    ) -> dict[tuple[str, str], Decision]:
        """Decisions of as many pairs as there is time for."""
        if not self.lock.acquire(timeout=max(0.0, end - time.monotonic())):
            return {}
        try:
            return self._decide(list(reversed(pairs)), limits, end)
        finally:
            for worker in [w for w in self.workers if w.pair is not None]:
                self._drop(worker)
            self.lock.release()

    def _decide(
        self, waiting: list[tuple[str, str]], limits: Limits, end: float
    ) -> dict[tuple[str, str], Decision]:
        decisions: dict[tuple[str, str], Decision] = {}
        self.survivors.clear()
        for worker in [w for w in self.workers if w.limits != limits]:
            self._drop(worker)
        while waiting or any(worker.pair for worker in self.workers):
            while len(self.workers) < min(limits.processes, len(waiting)):
                self.workers.append(_start(limits))
            for worker in [w for w in self.workers if w.ready and w.pair is None][: len(waiting)]:
                if not worker.ask(waiting.pop()):
                    self._retry(worker, waiting)
            if time.monotonic() >= end:
                break
            for worker in self._readable(end):
                self._answer(worker, decisions, waiting)
            for worker in [w for w in self.workers if w.busy and time.monotonic() > w.deadline()]:
                if worker.pair:
                    decisions[worker.pair] = Decision("unverifiable", "timeout", limits.seconds)
                self._drop(worker)
        return decisions

    def _readable(self, end: float) -> list[_Worker]:
        """Busy workers with a line or an end of file, as soon as there is one or a deadline has passed."""
        busy = [worker for worker in self.workers if worker.busy]
        seconds = min([end, *(worker.deadline() for worker in busy)]) - time.monotonic()
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            return [key.data for key, _ in selector.select(max(seconds, 0))]

    def _answer(
        self, worker: _Worker, decisions: dict[tuple[str, str], Decision], waiting: list[tuple[str, str]]
    ) -> None:
        """Take a worker's line. A pair whose worker died is tried once more: the second death is its own
        doing."""
        assert worker.process.stdout is not None
        line = worker.process.stdout.readline()
        if line == "ready\n" and not worker.ready:
            worker.ready, self.failed_starts = True, 0
            return
        if worker.pair is None:
            self._failed_start(worker)
            return
        seconds = time.monotonic() - worker.began
        if line.endswith("\n"):
            outcome = json.loads(line)
            rule = "undecided" if outcome == "unverifiable" else "algebra"
            decisions[worker.pair] = Decision(outcome, rule, seconds)
            worker.pair = None
        elif worker.pair in self.survivors:
            decisions[worker.pair] = Decision("unverifiable", "timeout", seconds)
            self._drop(worker)
        else:
            self.survivors.add(worker.pair)
            self._retry(worker, waiting)

    def _failed_start(self, worker: _Worker) -> None:
        self.failed_starts += 1
        self._drop(worker)
        if self.failed_starts > FAILED_STARTS:
            command = " ".join(str(part) for part in worker.process.args)  # pyright: ignore
            raise RuntimeError(f"the algebra worker does not start; to see why, run: {command}")

    def _retry(self, worker: _Worker, waiting: list[tuple[str, str]]) -> None:
        """Another worker shall decide this one's pair."""
        assert worker.pair is not None
        waiting.append(worker.pair)
        self._drop(worker)

    def _drop(self, worker: _Worker) -> None:
        worker.kill()
        self.workers.remove(worker)

    def close(self) -> None:
        for worker in list(self.workers):
            self._drop(worker)


def _start(limits: Limits) -> _Worker:
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "rewards.algebra_worker", str(limits.seconds), str(limits.memory_mib)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    return _Worker(process, limits)


_pools: dict[int, _Pool] = {}
_pools_lock = threading.Lock()


def _pool() -> _Pool:
    """The pool of this process: a forked child starts its own workers."""
    with _pools_lock:
        if os.getpid() not in _pools:
            _pools.clear()
            _pools[os.getpid()] = pool = _Pool()
            atexit.register(pool.close)
        return _pools[os.getpid()]
