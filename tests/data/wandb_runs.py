"""What an offline run of wandb holds."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any


def wandb_history(folder: Path) -> tuple[Any, list[dict[str, Any]]]:
    """Run and rows of an offline run of wandb: records in blocks of 32 KiB, as in LevelDB's log."""
    from wandb.proto import wandb_internal_pb2

    [path] = folder.glob("wandb/offline-run-*/run-*.wandb")
    content, place, part = path.read_bytes(), 7, b""
    run, rows = None, []
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        part += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind not in (1, 4):  # whole, or the last part
            continue
        record: Any = wandb_internal_pb2.Record()  # pyright: ignore[reportAttributeAccessIssue]
        record.ParseFromString(part)
        part = b""
        if record.HasField("run"):
            run = record.run
        if record.HasField("history"):
            items = record.history.item
            rows.append(
                {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
            )
    return run, rows
