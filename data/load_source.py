"""Rows of a source (data/sources.py) as problems and traces.

Known sets are looked up in the folder $SLOWTHINK_DATA first, then on the hub. A row that cannot be a problem
is rejected by itself, with the rule and the evidence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.generated import reasoning_gym_problems
from data.known_sets import KNOWN
from data.own_code import load_own_code
from data.row_files import read_file, read_hub, take
from data.schema import Attempt, Problem, Rejected, problem_id, rejected, written_completion
from data.sources import COLUMNS, Source, is_generator, is_own


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a source gave."""

    rows_in: int
    problems: list[Problem]
    traces: list[Attempt]
    rejected: list[Rejected]


class _BadRowError(Exception):
    """A row that cannot be a problem: (rule, evidence)."""


def load_problems(source: Source) -> tuple[list[Problem], list[Rejected]]:
    """Problems of a source, and the rows that are none; see `load`."""
    loaded = load(source)
    return loaded.problems, loaded.rejected


def load(source: Source) -> Loaded:
    """Read or generate a source.

    A trace from a column has the verdict `unverifiable` until it is verified; one made of the gold solution
    is `correct`. The requests of `small_talk` come with their best replies as traces without thinking, which
    are `unverifiable`. Token counts are 0 and `text` is empty: no tokenizer and no thinking format is known
    here. Rows are rejected one by one as not_an_object, missing_question, question_not_text, missing_answer,
    answer_not_text.

    Raises:
        ValueError: no such file or dataset, unreadable or empty, or a column that no row has.
    """
    if is_generator(source.id):
        return _generate(source)
    rows, where = _rows(source)
    if not rows:
        raise ValueError(f"{source.key}: {where} has no rows")
    columns = _find_columns(source, rows, where)
    if source.weight < 1:
        rows = take(rows, max(1, round(source.weight * len(rows))), source.seed or 0)
    elif source.limit is not None and source.limit < len(rows):
        rows = take(rows, source.limit, source.seed)
    problems, traces, bad = [], [], []
    for row in rows:
        try:
            problem, trace = _read_row(row, source, columns)
        except _BadRowError as error:
            rule, evidence = error.args
            bad.append(
                rejected(row if isinstance(row, dict) else {"row": row}, rule, f"{source.name}: {evidence}")
            )
            continue
        problems.append(problem)
        if trace is not None:
            traces.append(trace)
    return Loaded(rows_in=len(rows), problems=problems, traces=traces, rejected=bad)


def _find_columns(source: Source, rows: list[Any], where: str) -> dict[str, str]:
    """Our column -> the one that the rows have; known sets may lack what no stage depends on."""
    present = set().union(*(row.keys() for row in rows if isinstance(row, dict)))
    known = KNOWN[source.id].columns if source.id in KNOWN else {}
    given = {name: (column,) for name, column in source.columns.items()}
    candidates = {**(known or {name: (name,) for name in COLUMNS}), **given}
    needed = {"question", "answer", *given, *(["thinking"] if "thinking" in known else [])}
    needed |= {"solution"} if source.trace == "solution" else set()
    found = {}
    for name, columns in candidates.items():
        column = next((c for c in columns if c in present), None)
        if column is not None:
            found[name] = column
        elif name in needed:
            raise ValueError(
                f"{source.key}.columns.{name}: {where} has no column {' or '.join(map(repr, columns))}; "
                f"it has {', '.join(sorted(present)) or 'none'}"
            )
    return found


def _read_row(row: Any, source: Source, columns: dict[str, str]) -> tuple[Problem, Attempt | None]:
    if not isinstance(row, dict):
        raise _BadRowError(
            "not_an_object", f"a row is a {type(row).__name__}, not a mapping of column to value"
        )
    values: dict[str, Any] = {name: row.get(column) for name, column in columns.items()}
    for name in ("question", "answer"):
        if values[name] is None:
            raise _BadRowError(f"missing_{name}", f"column {columns[name]!r} is empty")
    if not isinstance(values["question"], str):
        raise _BadRowError("question_not_text", f"{columns['question']!r} is {values['question']!r}")
    values["answer"] = _answer_text(values["answer"], columns["answer"])
    if source.id in KNOWN:
        values = KNOWN[source.id].adapt(values, row)
    for name in ("question", "answer"):
        if not (values[name] or "").strip():
            raise _BadRowError(
                f"missing_{name}",
                f"no {name} in column {columns[name]!r}: {str(row[columns[name]])[-200:]!r}",
            )
    problem = Problem(
        id=problem_id(values["question"]),
        question=values["question"].strip(),
        answer=values["answer"].strip(),
        solution=_text(values.get("solution")),
        source=source.name,
        licence=source.licence,
        role=source.role or "train",
        domain=_text(values.get("domain")) or source.domain,
        level=_text(values.get("level")) or source.level,
    )
    return problem, _trace(problem, values, source)


def _answer_text(answer: Any, column: str) -> str:
    if isinstance(answer, float) and answer.is_integer():
        return str(int(answer))
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or answer != answer:
        raise _BadRowError("answer_not_text", f"{column!r} is {answer!r}")
    return str(answer)


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _trace(problem: Problem, values: Mapping[str, Any], source: Source) -> Attempt | None:
    if source.trace == "solution":
        thinking = re.sub(r"<<[^<>]*>>", "", problem.solution)  # GSM8K's calculator marks
        response, model = f"\\boxed{{{problem.answer}}}", source.name
        verdict, extracted = "correct", problem.answer
    elif source.trace == "answer":
        return _plain_answer(problem)
    elif "thinking" in values:
        thinking, response = _text(values["thinking"]), _text(values.get("response"))
        model = _text(values.get("model")) or source.name
        verdict, extracted = "unverifiable", ""
    else:
        return None
    completion = written_completion(thinking, response, model)
    return Attempt(problem=problem, index=0, completion=completion, verdict=verdict, extracted=extracted)


def _rows(source: Source) -> tuple[list[Any], str]:
    """All rows, and where they were read for messages."""
    if source.path:
        return read_file(Path(source.path), source.key), source.path
    if is_own(source):
        return _own_rows(source), source.id
    known = KNOWN.get(source.id)
    root = os.environ.get("SLOWTHINK_DATA", "")
    if known is None:
        return read_hub(
            source.id, source.config, source.split, source.revision, source.key
        ), f"hub dataset {source.id}"
    split = known.splits[source.split]
    path = Path(root) / split.file
    if root and path.exists():
        return read_file(path, source.key), str(path)
    if not known.hub:
        raise ValueError(
            f"{source.key}: {source.id} is not on the hub; put {split.file} under the folder $SLOWTHINK_DATA "
            f"({root or 'not set'}) or give your own copy with `path:`"
        )
    rows = read_hub(
        known.hub, source.config or known.config, split.hub, source.revision, source.key, split.file
    )
    return rows, f"hub dataset {known.hub}"


def _own_rows(source: Source) -> list[Any]:
    function = load_own_code(source.id, f"{source.key}.id")
    try:
        return list(function(**source.options))
    except (TypeError, ValueError) as error:  # TypeError: an option that it does not have, or no rows
        raise ValueError(f"{source.key}: {source.id}: {error}") from error


def _generate(source: Source) -> Loaded:
    assert source.limit is not None, "parse_source demands a limit"
    assert source.seed is not None, "parse_source sets the seed"
    assert source.role is not None, "parse_source sets the role"
    try:
        if source.id == "small_world":
            from data.small_world import generate_problems

            problems = generate_problems(source.limit, source.seed, source.role, **source.options)
        elif source.id == "small_talk":
            from data.small_talk import generate_talk

            problems = generate_talk(source.limit, source.seed, source.role, **source.options)
        else:
            task = source.id.removeprefix("reasoning_gym/")
            problems = reasoning_gym_problems(task, source.limit, source.seed, source.role, source.options)
    except (TypeError, ValueError) as error:  # TypeError: an option that the generator does not have
        raise ValueError(f"{source.key}: {source.id}: {error}") from error
    problems = [
        replace(p, domain=source.domain or p.domain, licence=source.licence or p.licence) for p in problems
    ]
    traces = [_plain_answer(p) for p in problems] if source.id == "small_talk" else []
    return Loaded(rows_in=len(problems), problems=problems, traces=traces, rejected=[])


def _plain_answer(problem: Problem) -> Attempt:
    """The answer as a response without thinking."""
    completion = written_completion("", problem.answer, problem.source)
    return Attempt(problem=problem, index=0, completion=completion, verdict="unverifiable", extracted="")
