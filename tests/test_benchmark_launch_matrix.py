"""The matrix of launchers: its work is what the stages read, and its differences are seen."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from benchmarks.launch_matrix import (
    BATCH,
    MEASURES,
    ROWS,
    STAGES,
    STEPS,
    Cell,
    difference,
    make_work,
    measure,
)
from data.recipe import check_recipe, load_recipe
from data.store import read_attempts, read_problems, read_rows, write_json
from launch.stages import find_stage
from training.checkpoints import MARKER

LINE = f"going on from checkpoint-{STEPS // 2}"


def test_differences() -> None:
    one = [[2.0, 100.0], [1.0, 50.0]]
    assert difference(one, one) == 0
    assert difference(one, [[2.0, 101.0], [1.0, 50.0]]) == 0.01
    assert difference(one, [[2.0, 100.0]]) == difference([], []) == float("inf")


def test_the_work_has_rows_for_all_steps_and_the_recipes_are_whole(tmp_path: Path) -> None:
    make_work(tmp_path)
    data = tmp_path / "data"
    assert len(read_problems(data)) == len(read_attempts(data, "traces")) == ROWS == BATCH * STEPS
    assert len(read_attempts(data)) == 2 * ROWS
    labels = [
        label for row in read_rows(data / "step_labels.parquet", "step_labels") for label in row["labels"]
    ]
    assert set(labels) == {0.0, 1.0}
    for stage in STAGES:
        recipe = load_recipe(Cell(tmp_path, stage, "zero2").recipe)
        check_recipe(recipe, find_stage(stage).config_classes())
        assert str(data) in yaml.safe_dump(recipe.fields)


@pytest.mark.parametrize(("line", "result"), [("training begins", "resumed: began anew"), (LINE, "equal")])
def test_a_run_that_begins_anew_is_not_one_that_went_on(
    line: str, result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its curve is the same."""
    cell = Cell(tmp_path, "sft", "zero2")
    last = cell.run_folder / f"checkpoint-{STEPS}"
    last.mkdir(parents=True)
    (last / MARKER).touch()
    write_json(cell.run_folder / "manifest.json", {"status": "complete"})
    write_json(cell.run_folder / "log_history.json", [dict.fromkeys(MEASURES, 1.0)] * STEPS)
    (cell.run_folder / "log.txt").write_text(f"INFO {line}\n")
    monkeypatch.setattr(Cell, "start", lambda *_: CompletedProcess([], 0, "", ""))
    assert measure(cell, cell.curve())["result"] == result
