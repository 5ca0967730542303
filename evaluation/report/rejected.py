"""Rows that a stage rejected: how many by which rule, and the first one of each with its evidence."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from evaluation.report.markup import line, table
from evaluation.report.table_rows import columns_of, open_table, rows_at

MOST_RULES = 12
MOST_ROWS = 2_000_000
"""That are counted; of a larger table the first ones are."""
_COLUMNS = {"rule": "string", "id": "string", "evidence": "string"}


def rejected_rows(folder: Path) -> str:
    """A table by rule, empty where nothing was rejected or nothing is known of it.

    Raises:
        ValueError: the table is there and not what it should be.
    """
    path = folder / "rejected" / "rows.parquet"
    if not path.is_file():
        return ""
    file = open_table(path, _COLUMNS)
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    for place, (rule,) in enumerate(columns_of(file, ["rule"], rows=MOST_ROWS)):
        counts[rule] += 1
        first.setdefault(rule, place)
    if not counts:
        return ""
    rules = [rule for rule, _ in counts.most_common(MOST_RULES)]
    examples = {row["rule"]: row for row in rows_at(file, sorted(first[rule] for rule in rules), [*_COLUMNS])}
    rows = [
        (
            line(rule, 80),
            f"{counts[rule]:,}",
            line(examples[rule]["evidence"], 160),
            f"<code>{line(examples[rule]['id'], 40)}</code>",
        )
        for rule in rules
    ]
    more = f" by {len(counts):,} rules" if len(counts) > MOST_RULES else ""
    title = f"<h4>rejected: {counts.total():,} rows{more}</h4>"
    return title + table(rows, ["rule", "rows", "evidence of the first", "its id"], kind="texts")
