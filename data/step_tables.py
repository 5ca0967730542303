"""Tables of labelled solutions: ours (step_labels), and the format that TRL trains on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.steps import LabelledSolution, labelled_from_row, labelled_row, stepwise_row
from data.store import atomic_path, iterate_rows, table_path, write_rows

TABLE = "step_labels"
HELD_OUT = "held_out"
"""Split of a stage folder, and name of its file: what stage `collect_steps` keeps apart."""


def read_labelled(folder: Path | str, split: str = TABLE) -> list[LabelledSolution]:
    """Labelled solutions of a stage folder (or one parquet file); split held_out: those kept apart."""
    return [labelled_from_row(row) for row in iterate_rows(table_path(folder, split), TABLE)]


def write_labelled(folder: Path, solutions: Iterable[LabelledSolution], split: str = TABLE) -> None:
    """Write the step_labels table of a stage folder, or what is held out of it."""
    write_rows(table_path(folder, split), (labelled_row(solution) for solution in solutions), TABLE)


def write_stepwise(path: Path, solutions: Iterable[LabelledSolution]) -> int:
    """Write TRL's stepwise supervision format, .jsonl or .parquet, and return the number of rows.

    Solutions whose first step has no label have no row: see `data.steps.stepwise_row`.

    Raises:
        ValueError: another kind of file.
    """
    rows = [row for row in map(stepwise_row, solutions) if row["labels"]]
    with atomic_path(path) as temporary:
        if path.suffix == ".jsonl":
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            temporary.write_text("".join(lines), encoding="utf-8")
        elif path.suffix == ".parquet":
            _write_parquet(temporary, rows)
        else:
            raise ValueError(f"{path}: TRL's stepwise format is written as .jsonl or .parquet")
    return len(rows)


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [("prompt", pa.string()), ("completions", pa.list_(pa.string()))]
    schema = pa.schema([*columns, ("labels", pa.list_(pa.bool_()))])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
