"""SIGUSR1 asks a stage to save its work and stop; whoever has started it passes it on.

`slowthink` -> launch.accelerated -> the processes of the stage. torchrun would pass on SIGTERM, and kill what
has not ended 30 seconds later; SIGUSR1 it does not touch.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from data.stage import EXIT_PREEMPTED


class StopRequests:
    """While entered, SIGUSR1 and the first SIGTERM to this process ask the one that it has started to save
    and stop; a second SIGTERM ends that at once, its last checkpoint and its journals remain."""

    def __init__(self) -> None:
        self.made = False
        self._process: subprocess.Popen | None = None
        self._before: dict[int, Any] = {}
        self._terminated = False

    def __enter__(self) -> StopRequests:
        self._before = {n: signal.signal(n, self._pass_on) for n in (signal.SIGUSR1, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen:
        self._process = subprocess.Popen(command, env=environment)
        if self.made:  # meanwhile
            self._process.send_signal(signal.SIGUSR1)
        return self._process

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        at_once = number == signal.SIGTERM and self._terminated
        self.made, self._terminated = True, self._terminated or number == signal.SIGTERM
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM if at_once else signal.SIGUSR1)


def pass_on_to_children() -> None:
    """From now on SIGUSR1 goes to the children of this process; without any, it ends."""
    import psutil

    def pass_on(number: int, frame: FrameType | None) -> None:
        children = psutil.Process().children()
        if not children:
            sys.exit(EXIT_PREEMPTED)
        for child in children:
            try:
                child.send_signal(number)
            except psutil.NoSuchProcess:  # it has ended just now
                continue

    signal.signal(signal.SIGUSR1, pass_on)
