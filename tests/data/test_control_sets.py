"""Control sets: promises that hold, steps that count down, and rows that cannot have a budget."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.control_sets import (
    LONG,
    SHORT,
    ControlSetsConfig,
    control_sets,
    extend_traces,
    round_up,
    split_steps,
    token_counter,
)
from data.schema import Attempt, Completion, Problem, problem_id
from data.store import read_attempts, read_rows, write_attempts
from data.thinking import FORMATS, thinking_format


def trace(
    thinking: str = "One.\n\nTwo.\n\nThree.", tokens: int = 5, question: str = "Q?", **more: Any
) -> Attempt:
    completion = Completion(
        text="",
        thinking=thinking,
        response="4",
        finish_reason="stop",
        prompt_tokens=1,
        thinking_tokens=tokens,
        completion_tokens=tokens + 2,
        model="m",
        seed=0,
    )
    problem = Problem(id=problem_id(question), question=question, answer="4", metadata={"kept": 1}, **more)
    return Attempt(problem=problem, index=0, completion=completion, verdict="correct", extracted="4")


def config(**fields: Any) -> ControlSetsConfig:
    return ControlSetsConfig(traces="unused", **fields)


@given(st.integers(1, 10**7), st.lists(st.integers(1, 10**7), max_size=5))
def test_a_promise_is_the_smallest_that_is_not_below_the_length(length: int, bins: list[int]) -> None:
    promised = round_up(length, bins)
    if bins and length > max(bins):
        assert promised is None
    elif bins:
        assert promised == sorted([*bins, length])[sorted([*bins, length]).index(length) + 1]
    else:
        assert promised is not None
        assert promised >= length > promised // 2 * (length > 1)
        assert promised & (promised - 1) == 0


STEP = st.text(alphabet="ab .\n", min_size=1, max_size=20)


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"s1"}))
@given(steps=st.lists(STEP, min_size=1, max_size=40))
def test_steps_count_down_to_the_end(name: str, steps: list[str]) -> None:
    thinking = "\n\n".join(steps)
    made, dropped = extend_traces([trace(thinking)], config(kind="steps", thinking_format=name))
    expected = split_steps(thinking)
    if not expected:
        assert [row.rule for row in dropped] == ["no_thinking"]
        return
    [row] = made
    text = row.completion.text
    left = [int(k) for k in re.findall(r"(\d+) steps left", text)]
    assert left == list(range(len(expected), 0, -1))
    promised = int(re.findall(r"Think for up to (\d+) steps\.$", row.problem.question)[0])
    assert promised >= len(expected)
    for k, step in zip(left, expected, strict=True):
        assert f"{k} steps left" in text
        assert step in text.partition(f"{k} steps left")[2]


def test_texts_of_s1_steps_and_of_other_formats() -> None:
    [s1], _ = extend_traces([trace()], config(kind="steps", thinking_format="s1_steps"))
    assert thinking_format("s1_steps").parse(s1.completion.text) == (s1.completion.thinking, "4")
    assert s1.completion.text == (
        "<|im_start|>3 steps left\nOne.\n<|im_start|>2 steps left\nTwo.\n<|im_start|>1 steps left\nThree."
        "\n<|im_start|>answer\n4"
    )
    assert s1.problem.question == "Q? Think for up to 4 steps."
    [tags], _ = extend_traces([trace()], config(kind="steps", thinking_format="think_tags", bins=[3, 10]))
    assert tags.problem.question == "Q? Think for up to 3 steps."
    thinking, response = thinking_format("think_tags").parse(tags.completion.text)
    assert thinking == "[3 steps left]\nOne.\n\n[2 steps left]\nTwo.\n\n[1 steps left]\nThree."
    assert (thinking, response) == (tags.completion.thinking, "4")


def test_the_problem_is_a_new_one_that_names_the_old() -> None:
    [row], _ = extend_traces([trace(tokens=900)], config())
    assert row.problem.question == "Q? Think for up to 1024 tokens."
    assert row.problem.id == problem_id(row.problem.question)
    assert row.problem.metadata == {
        "kept": 1,
        "control": "tokens",
        "control_of": problem_id("Q?"),
        "control_budget": 1024,
        "control_length": 900,
    }
    assert thinking_format("s1").parse(row.completion.text) == (row.completion.thinking, "4")


def test_classes_are_told_apart_at_the_median() -> None:
    rows, _ = extend_traces([trace(tokens=n) for n in (1, 2, 3, 4)], config(kind="class"))
    assert [row.problem.question for row in rows] == [f"Q? {SHORT}"] * 2 + [f"Q? {LONG}"] * 2
    rows, _ = extend_traces([trace(tokens=n) for n in (1, 2)], config(kind="class", long_from_tokens=1))
    assert all(row.problem.question.endswith(LONG) for row in rows)


def test_rows_that_cannot_have_a_budget_are_rejected_by_rule() -> None:
    def rule(row: Attempt, **fields: Any) -> str:
        made, [dropped] = extend_traces([row], config(**fields))
        assert not made
        assert dropped.evidence
        return dropped.rule

    assert rule(trace(tokens=0)) == "uncounted"
    assert rule(trace(tokens=0), kind="class") == "uncounted"
    assert rule(trace(tokens=9), bins=[8]) == "beyond_bins"
    assert rule(trace(" \n\n ")) == "no_thinking"
    assert rule(trace("a <|im_start|> b")) == "tags"
    for inner in ("<|im_start|>", "<|im_end|>", "<|im_start|>answer"):
        assert rule(trace(f"a {inner} b"), kind="steps", thinking_format="s1_steps") == "tags"
    assert rule(trace("[7 steps left] b"), kind="steps", thinking_format="think_tags") == "tags"


def test_stage_counts_with_a_tokenizer_and_writes_what_it_dropped(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(tmp_path / "model")
    write_attempts(tmp_path / "in", [trace(tokens=0), trace("", question="Empty?")], "traces")
    metrics = control_sets(
        ControlSetsConfig(traces=str(tmp_path / "in"), tokenizer=str(tmp_path / "model")), tmp_path / "out"
    )
    assert (metrics["rows_in"], metrics["rows_out"], metrics["rules"]) == (2, 1, {"no_thinking": 1})
    [row] = read_attempts(tmp_path / "out", "traces")
    text = row.completion.text.partition("<|im_start|>answer")
    assert row.completion.thinking_tokens == token_counter(str(tmp_path / "model"))(text[0] + text[1])
    assert row.problem.metadata["control_budget"] >= row.completion.thinking_tokens
    assert len(read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")) == 1


def test_eval_rows_and_bad_options_are_refused(tmp_path: Path) -> None:
    write_attempts(tmp_path, [trace(role="eval")], "traces")
    with pytest.raises(ValueError, match="eval"):
        control_sets(ControlSetsConfig(traces=str(tmp_path)), tmp_path / "out")
    for fields, message in (
        ({"bins": [0]}, "bins"),
        ({"step_marker": "step"}, "step_marker"),
        ({"thinking_format": "s2"}, "thinking_format"),
        ({"kind": "steps"}, "use s1_steps"),
        ({"thinking_format": "s1_steps"}, "use s1 for kind tokens"),
        ({"kind": "steps", "thinking_format": "s1_steps", "step_marker": "{k}:"}, "step_marker"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**fields)
    with pytest.raises(ValueError, match=r"tokenizer: .* does not exist"):
        token_counter(str(tmp_path / "absent"))
