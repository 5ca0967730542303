"""Rewards format, tag_count, reasoning_steps: what is paid and which exploits are not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.thinking import FORMATS, ThinkingFormat
from rewards.format import Format, ReasoningSteps, TagCount, count_steps

formats = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
words = st.text(alphabet="ab <>/\n", max_size=20)
pieces = st.sampled_from(
    [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<|im_start|>think",
        "<|im_start|>answer",
        "a",
        "\n",
        " ",
    ]
)
GOOD = "<think>\nadd them\n</think>\n<answer>\n42\n</answer>"
LOOSE = " <think>add them</think>\n\n<answer> 42</answer>\n"


def paid(reward: Format | TagCount | ReasoningSteps, text: str) -> float | None:
    (value,) = reward(completions=[text])
    assert reward(completions=[[{"role": "assistant", "content": text}]]) == [value]
    return value


@formats
@settings(deadline=None)
@given(thinking=words, response=words)
def test_what_the_format_renders_is_paid_unless_a_part_is_blank(
    form: ThinkingFormat, thinking: str, response: str
) -> None:
    text = form.render(thinking, response)
    expected = float(bool(thinking.strip() and response.strip()))
    for strict in (False, True):
        assert paid(Format(thinking_format=form.name, strict_whitespace=strict), text) == expected
    prefilled = Format(thinking_format=form.name, thinking_prefilled=True)
    assert paid(prefilled, text.removeprefix(form.start)) == expected
    assert paid(prefilled, text) == 0.0
    assert paid(TagCount(thinking_format=form.name), text) == 1.0


@formats
@settings(deadline=None)
@given(text=st.lists(pieces, max_size=9).map("".join))
def test_strict_pays_less_than_loose_and_loose_less_than_counting(form: ThinkingFormat, text: str) -> None:
    strict = paid(Format(thinking_format=form.name, strict_whitespace=True), text)
    loose = paid(Format(thinking_format=form.name), text)
    counted = paid(TagCount(thinking_format=form.name), text)
    assert strict is not None
    assert loose is not None
    assert counted is not None
    assert strict <= loose <= counted <= 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "<think>\n\n</think>\n<answer>\n42\n</answer>",
        "<think>\n\u200b\u200b\n</think>\n<answer>\n42\n</answer>",
        "<think>\nadd\n</think>\n<answer>\n \n</answer>",
        GOOD + "\n<answer>\n41\n</answer>",
        GOOD + "\nor 41",
        "Sure: " + GOOD,
        "<think>\na\n</think>\nb\n<answer>\n42\n</answer>",
        "<think>\na <answer> b\n</think>\n<answer>\n42\n</answer>",
        "<think>\n" + GOOD,
        "<answer>\n42\n</answer>\n<think>\nadd\n</think>",
        GOOD.removesuffix("</answer>"),
    ],
)
def test_exploits_are_not_paid(text: str) -> None:
    assert paid(Format(thinking_format="answer_tags"), text) == 0.0


def test_white_space_around_tags_matters_only_where_asked() -> None:
    assert paid(Format(thinking_format="answer_tags"), LOOSE) == 1.0
    assert paid(Format(thinking_format="answer_tags", strict_whitespace=True), LOOSE) == 0.0
    assert paid(Format(thinking_format="answer_tags", strict_whitespace=True), GOOD) == 1.0


@pytest.mark.parametrize(
    ("text", "share"),
    [
        (GOOD, 1.0),
        (LOOSE, 1.0),
        ("<think>\nadd\n</think>\n42", 0.5),
        (GOOD + "\n<answer>\n41\n</answer>", 0.5),
        ("add\n</think>\n<answer>\n42\n</answer>", 0.75),
        ("</answer><answer></think><think>", 0.0),
        ("<think>" * 20_000, 0.0),
        ("", 0.0),
    ],
)
def test_tags_are_counted_once_and_in_order(text: str, share: float) -> None:
    assert paid(TagCount(thinking_format="answer_tags"), text) == share


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("Step 1: First step\nStep 2: Second step\nStep 3: Third step", 3),
        ("First, we do this.\nSecond, we do that.\nFinally, we conclude.", 3),
        ("Step 1: Only step", 1),
        ("**Step 1:** add\n### Step 2: subtract\n  3. divide\n- check it", 4),
        ("1. x = 5\n2. y = 7\n- x + y\n- x - y", 4),
        ("Just plain text, 3. and Step 4: in it", 0),
        ("3.14 is pi\n-5 is negative", 0),
        ("First,First,First,First,", 0),
        ("First,\nSecond,\nThird,", 0),
        ("First, add.\nNext, add.\nFinally, add!", 1),
        ("Step 1: add\nStep 1: subtract\nStep 1: divide", 1),
        ("Step 1: Step 1: Step 1:\nStep 2: Step 2: Step 2:", 0),
        ("- add\n" * 100, 1),
        ("1. ***\n2. ===\n3. ...", 0),
        ("1. 2. 3. " * 20_000, 0),
    ],
)
def test_steps_are_distinct_lines(text: str, steps: int) -> None:
    assert count_steps(text) == steps


def test_steps_beside_tags_count_and_the_reward_is_capped() -> None:
    text = "<think>Step 1: add\nStep 2: carry</think>1. conclude\n2. check"
    assert paid(ReasoningSteps(target=8), text) == 0.5
    assert paid(ReasoningSteps(), text) == 1.0
    with pytest.raises(ValueError, match="target"):
        ReasoningSteps(target=0)


def test_unknown_thinking_format() -> None:
    for reward in (Format, TagCount, ReasoningSteps):
        with pytest.raises(ValueError, match="thinking_format"):
            reward(thinking_format="tags")
