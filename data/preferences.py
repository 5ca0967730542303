"""Preference data: questions with an answer that was chosen and one that was rejected.

A source is one entry of a recipe's `preferences:`. It names a local file (`path: pairs.jsonl`), a hub dataset
(`id: owner/name`) or the generator `small_talk`. Rows are in the field's standard form, that of TRL's
RewardTrainer and DPOTrainer: columns prompt, chosen and rejected, as texts or as conversations (lists of
{role, content}); a prompt that chosen and rejected both begin with may be left out. Rows of role `eval` never
train.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data.row_files import read_file, read_hub, take
from data.schema import Rejected, Role, rejected
from data.sources import check_columns, generator_split, read_entry

COLUMNS = {"question": "prompt", "chosen": "chosen", "rejected": "rejected"}
"""Our column -> its usual name."""
GENERATOR = "small_talk"


@dataclass(frozen=True, kw_only=True)
class PreferenceSource:
    """One entry of a recipe's `preferences:`."""

    id: str = ""
    """A hub dataset `owner/name`, or small_talk, which makes its pairs."""
    path: str = ""
    """A local .jsonl, .json or .parquet file, instead of `id`."""
    split: str = ""
    """Split of the set; train where it is not given."""
    config: str = ""
    """Config of a hub dataset."""
    revision: str = ""
    """Commit or tag of a hub dataset."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column -> theirs: question, chosen and rejected; by default {question: prompt, chosen: chosen,
    rejected: rejected}."""
    limit: int | None = None
    """Rows to take (small_talk: pairs to make)."""
    seed: int | None = None
    """Draw the `limit` rows at random; without it they are the first ones. small_talk: default 0."""
    role: Role | None = None
    """train or eval; files and hub datasets must say it."""
    key: str = "source"
    """Where the entry stands in the recipe, for messages; not part of the entry."""

    @property
    def name(self) -> str:
        """What messages say."""
        return self.path or self.id


class Preference(typing.NamedTuple):
    """Two answers to a question."""

    question: str
    chosen: str
    rejected: str


# ------------------------------------------------------------------ entries of a recipe


def parse_preference_sources(entries: Iterable[Any], key: str) -> list[PreferenceSource]:
    """All entries of a recipe's list `key`; see `parse_preference_source`."""
    return [parse_preference_source(entry, f"{key}[{i}]") for i, entry in enumerate(entries)]


def parse_preference_source(entry: Any, key: str) -> PreferenceSource:
    """Check one entry.

    Raises:
        ValueError: unknown key or column (with the nearest name), wrong type, or a missing key; names `key`.
    """
    source = read_entry(PreferenceSource, entry, key, "{path: p.jsonl, role: train}")
    check_columns(source.columns, COLUMNS, key)
    return _complete_generator(source) if source.id == GENERATOR else _complete_free(source)


def _complete_generator(source: PreferenceSource) -> PreferenceSource:
    key = source.key
    split = generator_split(source.split, source.role, key)
    if source.limit is None:
        raise ValueError(f"{key}.limit: say how many pairs {source.id} shall make")
    if source.columns or source.config or source.revision:
        raise ValueError(f"{key}: a generator has no columns, config and revision; drop them")
    return replace(source, split=split, role=split, seed=source.seed or 0)


def _complete_free(source: PreferenceSource) -> PreferenceSource:
    key = source.key
    if source.id and source.id.count("/") != 1:
        raise ValueError(f"{key}.id: {source.id!r} is neither a hub dataset `owner/name` nor {GENERATOR}")
    if source.role is None:
        raise ValueError(f"{key}.role: say `role: train` or `role: eval`; eval rows are refused by training")
    if source.path and (source.split or source.config or source.revision):
        raise ValueError(f"{key}: split, config and revision belong to hub datasets, not to a file")
    return replace(source, split=source.split or ("" if source.path else "train"))


# ------------------------------------------------------------------ loading


class _BadRowError(Exception):
    """A row that is no preference: (rule, evidence)."""


def load_preferences(source: PreferenceSource) -> tuple[list[Preference], list[Rejected]]:
    """Read or make a source's pairs.

    Rows are rejected one by one as not_an_object, missing_question, missing_chosen, missing_rejected,
    not_text, several_turns, system_message, question_mismatch, same_text.

    Raises:
        ValueError: no such file or dataset, unreadable or empty, or a column that no row has.
    """
    if source.id == GENERATOR:
        from data.small_talk import generate_preferences

        assert source.limit is not None, "parse_preference_source demands a limit"
        assert source.role is not None, "parse_preference_source sets the role"
        made = generate_preferences(source.limit, source.seed or 0, source.role)
        return [Preference(*triple) for triple in made], []
    if source.path:
        rows = read_file(Path(source.path), source.key)
    else:
        rows = read_hub(source.id, source.config, source.split, source.revision, source.key)
    if not rows:
        raise ValueError(f"{source.key}: {source.name} has no rows")
    columns = _find_columns(source, rows)
    if source.limit is not None and source.limit < len(rows):
        rows = take(rows, source.limit, source.seed)
    pairs, bad = [], []
    for row in rows:
        try:
            pairs.append(_read_row(row, columns))
        except _BadRowError as error:
            rule, evidence = error.args
            shown = row if isinstance(row, dict) else {"row": row}
            bad.append(rejected(shown, rule, f"{source.name}: {evidence}"))
    return pairs, bad


def _find_columns(source: PreferenceSource, rows: list[Any]) -> dict[str, str]:
    """Our column -> theirs. Without a column of questions they are in the conversations."""
    present = set().union(*(row.keys() for row in rows if isinstance(row, dict)))
    columns = {**COLUMNS, **source.columns}
    for name, column in columns.items():
        if column not in present and (name != "question" or name in source.columns):
            raise ValueError(
                f"{source.key}.columns.{name}: {source.name} has no column {column!r}; it has "
                f"{', '.join(sorted(present)) or 'none'}"
            )
    return {name: column for name, column in columns.items() if column in present}


def _read_row(row: Any, columns: Mapping[str, str]) -> Preference:
    if not isinstance(row, dict):
        raise _BadRowError("not_an_object", f"a row is a {type(row).__name__}, not a mapping")
    asked = _turns(row.get(columns.get("question", "")), "user")
    chosen, other = (_turns(row.get(columns[name]), "assistant") for name in ("chosen", "rejected"))
    if "assistant" in asked:
        raise _BadRowError(
            "several_turns", f"{columns['question']!r} has an answer too: {asked['assistant']!r}"
        )
    questions = {turns["user"].strip() for turns in (asked, chosen, other) if turns.get("user", "").strip()}
    if len(questions) > 1:
        raise _BadRowError("question_mismatch", f"there are different questions: {sorted(questions)}")
    if not questions:
        raise _BadRowError("missing_question", "neither a question nor a conversation that has one")
    replies = []
    for name, turns in (("chosen", chosen), ("rejected", other)):
        if not turns.get("assistant", "").strip():
            raise _BadRowError(f"missing_{name}", f"column {columns[name]!r} has no answer")
        replies.append(turns["assistant"].strip())
    if replies[0] == replies[1]:
        raise _BadRowError("same_text", f"both are {replies[0]!r}")
    return Preference(questions.pop(), *replies)


def _turns(value: Any, role: str) -> dict[str, str]:
    """Text by role: of a text, which is of `role`, or of a conversation with at most one turn of each."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {role: value}
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise _BadRowError("not_text", f"{value!r} is neither a text nor a list of messages")
    turns: dict[str, str] = {}
    for message in value:
        who, content = message.get("role"), message.get("content")
        if who not in ("user", "assistant", "system") or not isinstance(content, str):
            raise _BadRowError("not_text", f"{message!r} is no message of user or assistant with a text")
        if who == "system":
            if content.strip():
                raise _BadRowError("system_message", f"set system_prompt for all rows, not {content!r}")
            continue
        if who in turns or (who == "user" and "assistant" in turns):
            raise _BadRowError("several_turns", f"a second turn: {content!r}")
        turns[who] = content
    return turns
