"""What an offline run of wandb holds."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def wandb_history(folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Run and rows of an offline run, once wandb's own process has written its end."""
    [path] = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 60
    while not (records := list(_records(path.read_bytes()))) or not records[-1].HasField("exit"):
        assert time.monotonic() < deadline, f"{path} has no end"
        time.sleep(0.1)
    run = [record.run for record in records if record.HasField("run")][-1]
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    return run, rows


def _records(content: bytes) -> Iterator[Any]:
    """They are in blocks of 32 KiB, as in LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    place, part = 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        part += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4) and place <= len(content):  # whole, or the last part
            record: Any = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
            record.ParseFromString(part)
            part = b""
            yield record
