"""The effects of a run as tables, on the screen and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.sheets import Sheet

NOTE = "In % or tokens, with 95 % intervals of the paired differences: bootstrap over problems."
"""Of effects.md."""


def sheet(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    """The table of effects.md."""
    cells = [
        (
            row["claim"],
            row["source"],
            *(f"{row[side]['mean']:.1f} ({row[side]['label']})" for side in ("better", "than")),
            f"{interval(row['difference'])} {row['unit']}",
            row["verdict"] + (f" ({row['note']})" if row["note"] else ""),
        )
        for row in rows
    ]
    return Sheet(
        title="Effects",
        columns=("claim", "source", "better", "than", "difference", "verdict"),
        rows=cells,
        note="Shown: the interval of the paired difference lies wholly on the claimed side. Opposite: wholly "
        "on the other side.",
    )


def interval(found: Mapping[str, float]) -> str:
    """Mean, low and high of a difference in points or tokens."""
    mean, low, high = (round(found[key], 1) + 0.0 for key in ("mean", "low", "high"))
    return f"{mean:+.1f} [{low:.1f}, {high:.1f}]"


_COLOURS = {"shown": "green", "not shown": "yellow", "opposite": "red"}


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print what fits on a screen: claims, values, differences and verdicts."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="Effects (% or tokens; 95 % intervals over problems)", box=SIMPLE_HEAD)
    table.add_column("claim", overflow="fold")
    for column in ("better", "than", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for row in rows:
        means = [f"{row[side]['mean']:.1f}" for side in ("better", "than")]
        shown = f"[{_COLOURS[row['verdict']]}]{row['verdict']}[/]"
        note = f" ({row['note']})" if row["note"] else ""
        table.add_row(escape(row["claim"] + note), *means, escape(interval(row["difference"])), shown)
    Console().print(table)
