"""Sources: where problems and traces come from, as a recipe says it; `data.load_source` reads them.

A source is one entry of a recipe's `sources:` or `benchmarks:`. It names a known set (`id: gsm8k`), a
generator (`id: reasoning_gym/chain_sum`, `small_world`, `small_talk`), any dataset of the hub
(`id: owner/name` with `columns:`), a local file (`path: questions.jsonl` with `columns:`) or a function of
the user's own (`id: package.module:function`). Rows with role `eval` never reach a training stage.
"""

from __future__ import annotations

import typing
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from data.did_you_mean import did_you_mean
from data.field_values import Made, describe, fits
from data.known_sets import KNOWN, KnownSet
from data.schema import Problem, Role

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


def parse_sources(entries: Iterable[Any], key: str) -> list[Source]:
    """All entries of a recipe's list `key`; see `parse_source`."""
    return [parse_source(entry, f"{key}[{i}]") for i, entry in enumerate(entries)]


def parse_source(entry: Any, key: str) -> Source:
    """Check one entry and fill in what a known set knows.

    Raises:
        ValueError: unknown key or set (with the nearest name), wrong type, or a missing key; names `key`.
    """
    source = read_entry(Source, entry, key, "{id: gsm8k, split: train}")
    check_columns(source.columns, COLUMNS, key)
    if not 0 < source.weight <= 1:
        raise ValueError(f"{key}.weight: {source.weight} is not a share above 0, up to 1")
    if source.weight < 1 and source.limit is not None:
        raise ValueError(f"{key}.weight: give either `weight` or `limit`")
    if source.id in KNOWN:
        return _complete_known(source, KNOWN[source.id])
    if is_generator(source.id):
        return _complete_generator(source)
    return _complete_free(source)


def read_entry(made: type[Made], entry: Any, key: str, example: str) -> Made:
    """An entry as a dataclass with id, path, limit and key; `example` is one, for the message.

    Raises:
        ValueError: unknown key (with the nearest name), wrong type, both or neither of id and path, or no
            rows asked for; names `key`.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{key}: {entry!r} is not a mapping; write for example {example}")
    hints = {k: v for k, v in typing.get_type_hints(made).items() if k != "key"}
    for name, value in entry.items():
        if name not in hints:
            raise ValueError(f"{key}.{name}: unknown key; {did_you_mean(name, hints)}")
        if not fits(value, hints[name]):
            raise ValueError(f"{key}.{name}: {value!r} is not {describe(hints[name])}")
    source = typing.cast(Any, made)(**entry, key=key)
    if bool(source.id) == bool(source.path):
        raise ValueError(f"{key}: give either `id` or `path`")
    if source.limit is not None and source.limit < 1:
        raise ValueError(f"{key}.limit: {source.limit} is less than 1")
    return source


def check_columns(columns: Mapping[str, Any], ours: Iterable[str], key: str) -> None:
    """Check what an entry has at `columns:`, a mapping of one of `ours` to the name in the file.

    Raises:
        ValueError: unknown column (with the nearest name), or no name; names `key`.
    """
    for name, column in columns.items():
        if name not in ours:
            raise ValueError(f"{key}.columns.{name}: unknown column; {did_you_mean(name, ours)}")
        if not isinstance(column, str):
            raise ValueError(f"{key}.columns.{name}: {column!r} is not the name of a column")


def is_generator(id: str) -> bool:
    """Whether a source of this id makes its problems."""
    return id in ("small_world", "small_talk") or id.startswith("reasoning_gym/")


def _complete_known(source: Source, known: KnownSet) -> Source:
    key = source.key
    split = source.split or ("train" if "train" in known.splits else next(iter(known.splits)))
    if split not in known.splits:
        raise ValueError(
            f"{key}.split: {source.id} has no split {split!r}; {did_you_mean(split, known.splits)}"
        )
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
            f"{did_you_mean(source.id, names)}"
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
