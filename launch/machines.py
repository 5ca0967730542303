"""What the launchers of several machines tell each other, by a file of each beside the folder of the stage.

A machine whose processes have only lost their connections learns the cause there. One whose processes wait
for somebody that never came (a mistake on one machine, found before they met) is ended, and a machine that
starts again learns that machine 0 has ended, too.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.heartbeat import read_heartbeats
from data.stage import EXIT_FAILED
from data.store import read_json, write_json
from launch.cause import Cause

ATTEMPT = "SLOWTHINK_ATTEMPT"
"""How often `slowthink` has started this launch before."""
RESTARTS_LEFT = "SLOWTHINK_RESTARTS_LEFT"
"""How often it would start it again."""
CAUSE_SECONDS = 10.0
"""How long a machine waits for another one to tell the cause."""
LEAVE_SECONDS = 30.0
"""How long its processes have to end by themselves when another machine has told one."""
LOOK_SECONDS = 2.0
SAVE_SECONDS = 900.0
"""How long machine 0 may work on when the others are done: it saves the model."""
END_SECONDS = 45.0
"""What torchrun gives processes to end, and some more."""


class Machine:
    """This machine, in a launch of several."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder = folder
        self.number = number
        self.attempt = int(os.environ.get(ATTEMPT, "0"))
        self.restarts_left = int(os.environ.get(RESTARTS_LEFT, "0"))
        self.began_ns = 0
        self._over = threading.Event()

    def begin(self) -> None:
        """Say that the launch begins; what others have told before is of another one. When another machine
        tells how this one has ended, end it here, too."""
        earlier = read_note(self._note(self.number)) if self.attempt else {}
        write_json(self._note(self.number), {**earlier, str(self.attempt): None})
        self.began_ns = self._note(self.number).stat().st_mtime_ns
        self._over.set()
        self._over = threading.Event()
        watch = threading.Thread(
            target=self._end_with_others, args=[self._over], name="other machines", daemon=True
        )
        watch.start()

    def end(self, cause: Cause | None) -> None:
        """Say how the launch has ended here; all is well with None. Nobody is to end it any more."""
        self._over.set()
        if cause is None:
            self._note(self.number).unlink(missing_ok=True)
        else:
            note = {**read_note(self._note(self.number)), str(self.attempt): asdict(cause)}
            write_json(self._note(self.number), note)

    def cause_elsewhere(self, seconds: float = CAUSE_SECONDS) -> Cause | None:
        """What another machine tells within so many seconds."""
        end = time.monotonic() + seconds
        while True:
            if (cause := next(self._causes(), None)) is not None or time.monotonic() >= end:
                return cause
            time.sleep(0.2)

    def failure_of_machine_0(self) -> Cause | None:
        """What machine 0 tells when this one is done and it still saves the model: all start again if it
        fails. None where all is well, this is machine 0, nobody would start again, or it takes too long."""
        end = time.monotonic() + SAVE_SECONDS
        path, now = self._note(0), str(self.attempt)
        while self.number and self.restarts_left and time.monotonic() < end:
            told = read_note(path)
            if now not in told:  # it removes its note when all is well
                return None
            if told[now] and path.stat().st_mtime_ns >= self.began_ns:
                return Cause(**told[now])
            if any(int(other) > self.attempt for other in told):
                what = "has started again and told nothing"
                return Cause(rank=0, host="machine 0", code=EXIT_FAILED, what=what, is_consequence=True)
            time.sleep(LOOK_SECONDS)
        return None

    def _causes(self) -> Iterator[Cause]:
        for path in sorted(self.folder.parent.glob(self._note("*").name)):
            told = read_note(path).get(str(self.attempt))
            if told and not told["is_consequence"] and path.stat().st_mtime_ns >= self.began_ns:
                yield Cause(**told)

    def _end_with_others(self, over: threading.Event) -> None:
        while self.cause_elsewhere(0) is None:
            if over.wait(LOOK_SECONDS):
                return
        if not over.wait(LEAVE_SECONDS):
            os.kill(os.getpid(), signal.SIGTERM)  # which torchrun passes on

    def _note(self, number: int | str) -> Path:
        return note_of(self.folder, number)


def note_of(folder: Path, number: int | str) -> Path:
    """Where machine `number` tells of the launch of the stage of this folder."""
    return folder.with_name(f".{folder.name}.machine-{number}")


def read_note(path: Path) -> dict[str, Any]:
    """Causes by attempt, None for one that runs; empty where the machine has told nothing."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}


def wait_for_the_end_of_machine_0(address: tuple[str, int], folder: Path, attempt: int) -> None:
    """Before another machine starts again: it must not meet the launch that has failed, whose port is open
    until its processes are gone. That has ended when machine 0 says so, or its port is closed."""
    end = time.monotonic() + END_SECONDS
    while time.monotonic() < end:
        told = read_note(note_of(folder, 0))
        if told.get(str(attempt)) or any(int(other) > attempt for other in told):
            return
        try:
            socket.create_connection(address, timeout=2).close()
        except OSError:
            return
        time.sleep(0.2)


def last_heard(folder: Path) -> str:
    """The processes of other machines, the one that has been silent for longest first."""
    others = [state for state in read_heartbeats(folder) if state["host"] != socket.gethostname()]
    others.sort(key=lambda state: state["time"])
    told = [
        f"rank {state['rank']} on {state['host']} {time.time() - state['time']:.0f} s ago ({state['phase']})"
        for state in others[:4]
    ]
    return f"last heard of: {', '.join(told)}" if told else "no process of another machine has been heard of"
