"""The progress bar of a stage."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from tqdm import tqdm

from data.heartbeat import beat, own_memory, read_heartbeats, stage_folder, take_phase_seconds
from data.metric_log import memory_row, mend, phase_row, write_row
from data.processes import worker
from data.reporting import report

SECONDS_BETWEEN_ROWS = 5.0


class Progress(tqdm):
    """A progress bar that beats, and writes a row of metrics every few seconds and at its end.

    The first process writes them, with the sums of what all processes have told last. Options are those of
    tqdm.
    """

    disable = True  # until tqdm has decided: an interrupt before that would be told by its `__del__`

    def __init__(self, iterable: Iterable[Any] | None = None, **options: Any) -> None:
        super().__init__(iterable, smoothing=0.05, **options)
        self.tokens = 0
        self.values: dict[str, float] = {}
        self._others: dict[int, Mapping[str, Any]] = {}
        """What each other process has told last; one that is done tells nothing any more."""
        self._told_tokens = 0
        self._told = time.monotonic()
        if not self.disable:
            beat(done=self.n, total=self.total, unit=self.unit, tokens=0)
        if (folder := stage_folder()) is not None and worker() == 0:
            mend(folder)

    def update(self, n: float | None = 1, *, tokens: int = 0, **values: float) -> bool | None:
        """So many more are done.

        Args:
            tokens: that were generated for them, or read by a scorer.
            values: further columns of the rows.
        """
        shown = super().update(n)
        self.tokens += tokens
        self.values.update(values)
        beat(done=self.n, total=self.total, tokens=self.tokens)
        if time.monotonic() - self._told >= SECONDS_BETWEEN_ROWS:
            self._tell()
        return shown

    def close(self) -> None:
        if not self.disable:
            self._tell()
        super().close()

    def _tell(self) -> None:
        folder = stage_folder()
        if folder is not None and worker() == 0:
            self._others |= {state["rank"]: state for state in read_heartbeats(folder) if state["rank"] > 0}
            row = self._row()
            write_row(folder, row)
            report(folder, row)

    def _row(self) -> dict[str, Any]:
        """A row since the last one. Phases are those of this process."""
        now = time.monotonic()
        seconds, self._told = now - self._told, now
        own = {"done": self.n, "total": self.total, "tokens": self.tokens, **own_memory()}
        told = [own, *self._others.values()]
        done, total, tokens = (sum(of.get(key) or 0 for of in told) for key in ("done", "total", "tokens"))
        new, self._told_tokens = tokens - self._told_tokens, tokens
        speed = {"perf/tokens": new, "perf/tokens_per_second": new / seconds} if tokens else {}
        return {
            "unit": self.unit,
            "done": done,
            "total": total,
            **self.values,
            **speed,
            **phase_row(take_phase_seconds()),
            **memory_row(told),
        }
