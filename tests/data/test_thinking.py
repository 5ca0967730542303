from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.thinking import FORMATS, S1_STEPS, THINK_TAGS, ThinkingFormat, thinking_format

formats = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
pieces = st.sampled_from(
    ["<", "think", ">", "</", "\n", "\n\n", "|im_start|", "answer", "|>", "x", " ", "<|", "<|im_start|>"]
)
texts = st.one_of(st.text(), st.lists(pieces).map("".join))


@formats
@given(thinking=texts, response=texts)
def test_parse_inverts_render_or_render_names_the_tag(
    form: ThinkingFormat, thinking: str, response: str
) -> None:
    tagged = any(tag in text for tag in form.tags for text in (thinking, response))
    if tagged or (form.start + thinking).startswith(form.end_of_thinking):
        with pytest.raises(ValueError, match="a tag of thinking format"):
            form.render(thinking, response)
    else:
        assert form.parse(form.render(thinking, response)) == (thinking, response)


@formats
@given(text=texts)
def test_split_takes_anything(form: ThinkingFormat, text: str) -> None:
    split = form.split(text)
    assert 0 <= split.thinking_end <= len(text)
    if split.complete:
        assert form.render(split.thinking, split.response) == text


@pytest.mark.parametrize(
    ("text", "thinking", "response"),
    [
        ("<think>\na\n</think>\n\nb", "a", "b"),
        ("<think>a</think>b", "a", "b"),
        ("a\n</think>\n\nb", "a", "b"),
        ("<think>\nnever ends", "never ends", ""),
        ("no tags at all", "", "no tags at all"),
        ("<think>a</think>b</think>c", "a", "b\nc"),
    ],
)
def test_split_of_malformed_completions(text: str, thinking: str, response: str) -> None:
    split = THINK_TAGS.split(text)
    assert (split.thinking, split.response) == (thinking, response)


def test_steps_may_have_their_markers_and_never_an_answer() -> None:
    steps = "2 steps left\na\n<|im_start|>1 steps left\nb"
    text = "<|im_start|>" + steps + "\n<|im_start|>answer\n4"
    assert S1_STEPS.render(steps, "4") == text
    assert S1_STEPS.parse(text) == (steps, "4")
    unfinished = S1_STEPS.split("<|im_start|>" + steps)
    assert (unfinished.thinking, unfinished.response, unfinished.thinking_end) == (steps, "", 0)
    for thinking in ("a<|im_start|>answer", "answer\n4", "a<|im_end|>"):
        with pytest.raises(ValueError, match="a tag of thinking format 's1_steps'"):
            S1_STEPS.render(thinking, "4")


def test_thinking_end_is_behind_the_closing_tag() -> None:
    text = "<think>\nab\n</think>\n\nc"
    assert text[: THINK_TAGS.split(text).thinking_end] == "<think>\nab\n</think>"


def test_parse_refuses_what_render_cannot_have_written() -> None:
    with pytest.raises(ValueError, match="not a complete"):
        THINK_TAGS.parse("<think>a</think>b")


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match="thinking_format"):
        thinking_format("tags")
