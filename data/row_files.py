"""Rows of a local file or of a hub dataset, with errors that name file, line and the fix."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

FILE_TYPES = (".jsonl", ".json", ".parquet")


def read_file(path: Path, key: str) -> list[Any]:
    """Rows of a .jsonl, .json (a list) or .parquet file.

    Raises:
        ValueError: missing, of another type, or unreadable; names file and line.
    """
    if not path.is_file():
        raise ValueError(f"{key}.path: {path} does not exist")
    if path.suffix not in FILE_TYPES:
        raise ValueError(f"{key}.path: {path} is not one of {', '.join(FILE_TYPES)}")
    if path.suffix == ".parquet":
        return _read_parquet(path, key)
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if path.suffix == ".json":
        rows = _read_json(content, path, 1, key)
        if not isinstance(rows, list):
            raise ValueError(f"{key}: {path} holds a {type(rows).__name__}, not a list of rows")
        return rows
    lines = enumerate(content.split(b"\n"), 1)
    return [_read_json(line, path, number, key) for number, line in lines if line.strip()]


def _read_json(content: bytes, path: Path, line: int, key: str) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{key}: {path} line {line + error.lineno - 1} is not valid JSON: {error.msg}"
        ) from error
    except UnicodeDecodeError as error:
        line += content[: error.start].count(b"\n")
        raise ValueError(f"{key}: {path} line {line} is not valid UTF-8: {error.reason}") from error


def _read_parquet(path: Path, key: str) -> list[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{key}: {path} is not readable as parquet ({error}); fetch it again") from error


def read_hub(id: str, config: str, split: str, revision: str, key: str, file: str = "") -> list[Any]:
    """Rows of a hub dataset; `file` is where a local copy would be found, for messages.

    Raises:
        ValueError: the hub cannot be reached, or it has no such dataset, config, split or revision.
    """
    from datasets import load_dataset

    try:
        dataset = load_dataset(id, config or None, split=split, revision=revision or None)
    except ConnectionError as error:
        local = f"put {file} under the folder that $SLOWTHINK_DATA names or " if file else ""
        raise ValueError(
            f"{key}: the hub cannot be reached for {id} ({error}); {local}give a local file with `path:`"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{key}: hub dataset {id}, split {split!r}: {error}") from error
    return list(dataset)


def take(rows: list[Any], limit: int, seed: int | None) -> list[Any]:
    """`limit` rows in their order: the first ones, or drawn by a seed."""
    if seed is None:
        return rows[:limit]
    return [rows[i] for i in sorted(random.Random(f"limit {seed}").sample(range(len(rows)), limit))]
