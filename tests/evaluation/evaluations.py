"""Folders of stage `evaluate`, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.store import write_json
from evaluation.problem_values import METRICS, ProblemValues, Values, write_problem_values

SETTINGS = {"model": "m", "language": "en", "max_tokens": 512}


def evaluation(
    folder: Path,
    accuracy: Sequence[float],
    *,
    ids: Sequence[str] = (),
    benchmark: str = "sums",
    status: str = "finished",
    stage: str = "evaluate",
    settings: dict[str, Any] | None = None,
    **others: Values,
) -> Path:
    """A folder of stage `evaluate` that measured this accuracy (and other metrics) on each problem."""
    names = list(ids) or [f"p{i}" for i in range(len(accuracy))]
    values: dict[str, Values] = {"accuracy": list(accuracy)}
    for metric in METRICS[1:]:
        values[metric] = [0.5] * len(accuracy)
    found = ProblemValues(
        settings={**SETTINGS, **(settings or {})},
        ids={benchmark: names},
        values={benchmark: {**values, **others}},
    )
    write_problem_values(folder, found)
    manifest = {"pipeline": folder.parent.name, "name": folder.name, "stage": stage, "status": status}
    write_json(folder / "manifest.json", manifest)
    return folder
