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
    """While entered, SIGUSR1 and the first SIGTERM to this process ask those that it has started to save and
    stop; a second SIGTERM ends them at once, their last checkpoints and their journals remain.

    Args:
        count_interrupts: Ctrl-C is a request too, and raises nothing: the terminal has sent it to all.
    """

    def __init__(self, *, count_interrupts: bool = False) -> None:
        self.made = False
        self.interrupts = 0
        self.processes: list[subprocess.Popen] = []
        self._numbers = [signal.SIGUSR1, signal.SIGTERM, *([signal.SIGINT] if count_interrupts else [])]
        self._before: dict[int, Any] = {}
        self._terminated = False

    def __enter__(self) -> StopRequests:
        self._before = {number: signal.signal(number, self._pass_on) for number in self._numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, command: Sequence[str], environment: Mapping[str, str], **to: Any) -> subprocess.Popen:
        """`to` are further options of Popen; any thread may start some."""
        process = subprocess.Popen(command, env=environment, **to)
        self.processes.append(process)
        if self.made:  # meanwhile
            process.send_signal(signal.SIGUSR1)
        return process

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self.made = True
        if number == signal.SIGINT:
            self.interrupts += 1
            return
        at_once = number == signal.SIGTERM and self._terminated
        self._terminated = self._terminated or number == signal.SIGTERM
        for process in self.processes:
            process.send_signal(signal.SIGTERM if at_once else signal.SIGUSR1)


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
