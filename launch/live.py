"""`slowthink show --live`: what is running, how fast, and what stands still. Reads manifests, heartbeats and
rows of metrics, nothing else; files that are half written or no such thing are passed over."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from data.heartbeat import PHASES, read_heartbeats
from data.metric_log import read_metrics
from data.stall import LOADING_TAKES
from evaluation.report.summary import duration, number, picked
from launch.show import STATUS_STYLES, read_stage, stage_folders, terminal

STILL_SECONDS = 20.0
"""Without a beat a process stands still, or waits for one that does."""
LONG_STILL_SECONDS = 120.0
QUIET_SECONDS = 30.0
"""A pipeline has ended when nothing has run for so long; between two stages nothing does."""
TAIL_BYTES = 1 << 16
"""Of the rows of metrics that are looked at."""
METRICS = {
    "train/loss": "loss",
    "eval/loss": "held-out loss",
    "train/rollouts/reward": "reward",
    "train/rollouts/right": "right",
    "right": "right",
    "perf/tokens_per_second": "tokens/s",
    "perf/generated_tokens_per_second": "generated tokens/s",
    "perf/mfu": "MFU",
    "perf/mfu_generation": "MFU of generation",
    "memory/gpu_gib": "GPU GiB",
    "memory/rss_gib": "RSS GiB",
}
"""Columns of rows that are shown, and how they are called."""


def show_live(folder: Path) -> int:
    """Show what runs in a pipeline's folder, or in a stage's, once a second until it ends or Ctrl-C comes;
    once only where the output is no terminal. Returns the exit code.

    Raises:
        ValueError: the folder holds no run.
    """
    from rich.live import Live

    stage_folders(folder)
    console = terminal()
    if not console.is_terminal:
        console.print(_picture(_stages(folder), time.time()), soft_wrap=True)
        return 0
    patience = QUIET_SECONDS if len(stage_folders(folder)) > 1 else 0.0
    ran = time.monotonic()
    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                stages = _stages(folder)
                live.update(_picture(stages, time.time()), refresh=True)
                if any(stage.runs for stage in stages):
                    ran = time.monotonic()
                elif time.monotonic() - ran >= patience:
                    return 0
                time.sleep(1.0)
    except KeyboardInterrupt:
        return 0


# ------------------------------------------------------------------ what there is


@dataclass(frozen=True, kw_only=True)
class Process:
    """What a process of a stage has told last."""

    rank: int
    host: str
    pid: int
    phase: str
    time: float
    """Of its last beat, by the clock of its host."""
    progress: str = ""
    left: str = ""
    at: str = ""
    """Where it is in the code, if it has stood still for long."""
    waits: bool = False
    """For other processes."""

    @property
    def is_dead(self) -> bool:
        """Whether it is known to be gone: it ran on this machine and does not any more."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            return process.status() == psutil.STATUS_ZOMBIE or process.create_time() > self.time + 1
        except psutil.NoSuchProcess:
            return True

    def stands(self, now: float) -> float:
        """Seconds without a beat, where these are too many."""
        seconds = now - self.time
        return seconds if seconds > STILL_SECONDS * (LOADING_TAKES if self.phase == "load" else 1) else 0.0


def _process(state: dict[str, Any]) -> Process | None:
    """Of a heartbeat's file; None where it is somebody else's."""
    try:
        phase = str(state["phase"])
        return Process(
            rank=state["rank"],
            host=str(state["host"]),
            pid=int(state["pid"]),
            phase=phase,
            time=float(state["time"]),
            progress=_progress(state),
            left=_left(state),
            at=str(state.get("at", "")),
            waits=phase == "sync" or bool(state.get("waits")),
        )
    except (KeyError, TypeError, ValueError):
        return None


def _done(state: dict[str, Any]) -> float:
    return float(state.get("step", state.get("done", 0)))


def _progress(state: dict[str, Any]) -> str:
    if "unit" not in state:
        return ""
    total = f" of {state['total']:,}" if state.get("total") else ""
    return f"{_done(state):,.0f}{total} {state['unit']}s"


def _left(state: dict[str, Any]) -> str:
    """Speed since this piece of work began, and the time that the rest takes at that speed."""
    since = state.get("since")
    done = _done(state) - float(state.get("since_done", 0))
    if since is None or done <= 0 or state["time"] <= since:
        return ""
    rate = done / (state["time"] - since)
    speed = f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
    rest = (state.get("total") or 0) - _done(state)
    return f"{speed}, {duration(rest / rate)} left" if rest > 0 else speed


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage's folder as it is now."""

    name: str
    manifest: dict[str, Any]
    metrics: dict[str, Any]
    processes: Sequence[Process] = ()
    world: int = 1
    rows: Sequence[dict[str, Any]] = ()

    @property
    def status(self) -> str:
        """As its manifest says; a running one whose processes are all gone is dead."""
        told = str(self.manifest["status"])
        gone = self.processes and all(process.is_dead for process in self.processes)
        return "dead" if told == "running" and gone else told

    @property
    def runs(self) -> bool:
        return self.status == "running"


def _stages(folder: Path) -> list[Stage]:
    return [_stage(path) for path in stage_folders(folder)]


def _stage(path: Path) -> Stage:
    manifest, metrics = read_stage(path)
    if manifest["status"] != "running":
        return Stage(name=path.name, manifest=manifest, metrics=metrics)
    states = read_heartbeats(path)
    worlds = [state["world"] for state in states if isinstance(state.get("world"), int)]
    return Stage(
        name=path.name,
        manifest=manifest,
        metrics=metrics,
        processes=[process for state in states if (process := _process(state)) is not None],
        world=max(worlds, default=1),
        rows=read_metrics(path, last_bytes=TAIL_BYTES),
    )


# ------------------------------------------------------------------ how it looks


def picture_of(running: Mapping[str, tuple[Path, float]]) -> Any:
    """A picture, now, of stages that have been started: by what they are called, their folders and the times
    of their starts. Until a stage has loaded, its folder is not there or tells of an earlier time."""
    stages = []
    for title, (folder, began) in running.items():
        try:
            loads = (folder / "manifest.json").stat().st_mtime < began
        except FileNotFoundError:  # not yet, or moved aside just now
            loads = True
        found = Stage(name=title, manifest={"status": "starts"}, metrics={}) if loads else _stage(folder)
        stages.append(dataclasses.replace(found, name=title))
    return _picture(stages, time.time())


def _picture(stages: Sequence[Stage], now: float) -> Any:
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    for stage in stages:
        line = Text(f"{stage.name}  ", style="bold" if stage.runs else "")
        line.append(stage.status, style=STATUS_STYLES.get(stage.status, "red"))
        line.append("  " + "  ".join(_facts(stage)))
        parts.append(line)
        if stage.processes:
            parts += [_table(stage, now), *map(Text, _numbers(stage.rows))]
    return Group(*parts)


def _facts(stage: Stage) -> Iterator[str]:
    manifest = stage.manifest
    if isinstance(seconds := manifest.get("seconds"), int | float):
        yield duration(seconds)
    if manifest.get("error") not in (None, stage.status):
        yield str(manifest["error"]).split("\n")[0]
    if stage.status == "dead":
        yield "its processes are gone; started again, the stage goes on"
    counts, numbers = picked(stage.metrics)
    yield ", ".join([*counts, *numbers])


def _table(stage: Stage, now: float) -> Any:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), show_header=False)
    guilty = [p.rank for p in stage.processes if not p.is_dead and not p.waits and p.stands(now)]
    told = {process.rank: process for process in stage.processes}
    for rank in range(max(stage.world, *(rank + 1 for rank in told))):
        process = told.get(rank)
        if process is None:
            table.add_row(f"rank {rank}", "", "", "", "", "tells nothing: not begun, or done")
            continue
        place, beat = f"{process.host}:{process.pid}", _beat(process, guilty, now)
        table.add_row(f"rank {rank}", place, process.phase, process.progress, process.left, beat)
    return table


def _beat(process: Process, guilty: Sequence[int], now: float) -> Any:
    """When it went on last, and why it does not now."""
    from rich.text import Text

    stands = process.stands(now)
    if process.is_dead:
        return Text("dead: no such process", "red")
    if not stands:
        return Text(f"beat {duration(max(0.0, now - process.time))} ago")
    if process.waits and guilty:
        return Text(f"waits for rank {', '.join(map(str, guilty))} ({duration(stands)})")
    what = "waits, and nobody goes on" if process.waits else "stands still"
    style = "red" if stands > LONG_STILL_SECONDS else "yellow"
    return Text(f"{what} for {duration(stands)}" + (f", at {process.at}" if process.at else ""), style)


def _numbers(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The last values of what matters, and shares of time by phase over these rows."""
    last: dict[str, Any] = {}
    for row in rows:
        last |= {METRICS[key]: value for key, value in row.items() if key in METRICS}
    if last:
        names = [name for name in dict.fromkeys(METRICS.values()) if name in last]
        yield "  " + "  ".join(f"{name} {number(last[name])}" for name in names)
    seconds = {phase: sum(_seconds(row.get(f"time/{phase}")) for row in rows) for phase in PHASES}
    total = sum(seconds.values())
    if total:
        shares = (f"{phase} {value / total:.0%}" for phase, value in seconds.items() if value >= total / 200)
        yield f"  last {duration(total)}: {'  '.join(shares)}"


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
