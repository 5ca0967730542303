"""`slowthink run FOLDER --on slurm`: one job a stage, begun when the stages that it reads have finished."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.recipe import Recipe, load_pipeline, references
from data.run_folder import pipeline_folder, stage_folder
from data.store import read_json, write_json
from launch.pipeline import Selection, check_stage, is_finished
from launch.slurm_script import load_site, script, site_of

ALIVE = "PD,CF,R,S,RQ"
"""States of jobs that will still do their work: squeue also lists those that have ended and are being cleaned
up (CG), if they are not asked to begin anew."""


def submit(folder: Path, selection: Selection, *, dry_run: bool, site_file: Path | None = None) -> int:
    """Check the stages, write their batch scripts to <runs>/<pipeline>/slurm and submit them (or with
    `dry_run` only write them and print the commands). Finished stages are skipped, and so are those whose
    jobs are in the queue from an earlier time. Returns the exit code.

    Raises:
        ValueError: a mistake in a recipe or the site file, a stage reads one that is neither finished nor
            submitted, or sbatch refuses a job.
    """
    recipes = selection.choose(load_pipeline(folder))
    content = load_site(site_file)
    place = (pipeline_folder(recipes[0]) / "slurm").resolve()
    jobs = _queued(place, dry_run=dry_run)
    todo = _unfinished(recipes)
    scripts = {r.name: _write_scripts(r, content, place) for r in todo if r.name not in jobs}
    _check_inputs(todo, jobs)
    for recipe in recipes:
        if recipe not in todo:
            print(f"= {recipe.name}: finished -> {stage_folder(recipe)}")
        elif recipe.name not in scripts:
            print(f"= {recipe.name}: job {jobs[recipe.name]} is in the queue")
        else:
            _submit_stage(recipe, scripts[recipe.name], jobs, dry_run=dry_run)
    if not dry_run:
        print(f"to watch: squeue --me; slowthink show {place.parent} --live; tail -f {place}/*.out")
    return 0


def _unfinished(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The stages to run, among them those that read such a stage: it may be another one afterwards."""
    names: set[str] = set()
    for recipe in recipes:
        if not is_finished(recipe) or names & set(references(recipe)):
            names.add(recipe.name)
    return [recipe for recipe in recipes if recipe.name in names]


def _check_inputs(todo: Sequence[Recipe], jobs: Mapping[str, str]) -> None:
    pipeline = {recipe.name: recipe for recipe in load_pipeline(todo[0].path.parent)} if todo else {}
    known = {recipe.name for recipe in todo} | set(jobs)
    for recipe in todo:
        for name in references(recipe):
            if name not in known and not is_finished(pipeline[name]):
                raise recipe.error(
                    f"run:{name} is neither finished nor submitted; leave out --only and --from"
                )


def _write_scripts(recipe: Recipe, content: Mapping[str, Any], place: Path) -> list[Path]:
    """The scripts of a stage in the order in which they are submitted: its shares, if any, and itself."""
    check_stage(recipe)
    site = site_of(content, recipe)
    place.mkdir(parents=True, exist_ok=True)
    paths = []
    for shares, name in ((site.array, f"{recipe.name}.shares.sbatch"), (0, f"{recipe.name}.sbatch")):
        if shares != 1:
            paths.append(place / name)
            paths[-1].write_text(script(recipe, site, place, shares=shares), encoding="utf-8")
    return paths


def _submit_stage(recipe: Recipe, scripts: Sequence[Path], jobs: dict[str, str], *, dry_run: bool) -> None:
    """Submit a stage's scripts, each behind the one before, and note the job of each at once in `jobs` and
    jobs.json: shares that are in the queue are not submitted again when the job that gathers them is."""
    waits = [jobs[name] for name in references(recipe) if name in jobs]
    for path in scripts:
        command = ["sbatch", "--parsable", "--kill-on-invalid-dep=yes"]
        if waits:
            command.append(f"--dependency=afterok:{':'.join(waits)}")
        command.append(str(path))
        if dry_run:
            print(f"{recipe.name}: ok, would be submitted -> {path}\n    {shlex.join(command)}")
            jobs[path.stem] = f"<{path.stem}>"
        elif path.stem in jobs:
            print(f"= {path.stem}: job {jobs[path.stem]} is in the queue")
        else:
            jobs[path.stem] = _run(command).partition(";")[0].strip()
            write_json(path.parent / "jobs.json", jobs)
            behind = f" after {', '.join(waits)}" if waits else ""
            print(f"> {path.stem}: job {jobs[path.stem]}{behind} -> {path}")
        waits = [jobs[path.stem]]


def _queued(place: Path, *, dry_run: bool) -> dict[str, str]:
    """Scripts whose jobs are in the queue from an earlier time, with the job of each."""
    path = place / "jobs.json"
    if dry_run or not path.is_file():
        return {}
    alive = set(_run(["squeue", "--me", "--noheader", "--format=%F", f"--states={ALIVE}"]).split())
    return {name: job for name, job in read_json(path).items() if job in alive}


def _run(command: Sequence[str]) -> str:
    """Its output.

    Raises:
        ValueError: there is no such program, or it fails; with what it says.
    """
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise ValueError(
            f"{command[0]}: not found here; submit where Slurm's commands are, or --dry-run"
        ) from error
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{shlex.join(command)}: {error.stderr.strip()}") from error
