"""The numbers of a stage as tables, whatever metrics.json holds: an interval in one cell, what is nested as a
table of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from data.figures import finite
from evaluation.report.markup import line, table
from evaluation.report.summary import number

MOST_ROWS, MOST_COLUMNS, MOST_TABLES, DEEPEST = 40, 12, 12, 4
_MIDDLES = ("mean", "value", "auc")
_FEW_COLUMNS = 4


def plain_numbers(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values that stand alone, as HTML."""
    shown = [(words(key), cell(value)) for key, value in metrics.items()]
    return [(key, value) for key, value in shown if value is not None][:MOST_ROWS]


def tables(metrics: Mapping[str, Any]) -> str:
    """What is nested, table after table."""
    nested = {key: value for key, value in metrics.items() if cell(value) is None}
    found = list(islice(_tables((), nested), MOST_TABLES + 1))
    note = "<p class='quiet'>more is in metrics.json</p>" if len(found) > MOST_TABLES else ""
    return "".join(found[:MOST_TABLES]) + note


def words(name: object) -> str:
    """The name of a number, as HTML; paths stay as they are."""
    text = str(name)
    return line(text if "/" in text else text.replace("_", " "), 80)


def cell(value: Any) -> str | None:
    """A value that has room in a cell, as HTML; None where it has not."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, str):
        return line(value, 120) if value else "-"
    if isinstance(value, Mapping):
        return interval(value)
    if isinstance(value, list):
        short = len(value) <= 6 and all(finite(item) is not None for item in value)
        return ", ".join(line(number(item), 24) for item in value) if short and value else None
    return line(number(value), 24)


def interval(value: Mapping[str, Any]) -> str | None:
    """A value with its 95 % interval; None where it is no such thing."""
    middle = next((value[name] for name in _MIDDLES if name in value), None)
    low, high = value.get("low"), value.get("high")
    if any(finite(part) is None for part in (middle, low, high)):
        return None
    middle, low, high = (line(number(part), 24) for part in (middle, low, high))
    return f"{middle} <span class='quiet'>[{low}, {high}]</span>"


def _tables(path: tuple[str, ...], value: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    """The table of what is here, then those of what is nested in it."""
    rows = dict(value) if isinstance(value, Mapping) else {str(i): row for i, row in enumerate(value)}
    nested = {key: row for key, row in rows.items() if isinstance(row, Mapping) and cell(row) is None}
    plain = {key: cell(row) for key, row in rows.items() if cell(row) is not None}
    if path and plain:
        yield _table(path, [(words(key), text) for key, text in plain.items() if text is not None])
    if path and nested:
        yield from _matrix(path, nested, named=isinstance(value, Mapping))
    for key, row in rows.items():
        if cell(row) is None and isinstance(row, Mapping | list) and len(path) < DEEPEST:
            yield from _inner(path, key, row)


def _inner(path: tuple[str, ...], key: str, row: Mapping[str, Any] | list[Any]) -> Iterator[str]:
    """What is nested in a row of a table: all that its own line could not show."""
    if not path or isinstance(row, list):
        yield from _tables((*path, key), row)
        return
    name = next((text for text in row.values() if isinstance(text, str)), key) if key.isdigit() else key
    for inner_key, inner in row.items():
        if cell(inner) is None and isinstance(inner, Mapping | list):
            yield from _tables((*path, name, str(inner_key)), inner)


def _matrix(path: tuple[str, ...], rows: Mapping[str, Mapping[str, Any]], named: bool) -> Iterator[str]:
    """Rows that have names with values themselves; few rows with many values are turned."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row if cell(row[key]) is not None))
    if not columns:
        return
    if named and len(rows) <= _FEW_COLUMNS < len(columns):
        body = [(words(key), *(cell(row.get(key)) or "" for row in rows.values())) for key in columns]
        yield _table(path, body, ["", *map(words, rows)])
        return
    columns = columns[:MOST_COLUMNS]
    body = [
        (*([words(name)] if named else []), *(cell(row[key]) or "" if key in row else "" for key in columns))
        for name, row in rows.items()
    ]
    yield _table(path, body, [*([""] if named else []), *map(words, columns)])


def _table(path: tuple[str, ...], body: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    title = " / ".join(words(part) for part in path)
    left_out = len(body) - MOST_ROWS
    note = f"<p class='quiet'>{left_out:,} more rows in metrics.json</p>" if left_out > 0 else ""
    return f"<h4>{title}</h4>{table(body[:MOST_ROWS], head)}{note}"
