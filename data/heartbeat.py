"""What a process is doing, told to whoever asks: a small file for each process, and seconds by phase.

Each process of a stage writes `<folder>/.heartbeat/<rank>.json` when it makes progress, at most once a
second: where it runs, its phase, how far it is, when that was. `slowthink show --live` reads them; so does
what names a process that stands still.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from data.processes import rank, world

Phase = Literal["load", "generate", "reward", "forward_backward", "sync", "checkpoint", "idle"]
"""load: models and data; generate; reward: verifiers and reward models; forward_backward: training and
scoring; sync: waiting for other processes and sending them weights; checkpoint; idle: everything between."""
PHASES: tuple[Phase, ...] = get_args(Phase)

FOLDER = ".heartbeat"
_SECONDS_BETWEEN_WRITES = 1.0


class _Heartbeat:
    """Of this process. Threads may beat; the phase is that of the main thread."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.phases: list[Phase] = []
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.beats = 0
        self.last_beat = self._since = time.monotonic()
        self._written = 0.0
        self._facts: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def phase(self) -> Phase:
        return self.phases[-1] if self.phases else "idle"

    def beat(self, **facts: Any) -> None:
        with self._lock:
            self.beats += 1
            self.last_beat = time.monotonic()
            self._facts.update(facts)
            if self.path is not None and self.last_beat - self._written >= _SECONDS_BETWEEN_WRITES:
                self._write()

    def turn(self, phase: Phase | None) -> None:
        """Enter a phase, or with None leave it."""
        with self._lock:
            now = time.monotonic()
            self.seconds[self.phase] += now - self._since
            self._since = now
            if phase is None:
                self.phases.pop()
            else:
                self.phases.append(phase)
        self.beat()

    def take_seconds(self) -> dict[Phase, float]:
        with self._lock:
            now = time.monotonic()
            self.seconds[self.phase] += now - self._since
            self._since = now
            taken, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        return taken

    def _write(self) -> None:
        assert self.path is not None
        self._written = self.last_beat
        state = {
            "rank": rank(),
            "world": world(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "time": time.time(),
            "beats": self.beats,
            "phase": self.phase,
            **self._facts,
        }
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(state), encoding="utf-8")
            temporary.replace(self.path)
        except (
            OSError
        ):  # the first process has not made the folder yet, or the disk is full: no reason to end
            return


_own = _Heartbeat()


def start_heartbeat(folder: Path, stall_seconds: float | None) -> None:
    """Begin to tell of this process in the stage's folder."""
    place = folder / FOLDER
    if rank() == 0:  # others may not: the folder may still be one that is about to be moved aside
        place.mkdir(parents=True, exist_ok=True)
        for old in place.iterdir():
            old.unlink()
    _own.__init__()
    _own.path = place / f"{rank()}.json"
    _own.beat()


def stop_heartbeat() -> None:
    """This process has nothing more to tell; its last file goes."""
    if _own.path is not None:
        _own.path.unlink(missing_ok=True)
        _own.path = None


def beat(**facts: Any) -> None:
    """Say that this process makes progress: a row, a step, a token of all rows.

    Args:
        facts: what is shown of it, for example done=12, total=400, unit="completions", step=3.
    """
    _own.beat(**facts)


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """What is done within belongs to this phase; phases nest, and time counts for the innermost one."""
    _own.turn(name)
    try:
        yield
    finally:
        _own.turn(None)


def take_phase_seconds() -> dict[Phase, float]:
    """Seconds of each phase since this was asked last."""
    return _own.take_seconds()
