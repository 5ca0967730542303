"""Sources: where problems and traces come from.

A source is one entry of a recipe's `sources:` or `benchmarks:`. It names a known set (`id: gsm8k`), a
generator (`id: reasoning_gym/chain_sum`, `small_world`, `small_talk`), any dataset of the hub
(`id: owner/name` with `columns:`), a local file (`path: questions.jsonl` with `columns:`) or a function of
the user's own (`id: package.module:function`). Known sets are looked up in the folder $SLOWTHINK_DATA first,
then on the hub. Rows with role `eval` never reach a training stage.
"""

from __future__ import annotations

import difflib
import os
import random
import re
import typing
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from data.generated import reasoning_gym_problems
from data.known_sets import KNOWN, KnownSet
from data.own_code import load_own_code
from data.recipe import Made, describe, fits
from data.row_files import read_file, read_hub
from data.schema import Attempt, Problem, Rejected, Role, problem_id, rejected, written_completion

COLUMNS = ("question", "answer", "solution", "thinking", "response", "model", "domain", "level")
"""What `columns:` may map from; question and answer are required."""
GENERATORS = ("small_world", "small_talk", "reasoning_gym/<task>")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One entry of a recipe's `sources:` or `benchmarks:`."""

    id: str = ""
    """A known set, a generator, a hub dataset `owner/name`, or `package.module:function` of your own: called
    with `options`, it gives rows, mappings of column to value."""
    path: str = ""
    """A local .jsonl, .json or .parquet file, instead of `id`."""
    split: str = ""
    """Split of the set; a known set with one split needs none."""
    config: str = ""
    """Config of a hub dataset."""
    revision: str = ""
    """Commit or tag of a hub dataset."""
    limit: int | None = None
    """Rows to take (for a generator: problems to make)."""
    seed: int | None = None
    """Draw the `limit` rows at random; without it they are the first ones. Generators: default 0."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of a generator, or of a function of your own."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column -> theirs, for example {question: problem}; the others have the same name as ours."""
    role: Role | None = None
    """train or eval; known sets and generators have one, files and hub datasets must say it."""
    licence: str = ""
    domain: str = ""
    """Domain of every row, where no column gives it."""
    level: str = ""
    """Level of every row, where no column gives it."""
    weight: float = 1.0
    """Share of the rows to take, drawn at random; instead of `limit`."""
    trace: Literal["", "solution", "answer"] = ""
    """`solution`: the solution written by a person is also a trace, with the boxed answer as response.
    `answer`: so is the answer, as a response without thinking (instructions, chat); its verdict is
    unverifiable."""
    key: str = "source"
    """Where the entry stands in the recipe, for messages; not part of the entry."""

    @property
    def name(self) -> str:
        """What `Problem.source` and messages say, for example `gsm8k/train`."""
        if self.path:
            return self.path
        one_split = self.id in KNOWN and len(KNOWN[self.id].splits) == 1
        return self.id if one_split or not self.split else f"{self.id}/{self.split}"


# ------------------------------------------------------------------ entries of a recipe


def parse_sources(entries: Iterable[Any], key: str) -> list[Source]:
    """All entries of a recipe's list `key`; see `parse_source`."""
    return [parse_source(entry, f"{key}[{i}]") for i, entry in enumerate(entries)]


def parse_source(entry: Any, key: str) -> Source:
    """Check one entry and fill in what a known set knows.

    Raises:
        ValueError: unknown key or set (with the nearest name), wrong type, or a missing key; names `key`.
    """
    source = read_entry(Source, entry, key, COLUMNS, "{id: gsm8k, split: train}")
    if not 0 < source.weight <= 1:
        raise ValueError(f"{key}.weight: {source.weight} is not a share above 0, up to 1")
    if source.weight < 1 and source.limit is not None:
        raise ValueError(f"{key}.weight: give either `weight` or `limit`")
    if source.id in KNOWN:
        return _complete_known(source, KNOWN[source.id])
    if is_generator(source.id):
        return _complete_generator(source)
    return _complete_free(source)


def read_entry(made: type[Made], entry: Any, key: str, columns: Iterable[str], example: str) -> Made:
    """An entry as a dataclass with id, path, limit, columns and key.

    Args:
        columns: what its `columns:` may map from.
        example: an entry, for the message.
    Raises:
        ValueError: unknown key or column (with the nearest name), wrong type, both or neither of id and path,
            or no rows asked for; names `key`.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{key}: {entry!r} is not a mapping; write for example {example}")
    hints = {k: v for k, v in typing.get_type_hints(made).items() if k != "key"}
    for name, value in entry.items():
        if name not in hints:
            raise ValueError(f"{key}.{name}: unknown key; {nearest(name, hints)}")
        if not fits(value, hints[name]):
            raise ValueError(f"{key}.{name}: {value!r} is not {describe(hints[name])}")
    source = typing.cast(Any, made)(**entry, key=key)
    if bool(source.id) == bool(source.path):
        raise ValueError(f"{key}: give either `id` or `path`")
    if source.limit is not None and source.limit < 1:
        raise ValueError(f"{key}.limit: {source.limit} is less than 1")
    for name, column in source.columns.items():
        if name not in columns:
            raise ValueError(f"{key}.columns.{name}: unknown column; {nearest(name, columns)}")
        if not isinstance(column, str):
            raise ValueError(f"{key}.columns.{name}: {column!r} is not the name of a column")
    return source


def is_generator(id: str) -> bool:
    """Whether a source of this id makes its problems."""
    return id in ("small_world", "small_talk") or id.startswith("reasoning_gym/")


def _complete_known(source: Source, known: KnownSet) -> Source:
    key = source.key
    split = source.split or ("train" if "train" in known.splits else next(iter(known.splits)))
    if split not in known.splits:
        raise ValueError(f"{key}.split: {source.id} has no split {split!r}; {nearest(split, known.splits)}")
    role = known.splits[split].role
    if role == "eval" and source.role == "train":
        raise ValueError(
            f"{key}.role: {source.id}/{split} is a benchmark, its rows may not train; drop `role:`"
        )
    return replace(
        source,
        split=split,
        role=source.role or role,
        licence=source.licence or known.licence,
    )


def _complete_generator(source: Source) -> Source:
    key = source.key
    split = generator_split(source.split, source.role, key)
    if source.limit is None:
        raise ValueError(f"{key}.limit: say how many problems {source.id} shall make")
    if source.columns or source.trace:
        raise ValueError(f"{key}: a generator has no columns and no solutions; drop `columns:` and `trace:`")
    return replace(source, split=split, role=split, seed=source.seed or 0)


def generator_split(split: str, role: Role | None, key: str) -> Role:
    """The split of a generator's entry, which is also its role.

    Raises:
        ValueError: no such split, or another role.
    """
    split = split or "train"
    if split not in ("train", "eval"):
        raise ValueError(f"{key}.split: {split!r} is not one of train, eval")
    if role not in (None, split):
        raise ValueError(f"{key}.role: split {split!r} of a generator has role {split!r}; drop `role:`")
    return typing.cast(Role, split)


def _complete_free(source: Source) -> Source:
    key = source.key
    if source.id and source.id.count("/") != 1 and not is_own(source):
        names = [*KNOWN, *GENERATORS]
        raise ValueError(
            f"{key}.id: {source.id!r} is no known set and no hub dataset `owner/name`; "
            f"{nearest(source.id, names)}"
        )
    alias = (
        next((name for name, known in KNOWN.items() if known.hub == source.id), None) if source.id else None
    )
    hint = f"; or write `id: {alias}`, whose columns are known" if alias else ""
    if source.role is None:
        raise ValueError(
            f"{key}.role: say `role: train` or `role: eval`; eval rows are refused by training{hint}"
        )
    on_hub = not source.path and not is_own(source)
    if not on_hub and (source.split or source.config or source.revision):
        raise ValueError(
            f"{key}: split, config and revision belong to hub datasets, not to a file or a function"
        )
    return replace(
        source, split=source.split or ("train" if on_hub else ""), licence=source.licence or "unknown"
    )


def is_own(source: Source) -> bool:
    """Whether its rows come from a function of the user's own."""
    return ":" in source.id


def nearest(name: str, valid: Iterable[str]) -> str:
    """For messages: the name that was meant, or all of them."""
    names = list(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"valid: {', '.join(names)}"


# ------------------------------------------------------------------ loading


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


def load_traces(source: Source) -> list[Attempt]:
    """Traces of a source, empty where it has none; see `load`."""
    return load(source).traces


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


def take(rows: list[Any], limit: int, seed: int | None) -> list[Any]:
    """`limit` rows in their order: the first ones, or drawn by a seed."""
    if seed is None:
        return rows[:limit]
    return [rows[i] for i in sorted(random.Random(f"limit {seed}").sample(range(len(rows)), limit))]


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


# ------------------------------------------------------------------ roles


def refuse_eval_rows(rows: Iterable[Problem], where: str) -> None:
    """Refuse to go on with benchmark questions.

    Raises:
        ValueError: a row has role `eval`; names `where` and the sources with their counts.
    """
    counts = Counter(problem.source or "unnamed source" for problem in rows if problem.role == "eval")
    if counts:
        names = ", ".join(f"{name} ({count} rows)" for name, count in sorted(counts.items()))
        raise ValueError(
            f"{where}: holds rows with role eval, which may not train: {names}; leave these sources out"
        )
