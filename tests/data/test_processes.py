"""How many processes there are, how many a recipe asks for, and what their batches come to."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from data.processes import EXPECTED, add_launch_flags, batch_sizes, check_world, with_launch_flags
from data.recipe import Recipe, RecipeError, load_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "01_sft.yaml"
    path.write_text("stage: sft\nlaunch: {config: ddp, num_processes: 4}\n")
    return load_recipe(path)


def flags(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_launch_flags(parser)
    return parser.parse_args(given)


def test_the_world_is_what_the_recipe_asks_for(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match=r"01_sft.yaml: launch: 4 processes are asked for and 1 started"):
        check_world(recipe)
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_world(recipe)
    check_world(with_launch_flags(recipe, flags("--num_machines", "2")))
    with pytest.raises(RecipeError, match="2 processes are asked for and 4 started"):
        check_world(with_launch_flags(recipe, flags("--num_processes", "2")))


def test_the_world_is_what_slowthink_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recipe has no number, its launch config has one."""
    path = tmp_path / "01_sft.yaml"
    path.write_text("stage: sft\nlaunch: ddp\n")
    check_world(load_recipe(path))
    monkeypatch.setenv(EXPECTED, "8")
    with pytest.raises(RecipeError, match=r"8 processes .* --num_processes 1 behind the recipe"):
        check_world(load_recipe(path))


def test_flags_take_the_place_of_the_recipes_launch(recipe: Recipe, tmp_path: Path) -> None:
    changed = with_launch_flags(recipe, flags("--launch", "zero3", "--num_processes", "2"))
    assert changed.launch == {"config": "zero3", "num_processes": 2}
    assert with_launch_flags(recipe, flags()) is recipe
    path = tmp_path / "02_sft.yaml"
    path.write_text("stage: sft\n")
    with pytest.raises(RecipeError, match="--num_processes: the recipe has no `launch:`; add --launch ddp"):
        with_launch_flags(load_recipe(path), flags("--num_processes", "2"))


def test_rows_of_a_step_over_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import GRPOConfig, SFTConfig

    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "use_cpu": True}
    sft, grpo = SFTConfig(str(tmp_path), **options), GRPOConfig(str(tmp_path), num_generations=4, **options)
    assert batch_sizes([sft]) == {"rows of a step": 12}
    assert batch_sizes([grpo]) == {"rows of a step": 12, "completions of a generation": 12}
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert batch_sizes([object(), sft]) == {"rows of a step": 24}
    assert batch_sizes([object()]) == {}
