"""Tables and small files that are either whole or absent.

Everything is written to a temporary file beside its place, flushed to disk and renamed; a reader never sees
half of it. The one exception is `Journal`, which is appended to row by row and survives a torn last line.
Tables and journals carry checksums, so that bytes which a disk has changed are not read as other rows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import IO, Any

from data.schema import (
    Attempt,
    Problem,
    Rejected,
    attempt_from_row,
    attempt_row,
    problem_from_row,
    problem_row,
    table_features,
)

logger = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` when the block ends well and vanishes when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: the file is not JSON; names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and run its stage again") from error


ROWS_PER_GROUP = 20_000
"""Rows that are in memory as dictionaries at one time while a table is read or written."""


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], table: str) -> None:
    """Write rows as parquet with the declared columns of `table`, atomically.

    Raises:
        ValueError: a row does not fit the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = table_features(table).arrow_schema
    cleaned = (clean_text(row) for row in rows)
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, write_page_checksum=True) as writer,
    ):
        while group := list(islice(cleaned, ROWS_PER_GROUP)):
            try:
                arrow = pa.Table.from_pylist(group, schema=schema)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(f"{path}: a row does not fit the columns of {table}: {error}") from error
            writer.write_table(arrow)


def clean_text(row: Mapping[str, Any]) -> dict[str, Any]:
    """Replace lone surrogates, which no file can hold, by "?"."""
    return {
        key: value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
        for key, value in row.items()
    }


def read_rows(path: Path, table: str) -> list[dict[str, Any]]:
    """All rows of `iterate_rows`."""
    return list(iterate_rows(path, table))


def iterate_rows(path: Path, table: str) -> Iterator[dict[str, Any]]:
    """The rows of a table written by `write_rows`, a group of them in memory at a time.

    Raises:
        ValueError: missing file, corrupt parquet, or a column is missing; names file and column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ValueError(f"{path} does not exist; it is written by the stage that makes {table}")
    try:
        arrow = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not readable as parquet ({error}); make it again") from error
    for column in table_features(table):
        if column not in arrow.column_names:
            raise ValueError(f"{path}: column {column!r} is missing; a {table} table needs it")
    for group in arrow.to_batches(max_chunksize=ROWS_PER_GROUP):
        yield from group.to_pylist()


def table_path(folder: Path | str, table: str) -> Path:
    """Where a stage folder keeps a table; a path to a parquet file stands for itself."""
    path = Path(folder)
    return path if path.suffix == ".parquet" else path / f"{table}.parquet"


def write_problems(folder: Path, problems: Iterable[Problem]) -> None:
    """Write the problems table of a stage folder."""
    write_rows(table_path(folder, "problems"), (problem_row(p) for p in problems), "problems")


def read_problems(folder: Path | str) -> list[Problem]:
    """Read the problems table of a stage folder (or one parquet file)."""
    return [problem_from_row(row) for row in iterate_rows(table_path(folder, "problems"), "problems")]


def write_attempts(folder: Path, attempts: Iterable[Attempt], table: str = "attempts") -> None:
    """Write the attempts (or traces) table of a stage folder."""
    write_rows(table_path(folder, table), (attempt_row(a) for a in attempts), table)


def read_attempts(folder: Path | str, table: str = "attempts") -> list[Attempt]:
    """Read the attempts (or traces) table of a stage folder (or one parquet file)."""
    return [attempt_from_row(row) for row in iterate_rows(table_path(folder, table), table)]


def write_rejected(folder: Path, rows: Iterable[Rejected]) -> None:
    """Write `rejected/rows.parquet` of a stage folder, also when it is empty."""
    write_rows(folder / "rejected" / "rows.parquet", (asdict(r) for r in rows), "rejected")


class Journal:
    """Rows that must survive a kill at any moment: one JSON object a line with the checksum of its text,
    flushed to disk at each append.

    A last line that a kill cut short is dropped at the next opening, and any line that is not what was
    written is passed over with a warning; whoever asks for rows makes those anew that are not there.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.rows = self._recover()
        self._file: IO[str] = open(path, "a", encoding="utf-8")  # noqa: SIM115 - see close()

    def _recover(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        rows, size = _whole_lines(self.path)
        if size < self.path.stat().st_size:
            logger.warning("%s: dropped a half-written last row", self.path)
            os.truncate(self.path, size)
        if rows and _CHECKSUM.encode() not in self.path.read_bytes():
            with atomic_path(self.path) as temporary:  # of an older version: all lines are of one kind
                temporary.write_text("".join(map(_line, rows)), encoding="utf-8")
        return rows

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; when this returns they are on disk."""
        text = "".join(_line(clean_text(row)) for row in rows)
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def journal_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a journal, which another process may be writing."""
    return _whole_lines(path)[0]


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    read = _checked if _CHECKSUM.encode() in whole else _parsed  # older versions wrote no checksums
    rows = [read(line) for line in whole.splitlines()]
    if bad := [number for number, row in enumerate(rows, 1) if row is None]:
        logger.warning("%s: %d lines are damaged, the first is line %d; passed over", path, len(bad), bad[0])
    return [row for row in rows if row is not None], len(whole)


_CHECKSUM = ', "crc32": '


def _line(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=True)
    return f"{text[:-1]}{_CHECKSUM}{zlib.crc32(text.encode())}}}\n"


def _checked(line: bytes) -> dict[str, Any] | None:
    """The row of a line; None where the line is not what was written."""
    text, _, checksum = line.rpartition(_CHECKSUM.encode())
    return _parsed(text + b"}") if checksum == b"%d}" % zlib.crc32(text + b"}") else None


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None


_SAMPLED_BYTES = 1 << 20


def fingerprint(path: Path) -> str:
    """Hash of a file or folder.

    Files up to 64 MiB count with every byte; larger ones (model weights) with their size, first and last MiB.
    Hidden files and what a run adds beside its result (logs, checkpoints) do not count.
    """
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else result_files(path):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path) if file != path else ''}:{size}\n".encode())
        with open(file, "rb") as stream:
            if size <= 64 * _SAMPLED_BYTES:
                digest.update(stream.read())
            else:
                digest.update(stream.read(_SAMPLED_BYTES))
                stream.seek(-_SAMPLED_BYTES, os.SEEK_END)
                digest.update(stream.read())
    return digest.hexdigest()[:32]


_NOT_RESULT = (
    "checkpoint-",
    "wandb",
    "events.out.tfevents",
    "log.txt",
    "manifest.json",
    "metrics.json",
    "rejected",
    "rollouts",
    "stalls",
    "trainer_state",
)


def result_files(folder: Path) -> list[Path]:
    """The files of a folder that its fingerprint covers, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and _counts(path, folder))


def _counts(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    return not any(part.startswith((".", *_NOT_RESULT)) for part in parts)
