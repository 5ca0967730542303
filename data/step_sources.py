"""Sources of labelled solutions: published sets, files in their formats, and our own step_labels tables.

A source is one entry of a recipe's `sources:` or `sets:`. It names a known set (`id: processbench/gsm8k`), a
hub dataset (`id: trl-lib/prm800k` with `form: stepwise`), a file (`path: labels.jsonl` with `form:`) or the
folder of a stage that wrote step_labels.parquet (`path: run:01_collect_steps`). Known sets are looked up in
the folder $SLOWTHINK_DATA first, then on the hub. Solutions of role `eval` never train.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.did_you_mean import did_you_mean
from data.known_steps import KNOWN_STEPS
from data.row_files import read_file, read_hub, take
from data.schema import Problem, Rejected, Role, problem_id, rejected
from data.sources import read_entry
from data.step_readers import FORMS, BadRowError, Neutral, PrmOptions, Reading
from data.step_tables import HELD_OUT, TABLE
from data.steps import LabelledSolution, fault, labelled_from_row
from data.store import iterate_rows, table_path


@dataclass(frozen=True, kw_only=True)
class StepSource:
    """One entry of a recipe's list of labelled solutions."""

    id: str = ""
    """A known set, or a hub dataset `owner/name`."""
    path: str = ""
    """A local .jsonl, .json or .parquet file, or a stage folder with step_labels.parquet, instead of `id`."""
    form: str = ""
    """Format of a file or hub dataset: step_labels (ours), stepwise (TRL's), prm800k, prm800k_decoded,
    math_shepherd, processbench, bigbench_mistake or mr_ben; known sets and stage folders need none."""
    split: str = ""
    """Split of a hub dataset (default train); held_out for what stage collect_steps has kept apart."""
    config: str = ""
    """Config of a hub dataset."""
    revision: str = ""
    """Commit or tag of a hub dataset."""
    limit: int | None = None
    """Rows to take."""
    seed: int | None = None
    """Draw the `limit` rows at random; without it they are the first ones."""
    role: Role | None = None
    """train or eval; known sets and our own tables have one, files and hub datasets must say it."""
    licence: str = ""
    labeller: str = ""
    """Who labelled the steps: human, monte_carlo, ..."""
    neutral: Neutral = "right"
    """What a rating of 0 of PRM800K means; its paper counts neutral steps as right."""
    alternatives: bool = False
    """Whether steps of PRM800K that were rated and not chosen end solutions of their own."""
    name: str = ""
    """Name in tables and as `Problem.source`; the id or path where it is not given."""
    key: str = "source"
    """Where the entry stands in the recipe, for messages; not part of the entry."""


# ------------------------------------------------------------------ entries of a recipe


def parse_step_sources(entries: Iterable[Any], key: str) -> list[StepSource]:
    """All entries of a recipe's list `key`; see `parse_step_source`."""
    return [parse_step_source(entry, f"{key}[{i}]") for i, entry in enumerate(entries)]


def parse_step_source(entry: Any, key: str) -> StepSource:
    """Check one entry and fill in what a known set knows.

    Raises:
        ValueError: unknown key, set or form (with the nearest name), wrong type, or a missing key; names
            `key`.
    """
    source = read_entry(StepSource, entry, key, "{id: processbench/gsm8k}")
    source = replace(source, name=source.name or source.id or source.path)
    return _complete_known(source) if source.id in KNOWN_STEPS else _complete_free(source)


def _complete_known(source: StepSource) -> StepSource:
    known = KNOWN_STEPS[source.id]
    if known.split.role == "eval" and source.role == "train":
        raise ValueError(f"{source.key}.role: {source.id} is a benchmark, its rows may not train; drop it")
    if source.form or source.split or source.config:
        raise ValueError(f"{source.key}: {source.id} is a known set; drop form, split and config")
    return replace(
        source,
        form=known.form,
        role=source.role or known.split.role,
        licence=source.licence or known.licence,
        labeller=source.labeller or known.labeller,
    )


def _complete_free(source: StepSource) -> StepSource:
    key, forms = source.key, [TABLE, *FORMS]
    if source.id and source.id.count("/") != 1:
        hint = did_you_mean(source.id, KNOWN_STEPS)
        raise ValueError(f"{key}.id: {source.id!r} is no known set and no hub dataset `owner/name`; {hint}")
    is_file = Path(source.path).suffix in (".jsonl", ".json", ".parquet")
    form = source.form or (TABLE if source.path and not is_file else "")
    if form not in forms:
        hint = did_you_mean(form, forms) if form else f"one of {', '.join(forms)}"
        known = did_you_mean(source.id, KNOWN_STEPS) if source.id else ""
        raise ValueError(f"{key}.form: say the format of {source.name}: {hint}{known and '; or ' + known}")
    if form == TABLE and source.id:
        raise ValueError(f"{key}.form: {TABLE} is our own table; give its folder with `path:`")
    if form != TABLE and source.role is None:
        raise ValueError(f"{key}.role: say `role: train` or `role: eval`; eval rows are refused by training")
    if source.path and (source.config or source.revision or source.split not in ("", HELD_OUT)):
        raise ValueError(f"{key}: split, config and revision belong to hub datasets; only split held_out")
    split = source.split or ("train" if source.id else "")
    return replace(source, form=form, split=split, licence=source.licence or "unknown")


# ------------------------------------------------------------------ loading


@dataclass(frozen=True, kw_only=True)
class LoadedSteps:
    """What a source gave."""

    rows_in: int
    solutions: list[LabelledSolution]
    rejected: list[Rejected]


def load_steps(source: StepSource, separator: str = "\n\n") -> LoadedSteps:
    """Read a source. Rows are rejected one by one by the rules of `data.steps.fault` and by those of the
    readers: not_an_object, malformed, missing_question, not_a_list, no_such_step, label_mismatch,
    no_first_step.

    Raises:
        ValueError: no such file or dataset, unreadable or empty, or a column that no row has.
    """
    rows, where = _rows(source)
    if not rows:
        raise ValueError(f"{source.key}: {where} has no rows")
    if source.form != TABLE:
        _check_columns(source, rows, where)
    if source.limit is not None and source.limit < len(rows):
        rows = take(rows, source.limit, source.seed)
    solutions: list[LabelledSolution] = []
    bad = []
    for row in rows:
        try:
            for solution in _solutions(row, source):
                found = fault(solution.steps, solution.labels, separator)
                if found is None:
                    solutions.append(solution)
                else:
                    bad.append(_rejected(described(solution), *found, source))
        except BadRowError as error:
            rule, evidence = error.args
            bad.append(_rejected(row if isinstance(row, dict) else {"row": row}, rule, evidence, source))
    return LoadedSteps(rows_in=len(rows), solutions=solutions, rejected=bad)


def described(solution: LabelledSolution) -> dict[str, Any]:
    """What is kept of a rejected solution, whatever its labels are."""
    problem = solution.problem
    shown = {"id": problem.id, "question": problem.question, "model": solution.model}
    return {**shown, "steps": list(solution.steps), "labels": list(solution.labels)}


def _rejected(row: Mapping[str, Any], rule: str, evidence: str, source: StepSource) -> Rejected:
    return rejected(row, rule, f"{source.name}: {evidence}")


def _check_columns(source: StepSource, rows: list[Any], where: str) -> None:
    present = set().union(*(row.keys() for row in rows if isinstance(row, dict)))
    missing = [column for column in FORMS[source.form].columns if column not in present]
    if missing:
        raise ValueError(
            f"{source.key}: {where} has no column {', '.join(map(repr, missing))}; form {source.form} needs "
            f"it; there are {', '.join(sorted(present)) or 'none'}"
        )


def _solutions(row: Any, source: StepSource) -> list[LabelledSolution]:
    if not isinstance(row, dict):
        raise BadRowError("not_an_object", f"a row is a {type(row).__name__}, not a mapping")
    try:
        if source.form == TABLE:
            return [_in_role(labelled_from_row(row), source.role)]
        options = PrmOptions(neutral=source.neutral, alternatives=source.alternatives)
        return [_solution(reading, source) for reading in FORMS[source.form].read(row, options)]
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise BadRowError("malformed", f"{type(error).__name__}: {error}") from error


def _solution(reading: Reading, source: StepSource) -> LabelledSolution:
    question = reading.question
    if not isinstance(question, str) or not question.strip():
        raise BadRowError("missing_question", f"the question is {question!r}")
    problem = Problem(
        id=problem_id(question),
        question=question.strip(),
        answer=reading.answer,
        solution=reading.solution,
        source=source.name,
        licence=source.licence,
        role=source.role or "train",
        domain=reading.domain,
        metadata=reading.metadata,
    )
    return LabelledSolution(
        problem=problem,
        steps=tuple(reading.steps),
        labels=tuple(reading.labels),
        right=reading.right,
        model=reading.model,
        labeller=source.labeller,
    )


def _in_role(solution: LabelledSolution, role: Role | None) -> LabelledSolution:
    """The solution in another role; what has role eval keeps it."""
    if role is None or solution.problem.role == "eval":
        return solution
    return replace(solution, problem=replace(solution.problem, role=role))


def _rows(source: StepSource) -> tuple[list[Any], str]:
    """All rows, and where they were read for messages."""
    if source.form == TABLE:
        path = table_path(source.path, source.split or TABLE)
        return list(iterate_rows(path, TABLE)), str(path)
    if source.path:
        return _read(Path(source.path), source), source.path
    known = KNOWN_STEPS.get(source.id)
    if known is None:
        rows = read_hub(source.id, source.config, source.split, source.revision, source.key)
        return rows, f"hub dataset {source.id}"
    root, split = os.environ.get("SLOWTHINK_DATA", ""), known.split
    path = Path(root) / split.file
    if root and path.exists():
        return _read(path, source), str(path)
    if not known.hub:
        raise ValueError(
            f"{source.key}: {source.id} is not on the hub; put {split.file} ({known.home}) under the folder "
            f"$SLOWTHINK_DATA ({root or 'not set'}) or give your own copy with `path:` and `form:`"
        )
    rows = read_hub(known.hub, "", split.hub, source.revision, source.key, split.file)
    return rows, f"hub dataset {known.hub}"


def _read(path: Path, source: StepSource) -> list[Any]:
    """Rows of a file; MR-Ben is one mapping of question to its solutions."""
    if source.form != "mr_ben" or path.suffix == ".parquet" or not path.is_file():
        return read_file(path, source.key)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return read_file(path, source.key)
    groups = content.values() if isinstance(content, dict) else [content]
    return [row for group in groups for row in (group if isinstance(group, list) else [group])]
