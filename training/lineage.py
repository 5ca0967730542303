"""The stages that a model came from: what their manifests say, followed through their inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.known_sets import KNOWN
from data.known_steps import KNOWN_STEPS
from data.recipe import RUN_PREFIX
from data.run_folder import read_manifest
from data.store import read_json
from training.local_names import LocalNames, local_names

PUBLIC_KEYS = (
    "pipeline",
    "name",
    "stage",
    "status",
    "recipe",
    "hash",
    "seed",
    "git",
    "packages",
    "started",
    "ended",
    "seconds",
    "tokens",
    "output",
)
"""What of a manifest is for others; command, machine and file dates are not."""
MODEL_KEYS = ("model_name_or_path", "source", "base_model", "model", "scorer_model")
"""Keys of a recipe that name the model that a stage starts from or measures."""


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """A finished stage."""

    folder: Path
    manifest: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def recipe(self) -> dict[str, Any]:
        """As it was run, with the defaults left out."""
        return {key: value for key, value in self.manifest["recipe"].items() if value != {}}


def read_stage(folder: Path, key: str) -> StageRecord:
    """The record of a stage folder that recipe key `key` names.

    Raises:
        ValueError: it is no finished stage.
    """
    manifest = read_manifest(folder)
    if manifest is None or manifest["status"] != "finished":
        state = "has no manifest.json" if manifest is None else f"is {manifest['status']}"
        raise ValueError(f"{key}: {folder} {state}; give the folder of a finished stage (run:05_sft)")
    return StageRecord(folder=folder, manifest=manifest, metrics=read_json(folder / "metrics.json"))


def lineage(last: Iterable[StageRecord]) -> list[StageRecord]:
    """These stages and all that they came from, inputs first, each once."""
    found: dict[Path, StageRecord] = {}

    def visit(record: StageRecord) -> None:
        place = record.folder.resolve()
        if place in found:
            return
        for name in record.manifest["inputs"]:
            folder = (
                record.folder.parent / name.removeprefix(RUN_PREFIX)
                if name.startswith(RUN_PREFIX)
                else Path(name)
            )
            if (folder / "manifest.json").is_file():
                visit(read_stage(folder, record.name))
        found[place] = record

    for record in last:
        visit(record)
    return list(found.values())


def names_to_hide(records: Iterable[StageRecord]) -> LocalNames:
    """The machines of these stages, and what stands for their folders."""
    records = list(records)
    folders = {}
    for record in records:
        for path in {str(record.folder), str(record.folder.absolute()), str(record.folder.resolve())}:
            folders[path] = RUN_PREFIX + record.name
    return local_names((record.manifest["host"]["name"] for record in records), folders)


def public_manifest(record: StageRecord, hidden: LocalNames) -> dict[str, Any]:
    """What of a manifest others need: recipe, seed, inputs, versions."""
    inputs = {name: value["fingerprint"] for name, value in record.manifest["inputs"].items()}
    kept = {key: record.manifest[key] for key in PUBLIC_KEYS if key in record.manifest}
    return hidden.hide({**kept, "inputs": inputs})


def base_models(record: StageRecord, records: Iterable[StageRecord]) -> list[str]:
    """The models that training began with, followed from stage to stage: hub ids, and local folders that no
    stage made."""
    by_folder = {each.folder.resolve(): each for each in records}
    found: list[str] = []
    for key in MODEL_KEYS:
        name = record.recipe.get(key)
        if not isinstance(name, str):
            continue
        folder = (
            record.folder.parent / name.removeprefix(RUN_PREFIX)
            if name.startswith(RUN_PREFIX)
            else Path(name)
        )
        if folder.resolve() in by_folder:
            found += base_models(by_folder[folder.resolve()], records)
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def is_hub_id(name: str) -> bool:
    """Whether a model of this name is on the hub and not in a local folder."""
    return name.count("/") <= 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """Where rows of a stage came from."""

    name: str
    hub: str
    """Dataset id on the hub, empty where it has none."""
    licence: str


def data_sources(records: Iterable[StageRecord]) -> list[DataSource]:
    """The sources of the stages' recipes with the licences that are on record."""
    found = []
    for record in records:
        for entry in [*(record.recipe.get("sources") or []), *(record.recipe.get("preferences") or [])]:
            name = str(entry.get("id") or Path(str(entry.get("path", ""))).name)
            known: Any = KNOWN.get(name) or KNOWN_STEPS.get(name)
            generated = name in ("small_world", "small_talk") or name.startswith("reasoning_gym/")
            hub = getattr(known, "hub", "") or (name if "/" in name and not known and not generated else "")
            licence = (
                entry.get("licence") or getattr(known, "licence", "") or ("Apache-2.0" if generated else "")
            )
            found.append(DataSource(name=name, hub=hub, licence=licence or "unknown"))
    return list(dict.fromkeys(found))
