"""The matrix of launchers: its work is what the stages read, and its differences are seen."""

from __future__ import annotations

from pathlib import Path

import yaml

from benchmarks.launch_matrix import BATCH, ROWS, STAGES, STEPS, Cell, difference, make_work
from data.recipe import check_recipe, load_recipe
from data.store import read_attempts, read_problems, read_rows
from launch.stages import find_stage


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
