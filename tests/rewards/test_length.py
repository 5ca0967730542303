"""Rewards overlong, cosine_length, kimi_length against their papers and against TRL."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from trl.rewards import get_cosine_scaled_reward, get_soft_overlong_punishment

from rewards.accuracy import Accuracy
from rewards.length import CosineLength, KimiLength, Overlong

lengths = st.lists(st.integers(0, 60), min_size=1, max_size=8)
ANSWERS = {True: r"\boxed{42}", False: r"\boxed{41}"}


def ids(*tokens: int) -> list[list[int]]:
    return [[7] * n for n in tokens]


def kimi(tokens: list[int], correct: list[bool], prompts: list[Any] | None = None) -> list[float | None]:
    return KimiLength()(
        prompts=prompts or ["?"] * len(tokens),
        completions=[ANSWERS[c] for c in correct],
        completion_ids=ids(*tokens),
        answer=["42"] * len(tokens),
    )


def test_overlong_is_equation_13_of_dapo() -> None:
    reward = Overlong(max_completion_tokens=100, cache_tokens=20)
    assert reward(completion_ids=ids(0, 80, 81, 90, 100, 101)) == [0.0, 0.0, -0.05, -0.5, -1.0, -1.0]


@settings(deadline=None)
@given(tokens=lengths, longest=st.integers(1, 50), data=st.data())
def test_overlong_equals_trl(tokens: list[int], longest: int, data: st.DataObject) -> None:
    cache = data.draw(st.integers(0, longest))
    ours = Overlong(max_completion_tokens=longest, cache_tokens=cache)(completion_ids=ids(*tokens))
    assert ours == get_soft_overlong_punishment(longest, cache)(completion_ids=ids(*tokens))


@pytest.mark.parametrize("cache", [-1, 11])
def test_overlong_refuses_an_impossible_cache(cache: int) -> None:
    with pytest.raises(ValueError, match="cache_tokens"):
        Overlong(max_completion_tokens=10, cache_tokens=cache)


@settings(deadline=None)
@given(tokens=lengths, longest=st.integers(1, 50), data=st.data())
def test_cosine_equals_trl(tokens: list[int], longest: int, data: st.DataObject) -> None:
    correct = [data.draw(st.booleans()) for _ in tokens]
    completions = [[{"role": "assistant", "content": ANSWERS[c]}] for c in correct]
    golds = ["42"] * len(tokens)
    ours = CosineLength(max_tokens=longest)(
        completions=completions, completion_ids=ids(*tokens), answer=golds
    )
    theirs = get_cosine_scaled_reward(longest)(completions, golds, ids(*tokens))
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_cosine_rewards_short_truths_and_long_errors_and_nothing_beyond() -> None:
    tokens = ids(0, 50, 100, 150, 200)
    reward = CosineLength(max_tokens=100)
    right = reward(completions=["42"] * 5, completion_ids=tokens, answer=["42"] * 5)
    wrong = reward(completions=["41"] * 5, completion_ids=tokens, answer=["42"] * 5)
    assert right == pytest.approx([1.0, 0.75, 0.5, 0.5, 0.5])
    assert wrong == pytest.approx([-1.0, -0.75, -0.5, -0.5, -0.5])


def test_cosine_of_what_exceeds_and_what_cannot_be_verified() -> None:
    reward = CosineLength(max_tokens=100, exceed_value=-10.0)
    given_golds = ["42", "42", "42", None]
    assert reward(completions=["42"] * 4, completion_ids=ids(0, 100, 101, 101), answer=given_golds) == [
        1.0,
        -10.0,
        -10.0,
        None,
    ]
    with pytest.raises(ValueError, match="max_tokens"):
        CosineLength(max_tokens=0)


def test_kimi_is_section_2_3_3() -> None:
    assert kimi([10, 20, 30, 30], [True, True, True, False]) == [0.5, 0.0, -0.5, -0.5]
    assert kimi([10, 20, 30], [False, False, True]) == [0.0, 0.0, -0.5]
    assert kimi([10, 10], [True, False]) == [0.0, 0.0]


def test_kimi_compares_within_the_group_of_a_prompt() -> None:
    chats: list[Any] = [[{"role": "user", "content": q}] for q in "aab"] + [
        [{"role": "user", "content": "b"}]
    ]
    for prompts in (["a", "a", "b", "b"], chats):
        assert kimi([10, 20, 1000, 2000], [True] * 4, prompts) == [0.5, -0.5, 0.5, -0.5]


def test_kimi_of_what_cannot_be_verified() -> None:
    rewards = KimiLength()(
        prompts=["?"] * 2, completions=["42"] * 2, completion_ids=ids(1, 2), answer=["42", None]
    )
    assert rewards == [0.5, None]


@settings(deadline=None)
@given(tokens=lengths, data=st.data())
def test_kimi_is_bounded_and_never_pays_errors(tokens: list[int], data: st.DataObject) -> None:
    correct = [data.draw(st.booleans()) for _ in tokens]
    assume(len(set(tokens)) > 1)
    for value, right, n in zip(kimi(tokens, correct), correct, tokens, strict=True):
        assert value is not None
        assert -0.5 <= value <= (0.5 if right else 0.0)
        assert not right or (value == 0.5) == (n == min(tokens))


def test_correctness_is_that_of_accuracy() -> None:
    completions = ["<think>\n42", "<think>\n41\n</think>\n\n42", "41"]
    columns = {"completion_ids": ids(5, 5, 5), "prompts": ["?"] * 3, "answer": ["42"] * 3}
    accuracy = Accuracy()(completions=completions, **columns)
    cosine = CosineLength(max_tokens=10)(completions=completions, **columns)
    assert accuracy == [0.0, 1.0, 0.0]
    assert [value is not None and value > 0 for value in cosine] == [False, True, False]
