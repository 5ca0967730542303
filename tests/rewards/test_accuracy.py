"""Reward accuracy: what is graded, what cannot be, and what is logged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.thinking import FORMATS
from rewards.accuracy import Accuracy, grade
from rewards.verify import verify_many


@pytest.mark.parametrize("name", FORMATS)
def test_only_the_response_is_graded(name: str) -> None:
    form = FORMATS[name]
    texts = [form.render("maybe 41", r"\boxed{42}"), form.render(r"so \boxed{42}", r"\boxed{41}")]
    assert Accuracy(thinking_format=name)(completions=texts, answer=["42", "42"]) == [1.0, 0.0]


def test_an_answer_inside_unfinished_thinking_is_none() -> None:
    completions = ["<think>\nIt is \\boxed{42}", "It is \\boxed{42}"]
    assert Accuracy()(completions=completions, answer=["42", "42"]) == [0.0, 1.0]
    assert Accuracy(thinking_prefilled=True)(completions=completions, answer=["42", "42"]) == [0.0, 0.0]


def test_conversational_completions_are_graded_by_their_last_message() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": []}
    answer = {"role": "assistant", "content": r"\boxed{42}"}
    completions = [[answer], [call, {"role": "tool", "content": "41"}, answer], [call]]
    assert Accuracy()(completions=completions, answer=["42"] * 3) == [1.0, 1.0, 0.0]


def test_thinking_that_the_tokenizer_took_apart_is_refused() -> None:
    completion = [{"role": "assistant", "content": "42", "reasoning_content": "hm"}]
    with pytest.raises(ValueError, match="response_template"):
        Accuracy()(completions=[completion], answer=["42"])


def test_what_cannot_be_judged_is_none() -> None:
    completions = [r"\boxed{42}", r"\boxed{42}", "<think>\n", r"\boxed{\sqrt{3}}"]
    assert Accuracy()(completions=completions, answer=[None, "", None, "three"]) == [None] * 4


def test_numeric_golds_are_accepted_and_other_types_refused() -> None:
    assert Accuracy()(completions=["42", "0.5"], answer=[42, 0.5]) == [1.0, 1.0]
    with pytest.raises(ValueError, match="row 1: the gold answer is of type list"):
        Accuracy()(completions=["42", "0.5"], answer=["42", ["0.5"]])


def test_a_missing_gold_column_names_the_columns_there_are() -> None:
    with pytest.raises(ValueError, match="no column 'solution'; its columns: answer, level"):
        Accuracy(gold="solution")(
            completions=["42"], prompts=["?"], completion_ids=[[1]], answer=["42"], level=["1"]
        )


def test_unknown_thinking_format() -> None:
    with pytest.raises(ValueError, match="thinking_format"):
        Accuracy(thinking_format="tags")


def test_shares_are_logged() -> None:
    logged: dict[str, Any] = {}
    completions = [r"\boxed{1}", "<think>\n", r"\boxed{1}", r"\boxed{2}"]
    Accuracy()(completions=completions, answer=["1", "1", None, "1"], log_metric=logged.__setitem__)
    assert logged == {"accuracy/unverifiable": 0.25, "accuracy/no_answer": 0.25}


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["1", "2", "x+1", "", None]), st.text(max_size=30)), max_size=6))
def test_grading_is_verification_of_the_responses(rows: list[tuple[str | None, str]]) -> None:
    golds, texts = [gold for gold, _ in rows], [text for _, text in rows]
    responses = [FORMATS["answer_tags"].split(text).response for text in texts]
    expected = [verdict.outcome for verdict in verify_many([gold or "" for gold in golds], responses)]
    assert [verdict.outcome for verdict in grade(texts, golds, "answer_tags")] == expected
