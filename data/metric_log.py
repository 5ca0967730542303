"""Numbers of a stage while it runs: rows of `<stage folder>/metrics.jsonl`, with the same names in all stages
(docs/observability.md).

Rows are appended as the stage goes on, by its first process. A kill may cut the last line: readers skip what
is no row.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.heartbeat import MEMORY, Phase
from data.store import atomic_path

FILE = "metrics.jsonl"


def read_metrics(folder: Path, last_bytes: int | None = None) -> list[dict[str, Any]]:
    """The rows of a stage folder; none where it has no file.

    Args:
        last_bytes: only rows that are within so many bytes from the end.
    """
    try:
        with open(folder / FILE, "rb") as file:
            if last_bytes is not None:
                file.seek(max(0, file.seek(0, os.SEEK_END) - last_bytes))
            content = file.read()
    except FileNotFoundError:
        return []
    return [row for line in content.split(b"\n") if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # cut by a kill, or the part of one
        return None
    return row if isinstance(row, dict) else None


def write_row(folder: Path, row: Mapping[str, Any]) -> None:
    """Append a row; its time is added where it has none. What is no finite number is null, as in JSON."""
    kept = {key: _json_value(value) for key, value in row.items()}
    line = json.dumps({"time": round(time.time(), 3), **kept})
    with open(folder / FILE, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def _json_value(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str) else None


def mend(folder: Path, last_step: int | None = None) -> None:
    """Before a stage goes on: take out what a kill has cut, and rows of steps that will be done again.

    Args:
        last_step: the one behind which a training goes on.
    """
    path = folder / FILE
    rows = read_metrics(folder)
    kept = [row for row in rows if last_step is None or row.get("step", 0) <= last_step]
    text = "".join(json.dumps(row) + "\n" for row in kept).encode()
    if path.is_file() and path.read_bytes() != text:
        with atomic_path(path) as temporary:
            temporary.write_bytes(text)


def phase_row(seconds: Mapping[Phase, float]) -> dict[str, float]:
    """Seconds of each phase as a row has them; their sum is the time since the last row."""
    return {f"time/{phase}": round(value, 6) for phase, value in seconds.items()}


def memory_row(processes: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The most memory that one of several processes has, by what `heartbeat.own_memory` says of each."""
    found: dict[str, float] = {}
    for process in processes:
        for key in MEMORY:
            if key in process:
                found[f"memory/{key}"] = round(max(process[key], found.get(f"memory/{key}", 0.0)), 3)
    return found
