"""Which search trees `slowthink show STAGE --tree` shows, and what is told of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.thinking import ThinkingFormat
from evaluation.report.folder import read_stage
from evaluation.report.rollout_text import visible
from evaluation.report.tree_nodes import SearchTree, search_tree
from inference.search.results import result_from_row

TREES = 12
"""Shown where no limit is given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeChoice:
    """Which trees to look at."""

    problem: str | None = None
    """Number of a problem from 0, the begin of its id, or all. None: the first one."""
    setting: str | None = None
    """Name of a setting, or a part that several have. None: all settings."""
    limit: int | None = None
    """At most so many trees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeView:
    """What was chosen, and the stage that it is from."""

    folder: Path
    form: ThinkingFormat
    trees: list[SearchTree]
    """Those to look at, at most `choice.limit`."""
    matching: int
    """How many there are without the limit."""
    problems: int
    """Of the stage."""


def select_trees(folder: Path, choice: TreeChoice) -> TreeView:
    """Read the chosen searches of a stage with their trees.

    Raises:
        ValueError: no such folder, no trees in it, nothing matches, or a table is damaged.
    """
    if choice.limit is not None and choice.limit < 1:
        raise ValueError(f"--limit: {choice.limit} must be at least 1")
    path = _searches(folder)
    rows = _rows(path, ["id", "setting"])
    if not rows:
        raise ValueError(f"{path} holds no searches; run the stage again")
    ids = list(dict.fromkeys(row["id"] for row in rows))
    settings = _settings(choice.setting, list(dict.fromkeys(row["setting"] for row in rows)))
    problems = _problems(choice.problem, ids)
    searched = {(row["id"], row["setting"]) for row in rows}
    order = [pair for i in problems for s in settings if (pair := (i, s)) in searched]
    if not order:
        raise ValueError(f"{path}: the chosen problem was not searched with the chosen setting")
    shown = order[: choice.limit or TREES]
    form = read_stage(folder).form
    return TreeView(
        folder=folder, form=form, trees=_trees(folder, shown, form), matching=len(order), problems=len(ids)
    )


def _searches(folder: Path) -> Path:
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist; name the folder of a search, runs/<pipeline>/<stage>")
    if (path := folder / "searches.parquet").is_file():
        return path
    beside = sorted(path.parent.name for path in folder.glob("*/searches.parquet"))
    there = f"stages with trees in it: {', '.join(beside)}" if beside else "only stage search writes them"
    raise ValueError(f"{folder}: no search trees here; {there}")


def _problems(wanted: str | None, ids: Sequence[str]) -> list[str]:
    if wanted == "all":
        return list(ids)
    if wanted is None:
        return list(ids[:1])
    if wanted.isdecimal() and int(wanted) < len(ids):
        return [ids[int(wanted)]]
    if wanted and (found := [name for name in ids if name.startswith(wanted)]):
        if len(found) == 1 or wanted in found:
            return [wanted if wanted in found else found[0]]
        raise ValueError(f"--problem: {wanted!r} begins {len(found)} ids: {_listed(found)}")
    raise ValueError(
        f"--problem: {wanted!r} is neither all, nor a number from 0 to {len(ids) - 1}, nor the begin of an "
        f"id; ids are {_listed(ids)}"
    )


def _settings(wanted: str | None, names: list[str]) -> list[str]:
    if wanted is None or wanted in names:
        return names if wanted is None else [wanted]
    if wanted and (found := [name for name in names if wanted in name]):
        return found
    raise ValueError(f"--setting: there is no {wanted!r}; settings are {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(visible, names[:16]))
    return shown + (f" and {len(names) - 16} more" if len(names) > 16 else "")


def _rows(
    path: Path, columns: list[str] | None = None, only: Iterable[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
    """Rows of a table, of these problems and settings; without `datasets`, which takes long to import."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = list(only)
    filters = (
        [("id", "in", {i for i, _ in pairs}), ("setting", "in", {s for _, s in pairs})] if pairs else None
    )
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run the stage again")
    try:
        rows = pq.read_table(
            path, columns=columns, filters=filters, page_checksum_verification=True
        ).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not readable as parquet ({error}); run the stage again") from error
    if columns and rows and (missing := [name for name in columns if name not in rows[0]]):
        raise ValueError(f"{path}: column {missing[0]!r} is missing; run the stage again")
    return rows


def _trees(folder: Path, shown: list[tuple[str, str]], form: ThinkingFormat) -> list[SearchTree]:
    path = folder / "nodes.parquet"
    nodes: dict[tuple[str, str], list[dict[str, Any]]] = {pair: [] for pair in shown}
    try:
        results = {
            (row["id"], row["setting"]): result_from_row(row)
            for row in _rows(folder / "searches.parquet", only=shown)
        }
    except TypeError as error:
        raise ValueError(f"{folder}: a search is not whole ({error}); run the stage again") from error
    except KeyError as error:
        raise _lacking(folder, error) from error
    try:
        for row in _rows(path, only=shown):
            nodes.get((row["id"], row["setting"]), []).append(row)
        return [search_tree(results[pair], nodes[pair], form) for pair in shown]
    except KeyError as error:
        raise _lacking(folder, error) from error


def _lacking(folder: Path, error: KeyError) -> ValueError:
    return ValueError(f"{folder}: its tables lack column {error}; run the stage again")
