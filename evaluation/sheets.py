"""Tables of text, for the screen and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table of text."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def markdown(title: str, note: str, tables: Sequence[Sheet]) -> str:
    """The tables as a page; `note` is of all of them."""
    lines = [f"# {title}", "", note]
    for table in tables:
        sides = ["---", *["---:"] * (len(table.columns) - 1)]
        lines += ["", f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        lines += map(line, (table.columns, sides, *table.rows))
    return "\n".join(lines) + "\n"


def line(cells: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def rich_table(table: Sheet) -> Table:
    """The table for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    made = Table(title=escape(table.title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for number, column in enumerate(table.columns):
        made.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        made.add_row(*map(escape, row))
    return made
