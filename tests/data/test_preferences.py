"""Preference data: every standard form of a row, and every row that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.preferences import Preference, load_preferences, parse_preference_source, parse_preference_sources


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def load(folder: Path, rows: list[Any], **entry: Any) -> tuple[list[Preference], list[tuple[str, str]]]:
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = parse_preference_source({"path": str(path), "role": "train", **entry}, "preferences[0]")
    pairs, bad = load_preferences(source)
    return pairs, [(row.rule, row.evidence) for row in bad]


def test_texts_and_conversations(tmp_path: Path) -> None:
    user, good, bad = turn("user", "Hi?"), turn("assistant", "Hello!"), turn("assistant", "No.")
    rows = [
        {"prompt": " Hi?\n", "chosen": "Hello!", "rejected": "No. "},
        {"prompt": [user], "chosen": [good], "rejected": [bad]},
        {"prompt": "Hi?", "chosen": [user, good], "rejected": [user, bad]},
        {"prompt": None, "chosen": [user, good], "rejected": [user, bad]},
        {"chosen": [turn("system", ""), user, good], "rejected": [user, bad]},
        {"prompt": [user], "chosen": "Hello!", "rejected": [user, bad]},
    ]
    pairs, left_out = load(tmp_path, rows)
    assert left_out == []
    assert pairs == [Preference("Hi?", "Hello!", "No.")] * len(rows)


def test_other_columns(tmp_path: Path) -> None:
    rows = [{"instruction": "Hi?", "best": "Hello!", "worst": "No."}]
    columns = {"question": "instruction", "chosen": "best", "rejected": "worst"}
    assert load(tmp_path, rows, columns=columns)[0] == [Preference("Hi?", "Hello!", "No.")]
    with pytest.raises(
        ValueError, match=r"preferences\[0\].columns.chosen: .* has no column 'chosen'; it has"
    ):
        load(tmp_path, rows)
    with pytest.raises(ValueError, match=r"columns.question: .* has no column 'q'; it has best, instruction"):
        load(tmp_path, rows, columns={**columns, "question": "q"})


@pytest.mark.parametrize(
    ("row", "rule", "evidence"),
    [
        (["Hi?"], "not_an_object", "a row is a list"),
        ({"prompt": None, "chosen": "a", "rejected": "b"}, "missing_question", "neither a question"),
        ({"prompt": "q", "chosen": " ", "rejected": "b"}, "missing_chosen", "'chosen' has no answer"),
        ({"prompt": "q", "chosen": "a"}, "missing_rejected", "'rejected' has no answer"),
        (
            {"prompt": "q", "chosen": [turn("user", "q")], "rejected": "b"},
            "missing_chosen",
            "'chosen' has no answer",
        ),
        ({"prompt": "q", "chosen": 3, "rejected": "b"}, "not_text", "3 is neither a text nor a list"),
        ({"prompt": "q", "chosen": ["a"], "rejected": "b"}, "not_text", "neither a text nor a list"),
        ({"prompt": "q", "chosen": [turn("tool", "a")], "rejected": "b"}, "not_text", "no message of user"),
        (
            {"prompt": [turn("user", "q"), turn("user", "r")], "chosen": "a", "rejected": "b"},
            "several_turns",
            "a second turn: 'r'",
        ),
        (
            {"prompt": [turn("assistant", "hi"), turn("user", "q")], "chosen": "a", "rejected": "b"},
            "several_turns",
            "a second turn: 'q'",
        ),
        (
            {"prompt": [turn("user", "q"), turn("assistant", "hm")], "chosen": "a", "rejected": "b"},
            "several_turns",
            "'prompt' has an answer too: 'hm'",
        ),
        (
            {"prompt": [turn("system", "Be rude."), turn("user", "q")], "chosen": "a", "rejected": "b"},
            "system_message",
            "set system_prompt",
        ),
        (
            {"prompt": "q", "chosen": [turn("user", "r"), turn("assistant", "a")], "rejected": "b"},
            "question_mismatch",
            "['q', 'r']",
        ),
        ({"prompt": "q", "chosen": "a\n", "rejected": "a"}, "same_text", "both are 'a'"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, row: Any, rule: str, evidence: str) -> None:
    good = {"prompt": "Hi?", "chosen": "Hello!", "rejected": "No."}
    pairs, [(found, why)] = load(tmp_path, [good, row])
    assert pairs == [Preference("Hi?", "Hello!", "No.")]
    assert found == rule
    assert evidence in why
    assert "pairs.jsonl: " in why


def test_some_of_the_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}?", "chosen": "a", "rejected": "b"} for i in range(20)]
    first, drawn, again = (load(tmp_path, rows, limit=5, seed=seed)[0] for seed in (None, 3, 3))
    assert [pair.question for pair in first] == ["0?", "1?", "2?", "3?", "4?"]
    assert drawn == again != first


def test_pairs_of_small_talk() -> None:
    def made(**entry: Any) -> list[Preference]:
        pairs, bad = load_preferences(parse_preference_source({"id": "small_talk", **entry}, "p"))
        assert not bad
        return pairs

    assert made(limit=5) == made(limit=5, seed=0) == made(limit=9)[:5] != made(limit=5, seed=1)
    train, held_out = made(limit=50), made(limit=50, split="eval")
    assert not {pair.question for pair in train} & {pair.question for pair in held_out}
    assert all(pair.chosen != pair.rejected for pair in train)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("pairs.jsonl", r"preferences\[0\]: 'pairs.jsonl' is not a mapping"),
        ({"path": "p.jsonl", "id": "a/b"}, "give either `id` or `path`"),
        ({"role": "train"}, "give either `id` or `path`"),
        ({"path": "p.jsonl"}, r"preferences\[0\].role: say `role: train` or `role: eval`"),
        ({"id": "owner/name"}, r"preferences\[0\].role: say"),
        (
            {"id": "nowhere", "role": "train"},
            "'nowhere' is neither a hub dataset `owner/name` nor",
        ),
        ({"path": "p.jsonl", "role": "train", "colums": {}}, "colums: unknown key; did you mean 'columns'"),
        ({"path": "p", "role": "train", "columns": {"prompt": "q"}}, "columns.prompt: unknown column"),
        ({"path": "p", "role": "train", "columns": {"chosen": 3}}, "columns.chosen: 3 is not the name"),
        ({"path": "p", "role": "train", "limit": 0}, "limit: 0 is less than 1"),
        ({"path": "p", "role": "train", "split": "train"}, "belong to hub datasets, not to a file"),
        ({"path": "p", "role": "test"}, "role: 'test' is not one of|role: 'test' is not of type"),
        ({"id": "small_talk"}, "limit: say how many pairs small_talk shall make"),
        ({"id": "small_talk", "limit": 3, "split": "test"}, "split: 'test' is not one of train, eval"),
        ({"id": "small_talk", "limit": 3, "role": "eval"}, "split 'train' of a generator has role 'train'"),
        ({"id": "small_talk", "limit": 3, "config": "c"}, "a generator has no columns, config and revision"),
    ],
)
def test_mistakes_in_an_entry(entry: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_preference_sources([entry], "preferences")


def test_files_without_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"preferences\[0\]: .* has no rows"):
        load(tmp_path, [])
    absent = parse_preference_source({"path": str(tmp_path / "no.jsonl"), "role": "train"}, "p")
    with pytest.raises(ValueError, match=r"p\.path: .* does not exist"):
        load_preferences(absent)
