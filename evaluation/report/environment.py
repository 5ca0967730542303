"""On what a run was made, and the commands that make it again."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from data.recipe import SEED
from evaluation.report.folder import FoundStage, mapping
from evaluation.report.markup import line, plain_block, table

MOST_CHARACTERS = 20_000
_HOST = {
    "name": "machine",
    "cpus": "cores",
    "omp_num_threads": "threads (OMP_NUM_THREADS)",
    "python": "python",
}


def command_again(found: FoundStage) -> str | None:
    """What to type to run a stage again; None where its manifest does not say."""
    command = found.manifest.get("command")
    if not found.stage or not isinstance(command, list) or not command:
        return None
    if not all(isinstance(part, str) for part in command):
        return None
    copy = copy_number(found)
    before = f"{SEED}={copy} " if copy else ""
    return before + shlex.join(["slowthink", found.stage, *command[1:]])


def copy_number(found: FoundStage) -> int:
    """Of the copy of a pipeline, with other seeds, that the stage belongs to; 0 of the pipeline itself."""
    copy = re.fullmatch(r".+\.seed([0-9]{1,6})", str(found.manifest.get("pipeline")))
    return int(copy[1]) if copy else 0


def whole_again(runs: Sequence[Sequence[FoundStage]]) -> str:
    """The commands that make all of it again, as far as the manifests say."""
    stages = [found for run in runs for found in run]
    gits = [mapping(found.manifest.get("git")).get("commit") for found in stages]
    commits = list(dict.fromkeys(commit for commit in gits if isinstance(commit, str)))
    recipes = dict.fromkeys(folder for found in stages if (folder := _recipe_folder(found)))
    copies = max((copy_number(found) for found in stages), default=0)
    seeds = f" --seeds {copies + 1}" if copies else ""
    lines = [f"git checkout {shlex.quote(commit)}" for commit in commits[:1]]
    if len(commits) > 1:
        lines[0] += f"  # the first of {len(commits)} commits that its stages are of"
    return "\n".join([*lines, *(f"slowthink run {shlex.quote(folder)}{seeds}" for folder in recipes)])


def _recipe_folder(found: FoundStage) -> str | None:
    command = found.manifest.get("command")
    if not isinstance(command, list) or "--config" not in command[:-1]:
        return None
    path = command[command.index("--config") + 1]
    return str(Path(path).parent) if isinstance(path, str) else None


def environment(runs: Mapping[str, Sequence[FoundStage]]) -> str:
    """Commit, machine, versions and seeds, each with the stages that differ."""
    several = len(runs) > 1
    stages = {
        f"{run}/{found.name}" if several else found.name: found.manifest
        for run, stages in runs.items()
        for found in stages
        if found.manifest
    }
    if not stages:
        return "<p class='quiet'>No manifest says it.</p>"
    rows = [(line(name), _told(values)) for name, values in _facts(stages)]
    packages = [(line(name), _told(values)) for name, values in islice(_packages(stages), 100)]
    return (
        f"{table(rows, kind='texts')}<details><summary>versions of {len(packages)} packages</summary>"
        f"{table(packages, kind='texts')}</details>"
    )


def commands(runs: Sequence[Sequence[FoundStage]]) -> str:
    """What makes it again: the whole, and stage by stage."""
    whole = whole_again(runs)
    each = "\n".join(command for run in runs for found in run if (command := command_again(found)))
    return "".join(
        [
            plain_block(whole, MOST_CHARACTERS) if whole else "<p class='quiet'>No manifest says it.</p>",
            f"<details><summary>stage by stage</summary>{plain_block(each, MOST_CHARACTERS)}</details>"
            if each
            else "",
        ]
    )


def _facts(stages: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Names of facts, each with the stages by the value that they have. Manifests are by stage."""
    yield "git commit", _by_value({name: _commit(mapping(said.get("git"))) for name, said in stages.items()})
    told = {name: (mapping(said.get("host")), said) for name, said in stages.items()}
    for place, keys in enumerate((_HOST, {"processes": "processes", "seed": "seed"})):
        for key, word in keys.items():
            values = {name: said[place].get(key) for name, said in told.items()}
            if any(value is not None for value in values.values()):
                yield word, _by_value(values)
    for key, choose in (("started", min), ("ended", max)):
        if times := [time for said in stages.values() if isinstance(time := said.get(key), str)]:
            yield key, {choose(times): []}


def _commit(git: Mapping[str, Any]) -> str:
    if not isinstance(git.get("commit"), str):
        return "not of a git checkout"
    changed = {True: ", with changes that were not committed", False: ""}.get(git.get("dirty") is True, "")
    return git["commit"] + changed


def _packages(stages: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, dict[str, list[str]]]]:
    tables = {name: mapping(said.get("packages")) for name, said in stages.items()}
    for package in dict.fromkeys(key for versions in tables.values() for key in versions):
        yield package, _by_value({name: table[package] for name, table in tables.items() if package in table})


def _by_value(values: Mapping[str, Any]) -> dict[str, list[str]]:
    """Stages by the value that they have."""
    found: dict[str, list[str]] = {}
    for stage, value in values.items():
        found.setdefault("not told" if value is None else str(value), []).append(stage)
    return found


def _told(values: Mapping[str, Sequence[str]]) -> str:
    """The most frequent value, then the others with their stages."""
    ranked = sorted(values.items(), key=lambda item: -len(item[1]))
    first = line(ranked[0][0])
    others = [f"{line(value)} <span class='quiet'>({_stages(names)})</span>" for value, names in ranked[1:5]]
    return "<br>".join([first, *others])


def _stages(names: Sequence[str]) -> str:
    shown = ", ".join(line(name, 60) for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
