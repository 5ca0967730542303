from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from data import run_folder
from data.recipe import Recipe, RecipeError, load_recipe
from data.run_folder import Plan, RunFolder, hold, plan, read_manifest


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLOWTHINK_RUNS", str(tmp_path / "runs"))
    folder = tmp_path / "recipes" / "p"
    folder.mkdir(parents=True)
    (tmp_path / "in.jsonl").write_text("{}\n")
    (folder / "01_a.yaml").write_text(f"stage: x\nsource: {tmp_path / 'in.jsonl'}\n")
    (folder / "02_b.yaml").write_text("stage: x\nproblems: run:01_a\n")
    return folder


def finish(recipe: Recipe, content: str = "rows") -> None:
    folder = RunFolder(recipe, plan(recipe))
    (folder.path / "problems.parquet").write_text(content)
    folder.finish({"rows": 1}, seconds=0.1)


def test_life_of_a_run_folder(pipeline: Path) -> None:
    recipe = load_recipe(pipeline / "01_a.yaml")
    assert plan(recipe).state == "new"
    folder = RunFolder(recipe, plan(recipe))
    folder.stop("interrupted", "interrupted")
    assert plan(recipe).state == "unfinished"
    finish(recipe)
    assert plan(recipe).state == "finished"
    manifest = read_manifest(folder.path)
    assert manifest is not None
    assert manifest["attempts"] == 2
    assert manifest["status"] == "finished"
    assert {
        "hash",
        "inputs",
        "git",
        "packages",
        "host",
        "started",
        "ended",
        "seed",
        "tokens",
    } <= manifest.keys()


def test_a_killed_stage_is_unfinished(pipeline: Path) -> None:
    recipe = load_recipe(pipeline / "01_a.yaml")
    lock = RunFolder(recipe, plan(recipe))._lock
    assert lock is not None
    lock.close()  # what the kernel does for a killed process
    assert read_manifest(plan(recipe).folder)["status"] == "running"  # type: ignore[index]
    assert plan(recipe).state == "unfinished"


def test_changed_recipe_moves_the_old_result_aside(pipeline: Path) -> None:
    path = pipeline / "01_a.yaml"
    finish(load_recipe(path), "old")
    path.write_text(path.read_text() + "seed: 7\n")
    changed = load_recipe(path)
    planned = plan(changed)
    assert planned.state == "stale"
    assert "seed None -> 7" in planned.reason
    finish(changed, "new")
    assert (planned.folder.with_name("01_a.old-1") / "problems.parquet").read_text() == "old"
    assert (planned.folder / "problems.parquet").read_text() == "new"


TRAINS = "stage: x\nlaunch: {{config: ddp, num_processes: {}}}\nper_device_train_batch_size: {}\n"


def stopped(path: Path, batch: dict[str, int], monkeypatch: pytest.MonkeyPatch, processes: int = 2) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    recipe = load_recipe(path)
    RunFolder(recipe, plan(recipe, batch)).stop("interrupted", "interrupted")


def test_an_unfinished_run_goes_on_with_other_processes(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pipeline / "01_a.yaml"
    path.write_text(TRAINS.format(2, 4))
    stopped(path, {"rows of a step": 8}, monkeypatch)
    path.write_text(TRAINS.format(4, 2))
    planned = plan(load_recipe(path), {"rows of a step": 8})
    assert planned.state == "unfinished"
    assert planned.reason == (
        "launch changed: launch.num_processes 2 -> 4, per_device_train_batch_size 4 -> 2"
    )
    stopped(path, {"rows of a step": 8}, monkeypatch, processes=4)
    manifest = read_manifest(planned.folder)
    assert manifest is not None
    assert (manifest["processes"], manifest["recipe"]["launch"]["num_processes"]) == (4, 4)
    assert manifest["attempts"] == 2
    path.write_text(TRAINS.format(4, 4))
    planned = plan(load_recipe(path), {"rows of a step": 16})
    assert planned.state == "stale"
    assert planned.reason == "batch changed: rows of a step 8 -> 16"
    path.write_text(TRAINS.format(4, 2) + "learning_rate: 1.0\n")
    assert plan(load_recipe(path), {"rows of a step": 8}).state == "stale"


def test_other_processes_than_those_of_an_unfinished_run_without_a_change_of_the_recipe(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`accelerate launch --num_processes 4` by hand: the recipe does not tell."""
    path = pipeline / "01_a.yaml"
    stopped(path, {"rows of a step": 8}, monkeypatch)
    assert plan(load_recipe(path), {"rows of a step": 16}).state == "stale"
    assert plan(load_recipe(path)).state == "unfinished", "where the batch is not known yet"
    recipe = load_recipe(path)
    RunFolder(recipe, plan(recipe, {})).stop("interrupted", "of a stage without batches")
    assert plan(recipe, {}).state == "unfinished"


def test_a_finished_run_with_other_processes_is_made_again(pipeline: Path) -> None:
    path = pipeline / "01_a.yaml"
    path.write_text(TRAINS.format(2, 4))
    finish(load_recipe(path))
    path.write_text(TRAINS.format(4, 2))
    planned = plan(load_recipe(path), {"rows of a step": 8})
    assert (planned.state, planned.reason[:15]) == ("stale", "recipe changed:")


def test_changed_input_file_makes_the_result_stale(pipeline: Path, tmp_path: Path) -> None:
    recipe = load_recipe(pipeline / "01_a.yaml")
    finish(recipe)
    (tmp_path / "in.jsonl").touch()
    assert plan(recipe).state == "finished"
    (tmp_path / "in.jsonl").write_text("{}\n{}\n")
    assert plan(recipe).state == "stale"


def test_new_result_of_an_earlier_stage_makes_the_later_stale(pipeline: Path, tmp_path: Path) -> None:
    first, second = (load_recipe(pipeline / name) for name in ("01_a.yaml", "02_b.yaml"))
    with pytest.raises(RecipeError, match=r"run:01_a is not finished; run it first: slowthink run"):
        plan(second)
    finish(first)
    finish(second)
    assert plan(second).state == "finished"
    (tmp_path / "in.jsonl").write_text("other\n")
    finish(first, "other rows")
    assert plan(second).state == "stale"


def test_foreign_folders_are_refused(pipeline: Path, tmp_path: Path) -> None:
    finish(load_recipe(pipeline / "01_a.yaml"))
    mine = tmp_path / "runs" / "p" / "01_a"
    (pipeline / "02_b.yaml").write_text(f"stage: x\noutput_dir: {mine}\n")
    with pytest.raises(RecipeError, match=r"belongs to recipe p/01_a; choose another output_dir"):
        plan(load_recipe(pipeline / "02_b.yaml"))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("")
    (pipeline / "02_b.yaml").write_text(f"stage: x\noutput_dir: {tmp_path / 'notes'}\n")
    with pytest.raises(RecipeError, match="not empty and not a run folder"):
        plan(load_recipe(pipeline / "02_b.yaml"))


def test_locks_may_be_shared_where_flock_is_a_lock_of_a_range(pipeline: Path, tmp_path: Path) -> None:
    """As on NFS, which refuses a shared one of a file that is not open for reading."""
    with hold(load_recipe(pipeline / "01_a.yaml"), tmp_path / ".lock", shared=True) as lock:
        fcntl.lockf(lock, fcntl.LOCK_SH)
        fcntl.lockf(lock, fcntl.LOCK_EX)


def test_one_writer_at_a_time(pipeline: Path) -> None:
    recipe = load_recipe(pipeline / "01_a.yaml")
    first = RunFolder(recipe, plan(recipe))
    with pytest.raises(RecipeError, match="being written by another process"):
        RunFolder(recipe, plan(recipe))
    with open(recipe.path, "a") as file:
        file.write("limit: 3\n")
    changed = load_recipe(recipe.path)
    assert plan(changed).state == "stale"
    with pytest.raises(RecipeError, match="being written by another process"):
        RunFolder(changed, plan(changed))
    assert [path.name for path in first.path.parent.iterdir()] == ["01_a"]  # not moved from under its writer
    first.stop("failed", "x")
    RunFolder(changed, plan(changed)).stop("failed", "x")
    assert len(list(first.path.parent.iterdir())) == 2


def test_damaged_manifest_is_named(pipeline: Path) -> None:
    recipe = load_recipe(pipeline / "01_a.yaml")
    finish(recipe)
    (plan(recipe).folder / "manifest.json").write_text('{"status": "fin')
    with pytest.raises(ValueError, match=r"manifest\.json is not valid JSON"):
        plan(recipe)


@pytest.fixture
def finished(pipeline: Path, tmp_path: Path) -> Path:
    """Folder of 01_a, which 02_b reads."""
    finish(load_recipe(pipeline / "01_a.yaml"))
    return tmp_path / "runs" / "p" / "01_a"


def plans(pipeline: Path) -> list[Plan]:
    return [plan(load_recipe(pipeline / name)) for name in ("01_a.yaml", "02_b.yaml")]


def add_later(folder: Path, name: str, content: str = "edited") -> None:
    """Write a file whose time is not that of the others."""
    (folder / name).write_text(content)
    os.utime(folder / name, ns=(1, 1))


@pytest.mark.parametrize(
    ("name", "content"),
    [("problems.parquet", "more rows"), ("problems.parquet", "rowz"), ("other.json", "{}")],
)
@pytest.mark.parametrize("reader", ["01_a.yaml", "02_b.yaml"])
def test_a_result_that_was_edited_is_refused(
    pipeline: Path, finished: Path, name: str, content: str, reader: str
) -> None:
    add_later(finished, name, content)
    with pytest.raises(RecipeError, match="was changed after its stage finished") as caught:
        plan(load_recipe(pipeline / reader))
    message = str(caught.value)
    assert f"{reader}: {finished} was changed" in message
    assert f"(files: {name})" in message
    assert f"rm -r {finished} && slowthink run {pipeline} --only 01_a" in message
    assert "give that path in place of run:01_a" in message
    shutil.rmtree(finished)
    finish(load_recipe(pipeline / "01_a.yaml"))
    assert [planned.state for planned in plans(pipeline)] == ["finished", "new"]


def test_a_removed_file_is_named_and_a_long_list_cut(pipeline: Path, finished: Path) -> None:
    (finished / "problems.parquet").unlink()
    for number in range(6):
        add_later(finished, f"q{number}.json")
    with pytest.raises(RecipeError, match=r"files: problems.parquet, q0.json, .*q3.json and 2 more\)"):
        plan(load_recipe(pipeline / "02_b.yaml"))


def test_new_times_and_what_is_no_result_pass(pipeline: Path, finished: Path) -> None:
    add_later(finished, "log.txt")
    add_later(finished, "rollouts-40.html")
    add_later(finished, "events.out.tfevents.1.host")  # TensorBoard writes when the process ends
    assert plans(pipeline)[0].state == "finished"
    copy = finished.with_name("copy")
    shutil.copytree(finished, copy, copy_function=shutil.copy)
    shutil.rmtree(finished)
    copy.rename(finished)
    os.utime(finished / "problems.parquet", ns=(1, 1))
    assert [planned.state for planned in plans(pipeline)] == ["finished", "new"]


def test_unchanged_results_are_not_read_again(
    pipeline: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    actual = run_folder.fingerprint
    monkeypatch.setattr(run_folder, "fingerprint", lambda path: read.append(path) or actual(path))
    plans(pipeline)
    assert finished not in read
    os.utime(finished / "problems.parquet", ns=(1, 1))
    plans(pipeline)
    assert read.count(finished) == 2


def test_manifests_of_older_versions_are_trusted(pipeline: Path, finished: Path) -> None:
    manifest = read_manifest(finished)
    assert manifest is not None
    del manifest["files"]
    (finished / "manifest.json").write_text(json.dumps(manifest))
    add_later(finished, "problems.parquet")
    assert [planned.state for planned in plans(pipeline)] == ["finished", "new"]


def test_an_edited_folder_of_another_recipe_is_moved_aside(pipeline: Path, finished: Path) -> None:
    add_later(finished, "problems.parquet")
    path = pipeline / "01_a.yaml"
    path.write_text(path.read_text() + "seed: 7\n")
    assert plan(load_recipe(path)).state == "stale"
