"""What a process is doing, told to whoever asks: a small file for each process, and seconds by phase.

Each process of a stage keeps `<folder>/.heartbeat/<rank>.json`: where it runs, its phase, how far it is, and
when it last made progress. To beat costs no more than to take a lock; a thread writes the file once a second
if there is something new. `slowthink show --live` reads the files; so does what names a process that stands
still.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import psutil

from data.processes import rank, share, worker, workers

Phase = Literal["load", "generate", "reward", "forward_backward", "sync", "checkpoint", "idle"]
"""load: models and data, until the work begins; generate; reward: verifiers and reward models;
forward_backward: training and scoring; sync: waiting for other processes and sending weights; checkpoint:
saving; idle: everything between."""
PHASES: tuple[Phase, ...] = get_args(Phase)

FOLDER = ".heartbeat"
MEMORY = ("rss_gib", "gpu_gib")
SECONDS_BETWEEN_WRITES = 1.0


class Heartbeat:
    """Of this process. Threads may beat; the phase is that of the main thread."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.beats = 0
        self.last_beat = time.monotonic()
        self.facts: dict[str, Any] = {}
        self.standing: dict[str, Any] = {}
        """Where the process is, if it has not gone on for long (data/stall.py)."""
        self._phases: list[Phase] = []
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._since = self.last_beat
        self._lock = threading.Lock()
        self.over = threading.Event()
        self._writer = threading.Thread(target=self._keep_writing, name="heartbeat", daemon=True)

    @property
    def phase(self) -> Phase:
        """Work begins when it is told how far it is; what comes before belongs to loading."""
        return self._phases[-1] if self._phases else "idle" if self.facts else "load"

    def beat(self, **facts: Any) -> None:
        with self._lock:
            self._count()
            self.beats += 1
            self.last_beat = self._since
            if "unit" in facts:
                facts |= {"since": time.time(), "since_done": facts.get("step", facts.get("done", 0))}
            self.facts.update(facts)

    def enter(self, phase: Phase) -> None:
        self.beat()
        self._phases.append(phase)

    def leave(self) -> None:
        self.beat()
        self._phases.pop()

    def take_seconds(self) -> dict[Phase, float]:
        with self._lock:
            self._count()
            taken, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return taken

    def _count(self) -> None:
        """The time until now is that of the phase that was."""
        now = time.monotonic()
        self._seconds[self.phase] += now - self._since
        self._since = now

    def start(self, path: Path) -> None:
        self.path = path
        self.beat()
        self._writer.start()

    def stop(self) -> None:
        self.over.set()
        if self._writer.is_alive():
            self._writer.join()
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None

    def _keep_writing(self) -> None:
        told = None
        while not self.over.is_set():
            state = (self.beats, self.phase, self.standing)
            if (state != told or not self._is_there()) and self._write():
                told = state
            self.over.wait(SECONDS_BETWEEN_WRITES)

    def _is_there(self) -> bool:
        """The first process clears the place when it begins, which may be later."""
        return self.path is not None and self.path.exists()

    def _write(self) -> bool:
        assert self.path is not None
        memory = own_memory()  # which may wait for a GPU
        with self._lock:
            state = {
                "rank": worker(),
                "world": workers(),
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "time": time.time() - (time.monotonic() - self.last_beat),
                "beats": self.beats,
                "phase": self.phase,
                **memory,
                **self.facts,
                **self.standing,
            }
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_text(json.dumps(state), encoding="utf-8")
            temporary.replace(self.path)
        except OSError:  # the first process has not made the folder yet, or the disk is full: tried again
            return False
        return True


_own = Heartbeat()


def start_heartbeat(folder: Path, stall_seconds: float | None) -> None:
    """Begin to tell of this process in the stage's folder; it ends itself when it stands still (see
    `watch_for_stalls`)."""
    from data.stall import watch_for_stalls  # which reads what is told here

    global _own
    place = folder / FOLDER
    if rank() == 0:  # others may not: the folder may still be one that is about to be moved aside
        place.mkdir(parents=True, exist_ok=True)
        for old in place.iterdir() if share()[1] == 1 else ():  # else those of other shares are among them
            old.unlink(missing_ok=True)
    _own = Heartbeat()
    _own.start(place / f"{worker()}.json")
    watch_for_stalls(_own, folder, stall_seconds)


def stop_heartbeat() -> None:
    """This process has nothing more to tell; its file goes."""
    _own.stop()


def stage_folder() -> Path | None:
    """Of the stage that this process tells of, if it does."""
    return _own.path.parent.parent if _own.path is not None else None


def read_heartbeats(folder: Path) -> list[dict[str, Any]]:
    """What the processes of a stage have told last, in the order of their ranks; files that are no such thing
    are passed over."""
    found = []
    for path in (folder / FOLDER).glob("*.json"):
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            found += [state] if isinstance(state["rank"], int) else []
        except (OSError, ValueError, TypeError, KeyError):  # gone just now, or somebody else's
            continue
    return sorted(found, key=lambda state: state["rank"])


def own_memory() -> dict[str, float]:
    """GiB of main memory that this process has, and the most that it has had of its GPU, if it uses one."""
    memory = {"rss_gib": round(psutil.Process().memory_info().rss / 2**30, 3)}
    torch = sys.modules.get("torch")  # which this layer never imports; another thread may be just doing so
    loading = torch is None or getattr(torch.__spec__, "_initializing", False)
    if torch is not None and not loading and torch.cuda.is_initialized():
        most = max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))
        memory["gpu_gib"] = round(most / 2**30, 3)
    return memory


def beat(**facts: Any) -> None:
    """Say that this process makes progress: a row, a step, a token of all rows.

    Args:
        facts: how far it is: step or done, total, tokens. With `unit` ("completion") a piece of work begins;
            the first facts end the phase "load".
    """
    _own.beat(**facts)


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """What is done within belongs to this phase; phases nest, and time counts for the innermost one. To enter
    and to leave one is progress, too, and all that it is in a thread beside the main one."""
    own = _own
    if threading.current_thread() is not threading.main_thread():
        own.beat()
        yield
        own.beat()
        return
    own.enter(name)
    try:
        yield
    finally:
        own.leave()


def take_phase_seconds() -> dict[Phase, float]:
    """Seconds of each phase since this was asked last."""
    return _own.take_seconds()
