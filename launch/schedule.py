"""Run the stages of a recipe folder in order, or side by side where none reads another's result; once, or
several times with other seeds; skip what is finished, and end with the report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from data.recipe import Recipe, load_pipeline
from data.run_folder import pipeline_folder, stage_folder
from data.stage import EXIT_INTERRUPTED, EXIT_PREEMPTED
from launch.pipeline import Selection, check_stage, is_finished, run_or_skip, stage_command
from launch.stages import STAGES


def run_pipeline(
    folder: Path,
    selection: Selection,
    *,
    dry_run: bool = False,
    jobs: int = 1,
    seeds: int | None = None,
    report: bool = True,
) -> int:
    """Run (or with `dry_run` only check and print) the stages of a recipe folder. Returns the exit code.

    Args:
        jobs: how many stages run at once.
        seeds: how many copies of the pipeline there are (`Recipe.copy`); None is the one that
            $SLOWTHINK_SEED says.
        report: end with a page of what the run folders hold, also where a stage has failed.
    Raises:
        RecipeError: a mistake in a recipe, before anything runs.
    """
    copies = [None] if seeds is None else range(seeds)
    recipes = [recipe for copy in copies for recipe in selection.choose(load_pipeline(folder, copy))]
    if dry_run:
        return _print_plan(recipes)
    todo = {recipe.title for recipe in recipes if not is_finished(recipe)}
    for recipe in recipes:
        if recipe.title in todo:
            check_stage(recipe)
    if jobs > 1 and todo:
        from launch.side_by_side import run_side_by_side

        code = run_side_by_side(recipes, todo, jobs)
    else:
        code = _run_in_turn(recipes, todo)
    if report and code not in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
        _report(recipes, anew=bool(todo))
    return code


def _print_plan(recipes: Sequence[Recipe]) -> int:
    for recipe in recipes:
        check_stage(recipe)
        state = "finished, would be skipped" if is_finished(recipe) else "would run"
        command = recipe.copy_variable + shlex.join(stage_command(recipe))
        print(f"{recipe.title}: ok, {state} -> {stage_folder(recipe)}\n    {command}")
    return 0


def _run_in_turn(recipes: Sequence[Recipe], todo: set[str]) -> int:
    for recipe in recipes:
        if code := run_or_skip(recipe, todo):
            return code
    return 0


def _report(recipes: Sequence[Recipe], *, anew: bool) -> None:
    """The page of all copies' run folders; nothing to do where nothing has run since it was made."""
    folders = list(dict.fromkeys(pipeline_folder(recipe) for recipe in recipes))
    folders = [folder for folder in folders if any(folder.glob("*/manifest.json"))]
    if not folders:  # all stages write to folders of their own choice
        return
    page = folders[0] / "report" / "index.html"
    if anew or not page.is_file():
        write_report(folders)
    print(f"report: {page}")


def write_report(runs: Sequence[Path], folder: Path | None = None) -> Path:
    """See `evaluation.report.build.build_report`."""
    from evaluation.report.build import build_report

    return build_report(runs, folder, {name: stage.help for name, stage in STAGES.items()})
