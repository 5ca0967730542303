"""Reward repetition against TRL (tokens) and open-r1's published examples (words)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.rewards import get_repetition_penalty_reward

from rewards.repetition import Repetition


@settings(deadline=None)
@given(
    batch=st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=4),
    n=st.integers(1, 5),
    penalty=st.floats(-5, 0),
)
def test_over_tokens_it_equals_trl(batch: list[list[int]], n: int, penalty: float) -> None:
    ours = Repetition(n=n, max_penalty=penalty)(completions=[""] * len(batch), completion_ids=batch)
    assert ours == pytest.approx(get_repetition_penalty_reward(n, penalty)(completion_ids=batch), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "n", "penalty", "expected"),
    [
        ("this is a test sentence", 2, -1.0, 0.0),
        ("this this this this this", 2, -1.0, -0.75),
        ("this is a This IS a test", 2, -1.0, -1 / 3),
        ("test test test test", 3, -0.5, -0.25),
        ("A B C A B C E F G A B C A B C", 3, -1.0, -5 / 13),
        ("two words", 3, -1.0, 0.0),
        ("", 3, -1.0, 0.0),
    ],
)
def test_over_words(text: str, n: int, penalty: float, expected: float) -> None:
    reward = Repetition(n=n, max_penalty=penalty, over="words")
    for completion in (text, [{"role": "assistant", "content": text}]):
        assert reward(completions=[completion], completion_ids=[[]]) == [pytest.approx(expected)]


def test_a_language_without_spaces_needs_tokens() -> None:
    text = "等等等等等等等等"
    tokens = [[ord(character) for character in text]]
    assert Repetition(over="words")(completions=[text], completion_ids=tokens) == [0.0]
    assert Repetition()(completions=[text], completion_ids=tokens) == [pytest.approx(-5 / 6)]


def test_impossible_parameters() -> None:
    with pytest.raises(ValueError, match="n: 0"):
        Repetition(n=0)
    with pytest.raises(ValueError, match="max_penalty"):
        Repetition(max_penalty=0.5)
