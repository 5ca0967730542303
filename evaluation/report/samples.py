"""What a page shows of completions and searches: a few, chosen by rule, of tables of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path

from data.rollouts import REWARD_PREFIX, Rollout, logged_steps, rollout_from_row, rollout_path
from evaluation.report.folder import FoundStage
from evaluation.report.rollout_cards import attempt_card, group_section
from evaluation.report.rollouts import Group, Judged
from evaluation.report.table_rows import check_columns, columns_of, open_table, rows_at
from evaluation.report.tree_drawing import Drawing
from evaluation.report.tree_page import problem_section
from evaluation.report.tree_shape import shape
from evaluation.report.trees import TreeChoice, select_trees

LONGEST_CHARACTERS = 4_000
"""Longer texts are cut in the middle."""
CARDS = 4
"""Completions of a group."""
LARGEST_GROUP = 256
"""Completions of a group that are read."""
MOST_ROWS = 100_000
"""Of a table, among which a few are chosen."""
TREE_NODES = 60
_SETTINGS = 3
_ATTEMPT = {
    **dict.fromkeys(("id", "question", "answer", "text", "extracted", "verdict", "finish_reason"), "string"),
    **dict.fromkeys(("index", "completion_tokens", "thinking_tokens"), "integer"),
}
_KINDS: dict[str, Callable[[str, str], bool]] = {
    "right": lambda verdict, finish: verdict == "correct" and finish != "length",
    "wrong": lambda verdict, finish: verdict == "wrong" and finish != "length",
    "truncated": lambda verdict, finish: finish == "length",
}
"""What one completion each is shown of, by its verdict and why it ended."""


# ------------------------------------------------------------------ rollouts of GRPO


def rollout_groups(found: FoundStage, name: str) -> Iterator[str]:
    """A group of the first, the middle and the last logged step: the first of it from which there was
    something to learn, else the first. Nothing where the stage logs no rollouts.

    Args:
        name: begins all ids.
    Raises:
        ValueError: a file is not what it should be.
    """
    steps = logged_steps(found.folder)
    for step in dict.fromkeys(steps[i] for i in (0, len(steps) // 2, -1) if steps):
        judged = [Judged(row) for row in _telling_group(rollout_path(found.folder, step))]
        shown = Group(all=judged, chosen=_telling(judged))
        yield f"<h4>after {step:,} steps</h4>" + group_section(
            shown, found.form, LONGEST_CHARACTERS, f"{name}s{step}", level=5
        )


def _telling_group(path: Path) -> list[Rollout]:
    """The first group of a generation from which there was something to learn, else its first."""
    file = open_table(path, _ROLLOUT)
    rewards = [name for name in file.schema_arrow.names if name.startswith(REWARD_PREFIX)]
    check_columns(path.name, file, dict.fromkeys(rewards, "number"))
    rows = list(columns_of(file, ["group", "useful"], rows=MOST_ROWS))
    if not rows:
        raise ValueError(f"{path.name} holds no rollouts")
    best = min(rows, key=lambda row: (not row[1], row[0]))
    places = [place for place, row in enumerate(rows) if row[0] == best[0]][:LARGEST_GROUP]
    found = rows_at(file, places, [*_ROLLOUT, *rewards], nulls=[*_UNTOLD, *rewards])
    return sorted(map(rollout_from_row, found), key=lambda rollout: rollout.index)


_KINDS_OF_FIELDS = {"int": "integer", "bool": "bool", "float": "number", "float | None": "number"}
_ROLLOUT = {
    field.name: _KINDS_OF_FIELDS.get(str(field.type), "string")
    for field in fields(Rollout)
    if field.name != "rewards"
}
_UNTOLD = [field.name for field in fields(Rollout) if str(field.type) == "float | None"]


def _telling(judged: Sequence[Judged]) -> list[Judged]:
    """A few completions with all rewards that there are, the highest first, in the order of the group."""

    def kind(place: int) -> tuple[float, tuple[str, ...]]:
        return -(judged[place].rollout.reward or 0.0), judged[place].traits

    kinds = [list(same) for _, same in groupby(sorted(range(len(judged)), key=kind), kind)]
    kinds = kinds[: CARDS - 1] + kinds[-1:] if len(kinds) > CARDS else kinds
    chosen = [same.pop(0) for same in kinds]
    chosen += [place for same in kinds for place in same][: CARDS - len(chosen)]
    return [judged[place] for place in sorted(chosen)]


# ------------------------------------------------------------------ sampled completions


def sampled_completions(found: FoundStage, name: str) -> Iterator[str]:
    """One completion that is right, one that is wrong and one that was cut off, where there are such, as
    cards side by side. Nothing where the stage has no completions.

    Args:
        name: begins all ids.
    Raises:
        ValueError: the table is not what it should be.
    """
    path = found.folder / "attempts.parquet"
    if not path.is_file():
        return
    file = open_table(path, _ATTEMPT)
    places: dict[str, int] = {}
    for place, values in enumerate(columns_of(file, ["verdict", "finish_reason"], rows=MOST_ROWS)):
        for kind, fits in _KINDS.items():
            if kind not in places and fits(*values):
                places[kind] = place
        if len(places) == len(_KINDS):
            break
    read = sorted(places.values())
    rows = dict(zip(read, rows_at(file, read, list(_ATTEMPT)), strict=True))
    shown = [rows[places[kind]] for kind in _KINDS if kind in places]
    cards = [attempt_card(row, found.form, LONGEST_CHARACTERS) for row in shown]
    if cards:
        yield f"<div class='group' id='{name}'><div class='row' tabindex='0'>{''.join(cards)}</div></div>"


# ------------------------------------------------------------------ search trees


def search_trees(found: FoundStage, name: str) -> Iterator[str]:
    """One problem in a few settings: the first one about which these disagree. Nothing where the stage grew
    no trees.

    Args:
        name: begins all ids.
    Raises:
        ValueError: a table is not what it should be.
    """
    path = found.folder / "searches.parquet"
    if not path.is_file():
        return
    problem, settings = _telling_problem(found)
    open_table(found.folder / "nodes.parquet", _NODE)
    views = [
        select_trees(found.folder, TreeChoice(problem=problem, setting=setting, limit=1))
        for setting in settings
    ]
    trees = [view.trees[0] for view in views]
    yield problem_section(
        [
            Drawing(tree, shape(tree, TREE_NODES), f"{name}t{place}", found.form, LONGEST_CHARACTERS // 4)
            for place, tree in enumerate(trees)
        ],
        level=4,
    )


_SEARCH = {
    **dict.fromkeys(("id", "setting", "strategy"), "string"),
    **dict.fromkeys(("weighted_best_of_n", "majority"), "integer"),
    "correct": "list",
}
_NODE = {
    **dict.fromkeys(("id", "setting", "text", "end"), "string"),
    **dict.fromkeys(("node", "parent", "tokens"), "integer"),
    **dict.fromkeys(("forced", "cut"), "bool"),
    "score": "number",
}


def _telling_problem(found: FoundStage) -> tuple[str, list[str]]:
    """A problem's id, and a setting of each strategy, as many as are shown."""
    file = open_table(found.folder / "searches.parquet", _SEARCH)
    rows = list(columns_of(file, list(_SEARCH), rows=MOST_ROWS))
    if not rows:
        raise ValueError("searches.parquet holds no searches")
    outcomes: dict[str, set[bool]] = {}
    for identity, _, _, weighted, majority, correct in rows:
        winner = weighted if weighted >= 0 else majority
        outcomes.setdefault(identity, set()).add(0 <= winner < len(correct) and bool(correct[winner]))
    problem = next((key for key, right in outcomes.items() if len(right) > 1), rows[0][0])
    settings: dict[str, str] = {}
    for identity, setting, strategy, *_ in rows:
        if identity == problem:
            settings.setdefault(strategy, setting)
    return problem, list(settings.values())[:_SETTINGS]
