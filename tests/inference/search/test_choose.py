"""Choosing one candidate by votes and scores, by hand and against the definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.search.choose import choose
from inference.search.results import CHOICES

NAN = math.nan


@pytest.mark.parametrize(
    ("classes", "scores", "chosen"),
    [
        ([0, 1, 1], [0.9, 0.2, 0.3], (2, 0, 0)),
        ([0, 1, 1], [0.4, 0.2, 0.3], (2, 0, 2)),
        ([0, 1, 0, 1], [0.1, 0.2, 0.1, 0.1], (0, 1, 1)),  # a tie of votes: the first class, its first member
        ([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.2], (2, 2, 2)),  # a tie of sums but for rounding
        ([3, 1, 1, 3], [0.0, 0.0, 0.0, 0.0], (0, 0, 0)),  # numbers of a subset: order is by place
        ([-1, 0, -1], [0.9, 0.1, 0.8], (1, 1, 1)),  # no answer, no vote
        ([-1, -1, 0], [0.9, 0.8, NAN], (2, -1, -1)),
        ([0, 1, 1], [NAN, NAN, NAN], (1, -1, -1)),
        ([0, 1, 1], [], (1, -1, -1)),
        ([0, 1, 1], [NAN, NAN, 0.1], (2, 2, 2)),
        ([0, 1, 1], [math.inf, 0.2, 0.1], (1, 1, 1)),
        ([0, 1, 1], [-1.0, -3.0, -2.0], (2, 0, 0)),
        ([-1, -1], [0.5, 0.6], (-1, -1, -1)),
        ([], [], (-1, -1, -1)),
    ],
)
def test_by_hand(classes: list[int], scores: list[float], chosen: tuple[int, int, int]) -> None:
    assert choose(classes, scores) == dict(zip(CHOICES, chosen, strict=True))


def test_every_candidate_has_a_score_or_none_has() -> None:
    with pytest.raises(ValueError, match="1 scores for 2 candidates"):
        choose([0, 1], [0.5])


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=8)
)
def test_nothing_beats_what_was_chosen(rows: list[tuple[int, float]]) -> None:
    classes, scores = [each for each, _ in rows], [score for _, score in rows]
    chosen = choose(classes, scores)
    answered = [place for place, each in enumerate(classes) if each >= 0]
    if not answered:
        assert set(chosen.values()) == {-1}
        return
    votes = {each: classes.count(each) for each in classes if each >= 0}
    sums = {each: sum(s for c, s in rows if c == each) for each in votes}
    assert all(classes[place] >= 0 for place in chosen.values())
    assert votes[classes[chosen["majority"]]] == max(votes.values())
    assert scores[chosen["best_of_n"]] == max(scores[place] for place in answered)
    assert sums[classes[chosen["weighted_best_of_n"]]] == max(sums.values())
    for choice in ("majority", "weighted_best_of_n"):
        assert scores[chosen[choice]] == max(s for c, s in rows if c == classes[chosen[choice]])


@given(st.lists(st.integers(-1, 3), max_size=8), st.sampled_from([0.125, 0.5, 1.0]))
def test_equal_scores_are_votes(classes: list[int], score: float) -> None:
    chosen = choose(classes, [score] * len(classes))
    assert chosen["weighted_best_of_n"] == chosen["majority"] == choose(classes, [])["majority"]
