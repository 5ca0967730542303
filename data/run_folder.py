"""Run folders: what a stage made, from what, and whether it is finished.

`runs/<pipeline>/<stage>/manifest.json` says it all. A folder is finished only when its manifest says so, and
the manifest is written last. A folder that an older version of the recipe made is moved aside, never
overwritten; an unfinished one goes on with another number of processes where a step has the same
rows. One whose result was changed after its stage finished is refused, as an input and as a stage to skip.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from data.own_code import own_code_file
from data.processes import world
from data.recipe import PLACE_FIELDS, PLACE_KEYS, RUN_PREFIX, Recipe, references, runs_root, strings
from data.store import fingerprint, read_json, result_files, write_json

State = Literal["new", "unfinished", "finished", "stale"]

_PACKAGES = ("torch", "transformers", "trl", "peft", "deepspeed", "datasets", "accelerate", "wandb", "vllm")
_PATH_SUFFIXES = (".jsonl", ".json", ".parquet", ".jinja", ".gguf")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done in a run folder, decided before anything is written."""

    folder: Path
    state: State
    reason: str
    inputs: dict[str, dict[str, str]]
    """For each input (run: reference or path): its fingerprint, and the cheap `stat` that spares computing it
    again."""
    batch: dict[str, int] | None
    """See `data.processes.batch_sizes`; None where it is not known yet."""


def stage_folder(recipe: Recipe) -> Path:
    """Output folder of a recipe: its own `output_dir`, else runs/<pipeline>/<stage>."""
    chosen = recipe.fields.get("output_dir")
    return Path(chosen) if chosen else runs_root() / recipe.pipeline / recipe.name


def pipeline_folder(recipe: Recipe) -> Path:
    """Folder in which `run:` references of this recipe are looked up."""
    return runs_root() / recipe.pipeline


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a run folder, None where there is none.

    Raises:
        ValueError: the manifest is not readable.
    """
    path = folder / "manifest.json"
    return read_json(path) if path.is_file() else None


SPREAD_KEYS = {"launch.num_processes", "per_device_train_batch_size", "gradient_accumulation_steps"}
"""What spreads the rows of a step over processes: an unfinished run goes on with other values of the same
product."""


def plan(recipe: Recipe, batch: dict[str, int] | None = None) -> Plan:
    """Compare recipe, inputs and batch sizes with what the folder's manifest says.

    Args:
        batch: rows of a step over all processes (`data.processes.batch_sizes`), where they are known.
    Raises:
        RecipeError: an input stage is not finished, the folder belongs to another recipe, or one of both was
        changed after its stage finished.
    """
    folder = stage_folder(recipe)
    manifest = read_manifest(folder)
    previous = manifest["inputs"] if manifest else {}
    inputs = input_fingerprints(recipe, previous)

    def decided(state: State, reason: str) -> Plan:
        return Plan(folder=folder, state=state, reason=reason, inputs=inputs, batch=batch)

    if manifest is None:
        if folder.is_dir() and any(not p.name.startswith(".lock") for p in folder.iterdir()):
            raise recipe.error(
                f"{folder} is not empty and not a run folder; choose another output_dir or empty it"
            )
        return decided("new", "not run yet")
    owner = (manifest["pipeline"], manifest["name"])
    if owner != (recipe.pipeline, recipe.name):
        raise recipe.error(f"{folder} belongs to recipe {'/'.join(owner)}; choose another output_dir")
    finished = manifest["status"] == "finished"
    keys = _changed_keys(recipe, manifest)
    changes = ", ".join(keys.values())[:300]
    goes_on = not finished and keys.keys() <= SPREAD_KEYS
    stale = (
        (f"recipe changed: {changes}" if keys and not goes_on else "")
        or _changed_inputs(manifest, inputs)
        or ("" if finished else _changed_batch(manifest, batch))
    )
    if stale:
        return decided("stale", stale)
    if finished:
        _refuse_edited(recipe, recipe.name, folder, manifest)
        return decided("finished", "nothing changed")
    return decided("unfinished", f"launch changed: {changes}" if keys else f"last run: {manifest['status']}")


def _changed_keys(recipe: Recipe, manifest: dict[str, Any]) -> dict[str, str]:
    """Each key that another result may come of, with its old and its new value."""
    if manifest["hash"] == recipe.hash:
        return {}
    old, new = _flat(manifest["recipe"]), _flat(manifest_recipe(recipe))
    keys = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return {key: f"{key} {old.get(key)!r} -> {new.get(key)!r}" for key in keys}


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    launch = {f"launch.{key}": value for key, value in values["launch"].items() if key not in PLACE_KEYS}
    return {**launch, **{key: value for key, value in values.items() if key not in ("launch", *PLACE_FIELDS)}}


def _changed_inputs(manifest: dict[str, Any], inputs: dict[str, dict[str, str]]) -> str:
    then = {name: value["fingerprint"] for name, value in manifest["inputs"].items()}
    now = {name: value["fingerprint"] for name, value in inputs.items()}
    names = [name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)]
    return f"input changed: {', '.join(names)}" if names else ""


def _changed_batch(manifest: dict[str, Any], batch: dict[str, int] | None) -> str:
    """Manifests of older versions do not tell of it and are trusted."""
    then = manifest.get("batch")
    if batch is None or then is None or then == batch:
        return ""
    names = [name for name in batch if batch[name] != then.get(name)]
    return "batch changed: " + ", ".join(f"{name} {then.get(name)} -> {batch[name]}" for name in names)


def manifest_recipe(recipe: Recipe) -> dict[str, Any]:
    """The recipe as a manifest keeps it."""
    return {"stage": recipe.stage, "launch": recipe.launch, **recipe.fields}


def input_fingerprints(recipe: Recipe, previous: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Fingerprint of every stage and local path that the recipe reads, code of the user's own included.

    Raises:
        RecipeError: a stage that it reads is not finished, or was changed since.
    """
    found: dict[str, dict[str, str]] = {}
    for name in references(recipe):
        folder = pipeline_folder(recipe) / name
        manifest = read_manifest(folder)
        if manifest is None or manifest["status"] != "finished":
            raise recipe.error(
                f"{RUN_PREFIX}{name} is not finished; run it first: {recipe.run_command} --only {name}"
            )
        _refuse_edited(recipe, name, folder, manifest)
        found[RUN_PREFIX + name] = {"fingerprint": manifest["output"], "stat": ""}
    for text in strings({k: v for k, v in recipe.fields.items() if k != "output_dir"}):
        path = own_code_file(text) or Path(text)
        if ("/" in text or path.suffix in (*_PATH_SUFFIXES, ".py")) and len(text) < 1000 and path.exists():
            stat = _stat(path)
            known = previous.get(text, {})
            same = known.get("stat") == stat
            found[text] = {"fingerprint": known["fingerprint"] if same else fingerprint(path), "stat": stat}
    return found


_SHOWN_FILES = 5


def _refuse_edited(recipe: Recipe, name: str, folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse a finished folder whose result is another than what its stage wrote.

    Sizes and times that are as they were spare reading the files; a copy has other times and the same
    content. Manifests of older versions have none of them and are trusted.

    Raises:
        RecipeError: names the files and what helps.
    """
    then, now = manifest.get("files"), file_stats(folder)
    if then is None or then == now or fingerprint(folder) == manifest["output"]:
        return
    changed = sorted(file for file in then.keys() | now.keys() if then.get(file) != now.get(file))
    sized = [file for file in changed if then.get(file, [-1])[0] != now.get(file, [-1])[0]]
    files = sized or changed
    shown = ", ".join(files[:_SHOWN_FILES])
    if len(files) > _SHOWN_FILES:
        shown += f" and {len(files) - _SHOWN_FILES} more"
    again = f"rm -r {shlex.quote(str(folder))} && {recipe.run_command}"
    raise recipe.error(
        f"{folder} was changed after its stage finished (files: {shown}). Undo it, or "
        f"make it again: {again} --only {name}. To read what you edited: copy it elsewhere first, and "
        f"give that path in place of {RUN_PREFIX}{name}"
    )


def file_stats(folder: Path) -> dict[str, list[int]]:
    """Size in bytes and time of change in ns of the files that the folder's fingerprint covers."""
    stats = {file.relative_to(folder).as_posix(): file.stat() for file in result_files(folder)}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _stat(path: Path) -> str:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    text = ";".join(f"{p}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in files)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RunFolder:
    """A run folder that this process is writing. At most one process has it at a time."""

    def __init__(self, recipe: Recipe, plan: Plan, seed: int | None = None) -> None:
        """`seed`: that of the stage's config, which its recipe may not have."""
        self.path = plan.folder
        self._lock: IO[str] | None = None
        self._open(recipe, plan, recipe.fields.get("seed") if seed is None else seed)

    def _open(self, recipe: Recipe, plan: Plan, seed: int | None) -> None:
        if plan.state == "stale":
            with hold(recipe, plan.folder / ".lock"):  # never moved from under a process that still writes it
                plan.folder.rename(_free_name(plan.folder))
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = hold(recipe, self.path / ".lock")
        earlier = read_manifest(self.path)
        self.manifest: dict[str, Any] = {
            "pipeline": recipe.pipeline,
            "name": recipe.name,
            "stage": recipe.stage,
            "status": "running",
            "recipe": manifest_recipe(recipe),
            "hash": recipe.hash,
            "inputs": plan.inputs,
            "processes": world(),
            "batch": plan.batch,
            "seed": seed,
            "git": git_state(),
            "packages": package_versions(),
            "host": {
                "name": socket.gethostname(),
                "cpus": os.cpu_count(),
                "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
                "python": platform.python_version(),
            },
            "command": sys.argv,
            "started": earlier["started"] if earlier else _now(),
            "attempts": (earlier["attempts"] if earlier else 0) + 1,
        }
        write_json(self.path / "manifest.json", self.manifest)

    def finish(self, metrics: dict[str, Any], seconds: float) -> None:
        """Write metrics and mark the folder finished; the manifest is the last thing written."""
        write_json(self.path / "metrics.json", metrics)
        result = {"output": fingerprint(self.path), "files": file_stats(self.path)}
        done = {"status": "finished", **result, "tokens": metrics.get("tokens")}
        self._close({**done, "seconds": round(seconds, 3)})

    def stop(self, status: Literal["failed", "interrupted"], error: str) -> None:
        """Mark the folder as not finished, with the reason."""
        self._close({"status": status, "error": error})

    def _close(self, values: dict[str, Any]) -> None:
        write_json(self.path / "manifest.json", {**self.manifest, **values, "ended": _now()})
        assert self._lock is not None
        self._lock.close()


def hold(recipe: Recipe, lock_file: Path, *, shared: bool = False) -> IO[str]:
    """Lock a run folder until the returned file is closed; `shared` with others that share it.

    Raises:
        RecipeError: another process holds it.
    """
    lock = open(lock_file, "a+")  # noqa: SIM115 - held until it is closed; NFS wants it readable to share it
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise recipe.error(
            f"{lock_file.parent} is being written by another process; wait for it or stop it"
        ) from None
    return lock


def _free_name(folder: Path) -> Path:
    number = 1
    while (name := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the checkout, or None values outside git."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide results."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
