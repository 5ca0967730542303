"""A process of a launch that makes no progress is found, named and ended; its launcher then ends the others.

A thread of each process watches the beats of `data/heartbeat.py`. When there are none for `stall_seconds`:

- a process that works (it loads, generates, verifies, saves) is the one that stands still: it writes the
  stacks of its threads, says so and ends itself;
- one that waits for others (in a collective) is innocent as long as one of them goes on, or will end itself;
- where all wait for each other, it is the network, or a collective that not all take part in: all end.

Code that never gives up Python's lock (a pattern that backtracks for ever) lets no thread watch. The timer of
faulthandler, which needs no lock, then writes the stacks to stderr and ends the process with code 1.

A process that was stopped itself (SIGSTOP, `scontrol suspend`) begins to count anew. The timer does not: it
strikes when a process goes on that was stopped for longer than it waits.
"""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from data.heartbeat import SECONDS_BETWEEN_WRITES, Heartbeat, read_heartbeats
from data.processes import rank, worker, world

EXIT_STALLED = 124
"""As timeout(1) ends."""
DEFAULT_SECONDS = 1800.0
LOADING_TAKES = 4
"""Loading a model says nothing until it is done; it may take so many times as long."""
LATE_TICKS = 5
"""Who has slept for so many ticks, and wanted to for one, was stopped meanwhile."""
FOLDER = "stalls"
_COLLECTIVES = ("/torch/distributed/", "/deepspeed/comm/")
_GATHER = ("/torch/distributed/fsdp/", "/deepspeed/runtime/")
"""What gathers weights. NCCL's collectives return at once, and the CPU waits behind them: in an event, a copy
or a number that is asked for, which is no code of the collective's own."""
_WRITE = "/deepspeed/runtime/checkpoint_engine/"
_PACKAGES = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))


def watch_for_stalls(own: Heartbeat, folder: Path, seconds: float | None) -> None:
    """End this process when it stands still for so long, until its heartbeat is stopped.

    Args:
        folder: of the stage.
        seconds: `stall_seconds` of the recipe's `launch:`; 0 for never, None for half an hour where several
            processes wait for each other and never for a process that is alone.
    """
    seconds = (DEFAULT_SECONDS if world() > 1 else 0.0) if seconds is None else float(seconds)
    if seconds > 0:
        threading.Thread(target=_Watch(own, folder, seconds).run, name="stall watch", daemon=True).start()


def group_timeout(seconds: float | None) -> dict[str, int]:
    """`ddp_timeout` of a recipe that has none of its own, for its `stall_seconds`: the limit that NCCL keeps,
    should no watch strike. It is twice as long, for a process may wait for one that works on and on."""
    seconds = DEFAULT_SECONDS if seconds is None else float(seconds)
    return {"ddp_timeout": round(2 * seconds)} if seconds else {}


class _Watch:
    def __init__(self, own: Heartbeat, folder: Path, seconds: float) -> None:
        self.own = own
        self.folder = folder
        self.seconds = seconds
        self.tick_seconds = min(30.0, seconds / 10)
        self.grace_seconds = max(1.0, seconds / 10)
        """How long the end of a process may take."""
        self.seen: dict[int, tuple[int, float]] = {}
        """Beats of the other processes, and since when there are so many."""
        self._set_timer()  # before anything can take the lock

    def run(self) -> None:
        try:
            asleep = time.monotonic()
            while not self.own.over.wait(self.tick_seconds):
                if time.monotonic() - asleep > LATE_TICKS * self.tick_seconds:
                    self.own.beat()
                self._look()
                asleep = time.monotonic()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _look(self) -> None:
        patience = self._set_timer()
        stood = time.monotonic() - self.own.last_beat
        if stood < patience / 2:
            self.seen, self.own.standing = {}, {}
            return
        self.own.standing = _where()
        others = self._others()
        if stood >= patience and (what := self._verdict(stood, others)):
            self._end(what)

    def _set_timer(self) -> float:
        """Seconds that this process may stand still, after which the timer strikes if no thread does."""
        patience = self._patience(self.own.phase)
        faulthandler.dump_traceback_later(patience + 2 * self.grace_seconds, exit=True)
        return patience

    def _patience(self, phase: str) -> float:
        return self.seconds * (LOADING_TAKES if phase == "load" else 1)

    def _others(self) -> list[dict[str, Any]]:
        """What the other processes of this launch have told, and for how long (by this one's clock) they have
        told nothing else."""
        found, now = [], time.monotonic()
        told = {state["rank"]: state for state in read_heartbeats(self.folder)}
        for other in range(worker() - rank(), worker() - rank() + world()):
            if other == worker():
                continue
            state = told.get(other, {"rank": other, "host": "?", "phase": "ended", "beats": -1})
            if other not in self.seen or self.seen[other][0] != state["beats"]:
                self.seen[other] = (state["beats"], now)
            found.append({**state, "stood": now - self.seen[other][1]})
        return found

    def _verdict(self, stood: float, others: list[dict[str, Any]]) -> str | None:
        """What to say before this process ends itself, None if it is not to."""
        own = {"phase": self.own.phase, **self.own.standing}
        name = f"rank {worker()} on {socket.gethostname()}"
        alone = all(other["phase"] == "ended" for other in others)
        if _works(own) or alone:
            return f"{name} has stood still for {stood:.0f} s in phase {own['phase']}, at {own['at']}"
        if any(other["stood"] < self._time_of(other) for other in others):
            return None
        working = [other for other in others if _works(other)]
        listed = "; ".join(
            f"rank {other['rank']} on {other['host']} in {other['phase']}" for other in working or others
        )
        if working:
            return f"{name} waits for what neither goes on nor ends: {listed} (dead, or cut off?)"
        return (
            f"no process has gone on for {stood:.0f} s: {name} in {own['phase']}, at {own['at']}; {listed}: "
            "the network between them, or a collective that not all of them take part in"
        )

    def _time_of(self, other: dict[str, Any]) -> float:
        """How long another process must have been seen to stand still before this one ends: one that works
        ends itself before; what waits has been looked at since this one has stood for half its time, and
        tells of itself only now and then."""
        patience = self._patience(other["phase"])
        return patience + self.grace_seconds if _works(other) else patience / 2 + 3 * SECONDS_BETWEEN_WRITES

    def _end(self, what: str) -> NoReturn:
        faulthandler.dump_traceback_later(self.grace_seconds, exit=True)  # should the disk stand still, too
        path = self.folder / FOLDER / f"{worker()}.txt"
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("w", encoding="utf-8") as file:
                file.write(f"{what}\n\n")
                file.flush()
                faulthandler.dump_traceback(file)
            stacks = f"the stacks of its threads are in {path}"
        except OSError as error:
            faulthandler.dump_traceback()
            stacks = f"the stacks of its threads are above ({error})"
        print(
            f"error: {what}; {stacks}. Started again, the stage goes on; if the work is honest, set a larger "
            f"stall_seconds (now {self.seconds:g}) in `launch:`",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_STALLED)


def _works(state: dict[str, Any]) -> bool:
    """Whether a process that stands still does so in work of its own. Training may wait for others anywhere
    (gradients), and so may what lies between the phases."""
    return state["phase"] in ("load", "generate", "reward", "checkpoint") and not state.get("waits", False)


def _where() -> dict[str, Any]:
    """Where the main thread is, and whether it waits in a collective."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    own = next((f for f in frames if not f.f_code.co_filename.startswith(("<", *_PACKAGES))), frames[0])
    called_from = "" if own is frames[0] else f" (from {_line(own)})"
    return {
        "at": _line(frames[0]) + called_from,
        "waits": is_in_a_collective([f.f_code.co_filename for f in frames]),
    }


def is_in_a_collective(files: Sequence[str]) -> bool:
    """Whether a thread waits for other processes, by the files of its frames, the innermost first. Where it
    is taken to wait and does not, all end and are listed, and none is named."""
    if any(part in file for file in files[:3] for part in _COLLECTIVES):
        return True
    gathers = next((file for file in files[:10] if any(part in file for part in _GATHER)), "")
    return bool(gathers) and _WRITE not in gathers


def _line(frame: FrameType) -> str:
    """Its place, with a path that is short where it can be."""
    path = Path(frame.f_code.co_filename)
    root = next((root for root in (*_PACKAGES, os.getcwd()) if path.is_relative_to(root)), None)
    return f"{path.relative_to(root) if root else path}:{frame.f_lineno} {frame.f_code.co_name}"
