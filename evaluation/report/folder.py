"""What a run folder holds, read with doubt: a report is made of folders that are whole and of those that are
not.

Nothing here raises because of what a file holds: what cannot be read is told, and left out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from data.figures import finite
from data.heartbeat import read_heartbeats
from data.recipe import RUN_PREFIX
from data.store import read_json
from data.thinking import THINK_TAGS, ThinkingFormat, thinking_format

LARGEST_JSON_BYTES = 16 * 2**20
"""Manifests and metrics are some kB; a file that is larger is none of them."""
_SIGNS = ("manifest.json", "metrics.json", "log.txt")
"""A folder that has one of them is, or was, a stage's."""


@dataclass(frozen=True, kw_only=True)
class FoundStage:
    """A stage's folder as it was found."""

    folder: Path
    name: str
    """Of the folder, such as 06_grpo."""
    stage: str
    """Such as grpo; empty where no manifest says it."""
    manifest: dict[str, Any]
    """Empty where it is missing or unreadable."""
    metrics: dict[str, Any]
    """Of metrics.json; empty where it is missing or unreadable."""
    status: str
    """Of the manifest, such as finished or failed; "unfinished" where nothing runs any more though it says
    "running"; "missing" without a manifest."""
    problems: tuple[str, ...]
    """What could not be read, for people."""

    @property
    def seconds(self) -> float | None:
        return finite(self.manifest.get("seconds"))

    def time_of(self, key: Literal["started", "ended"]) -> float | None:
        """Seconds since 1970, of its first start or its last end."""
        try:
            found = datetime.fromisoformat(self.manifest[key])
        except (KeyError, TypeError, ValueError):
            return None
        return found.timestamp() if found.tzinfo else None

    @property
    def tokens(self) -> float | None:
        return finite(self.manifest.get("tokens"))

    @property
    def recipe(self) -> dict[str, Any]:
        return mapping(self.manifest.get("recipe"))

    @property
    def form(self) -> ThinkingFormat:
        """The thinking format of its recipe, or that of a recipe that says none.

        Raises:
            ValueError: there is no such format.
        """
        name = self.recipe.get("thinking_format")
        return thinking_format(name) if isinstance(name, str) else THINK_TAGS

    @property
    def read_stages(self) -> list[str]:
        """Those of its inputs that are stages of its run."""
        given = mapping(self.manifest.get("inputs"))
        return [name.removeprefix(RUN_PREFIX) for name in given if name.startswith(RUN_PREFIX)]

    @property
    def inputs(self) -> list[str]:
        """Stages by their names and paths, in the manifest's order."""
        return [name.removeprefix(RUN_PREFIX) for name in mapping(self.manifest.get("inputs"))]


def find_stages(folder: Path) -> list[FoundStage]:
    """The stage that a folder is of, or those of the run that it is of, in the order of their names.

    None where it holds no stage.

    Raises:
        ValueError: it is no folder.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no folder; run folders are runs/<pipeline> and runs/<pipeline>/<stage>"
        )
    if _is_stage(folder):
        return [read_stage(folder)]
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and ".old-" not in path.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror})") from error
    return [read_stage(path) for path in inside if _is_stage(path)]


def _is_stage(folder: Path) -> bool:
    return any(os.path.isfile(folder / name) for name in _SIGNS)  # which refuses nothing


def read_stage(folder: Path) -> FoundStage:
    """A stage's folder; nothing in it needs to be there."""
    problems: list[str] = []
    manifest = _read(folder / "manifest.json", problems)
    stage, status = (manifest.get(key) for key in ("stage", "status"))
    for key, value in (("stage", stage), ("status", status)):
        if manifest and not isinstance(value, str):
            problems.append(f"manifest.json: it does not say its {key}")
    finished = status == "finished"
    return FoundStage(
        folder=folder,
        name=folder.resolve().name,
        stage=stage if isinstance(stage, str) else "",
        manifest=manifest,
        metrics=_read(folder / "metrics.json", problems, needed=finished),
        status=_status(folder, status) if manifest else "missing",
        problems=tuple(problems),
    )


def _read(path: Path, problems: list[str], needed: bool = True) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            problems.append(f"{path.name}: {path.stat().st_size / 2**20:,.0f} MiB is too large to be read")
            return {}
        content = read_json(path)
    except FileNotFoundError:
        if needed:
            problems.append(f"{path.name}: it is missing")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        problems.append(f"{path.name}: {error or type(error).__name__}")
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path.name}: it holds a {type(content).__name__}, not names with values")
        return {}
    return content


def _status(folder: Path, said: Any) -> str:
    """A stage that was killed could not say so: it runs only where one of its processes does."""
    if said != "running":
        return said if isinstance(said, str) else "unknown"
    told = read_heartbeats(folder)
    running = any(
        state.get("host") != socket.gethostname()
        or (isinstance(pid := state.get("pid"), int) and psutil.pid_exists(pid))
        for state in told
    )
    return "running" if running else "unfinished"


def mapping(value: Any) -> dict[str, Any]:
    """A part of a manifest or of metrics that should be names with values; empty where it is not."""
    return dict(value) if isinstance(value, Mapping) else {}
