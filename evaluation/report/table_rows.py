"""A few rows of large tables: what is not shown is not read, but for the columns by which rows are chosen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_ROWS_AT_ONCE = 256


def open_table(path: Path, columns: Mapping[str, str]) -> pq.ParquetFile:
    """A table of which these columns can be read.

    Args:
        columns: "string", "integer", "number", "bool" or "list" by name.
    Raises:
        ValueError: it is not there, not readable, or has a column not, or otherwise.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path.name} is not readable as parquet ({error})") from error
    check_columns(path.name, file, columns)
    return file


def check_columns(where: str, file: pq.ParquetFile, columns: Mapping[str, str]) -> None:
    """Whether a table has these columns (see `open_table`).

    Raises:
        ValueError: it has one not, or otherwise.
    """
    for name, kind in columns.items():
        if name not in file.schema_arrow.names:
            raise ValueError(f"{where}: column {name!r} is missing")
        found = file.schema_arrow.field(name).type
        if not _is(found, kind):
            raise ValueError(f"{where}: column {name!r} holds {found}, not {kind}")


def _is(found: pa.DataType, kind: str) -> bool:
    from pyarrow import types

    tests = {
        "string": types.is_string(found) or types.is_large_string(found),
        "integer": types.is_integer(found),
        "number": types.is_integer(found) or types.is_floating(found),
        "bool": types.is_boolean(found),
        "list": types.is_list(found) or types.is_large_list(found),
    }
    return tests[kind]


def columns_of(file: pq.ParquetFile, names: Sequence[str], rows: int) -> Iterator[tuple[Any, ...]]:
    """These columns of the first rows, row after row.

    Raises:
        ValueError: a page is damaged, or holds null.
    """
    left = rows
    for batch in _batches(file, names, rows_at_once=4096):
        for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
            if left <= 0:
                return
            if None in values:
                raise ValueError(f"a row has no {names[values.index(None)]}")
            left -= 1
            yield values


def rows_at(
    file: pq.ParquetFile, places: Sequence[int], names: Sequence[str], nulls: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The rows with these numbers, which ascend; the table is read as far as the last of them.

    Args:
        nulls: columns that may hold null.
    Raises:
        ValueError: a page is damaged, or another column holds null.
    """
    found: list[dict[str, Any]] = []
    groups, first = [], 0
    for group in range(file.num_row_groups):
        behind = first + file.metadata.row_group(group).num_rows
        if any(first <= place < behind for place in places):
            groups.append((group, first))
        first = behind
    for group, start in groups:
        for batch in _batches(file, names, [group]):
            inside = [place - start for place in places if start <= place < start + batch.num_rows]
            found += [batch.slice(place, 1).to_pylist()[0] for place in inside]
            start += batch.num_rows
            if len(found) == len(places):
                break
    for row in found:
        if missing := [name for name in row if row[name] is None and name not in nulls]:
            raise ValueError(f"a row has no {missing[0]}")
    return found


def _batches(
    file: pq.ParquetFile,
    names: Sequence[str],
    groups: Sequence[int] | None = None,
    rows_at_once: int = _ROWS_AT_ONCE,
) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    try:
        yield from file.iter_batches(rows_at_once, row_groups=groups, columns=list(names))
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"a part is not readable ({error})") from error
