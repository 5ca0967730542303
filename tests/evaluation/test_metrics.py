"""Metrics against closed forms, enumeration of all subsets, and simulated coverage."""

from __future__ import annotations

import math
import time
from collections import Counter
from fractions import Fraction
from itertools import combinations
from statistics import mean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.metrics import bootstrap_interval, majority_at_k, pass_at_k, summarise


@given(st.integers(1, 60), st.data())
def test_pass_at_k_is_the_closed_form(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(5, 0, 5) == 0.0
    assert pass_at_k(5, 1, 5) == 1.0
    assert pass_at_k(100_000, 1, 50_000) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_pass_at_k_refuses(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="="):
        pass_at_k(n, c, k)


def by_enumeration(answers: list[str | None], correct: list[bool], k: int) -> Fraction:
    """Vote in every subset, one after the other."""
    classes = ["correct" if flag else answer for answer, flag in zip(answers, correct, strict=True)]
    total, subsets = Fraction(0), 0
    for subset in combinations(classes, k):
        votes = Counter(vote for vote in subset if vote is not None)
        subsets += 1
        if votes:
            most = max(votes.values())
            winners = [vote for vote, count in votes.items() if count == most]
            total += Fraction("correct" in winners, len(winners))
    return total / subsets


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["r", "R", "a", "b", "c", "d", None]), min_size=1, max_size=11), st.data())
def test_majority_is_what_enumeration_gives(answers: list[str | None], data: st.DataObject) -> None:
    correct = [answer in ("r", "R") for answer in answers]
    k = data.draw(st.integers(1, len(answers)))
    assert majority_at_k(answers, correct, k) == pytest.approx(
        float(by_enumeration(answers, correct, k)), abs=1e-12
    )


def test_majority_by_hand() -> None:
    assert majority_at_k(["a", "b"], [True, False], 2) == pytest.approx(0.5)  # a tie
    assert majority_at_k(["a", None, None], [True, False, False], 3) == pytest.approx(1)
    assert majority_at_k([None, None], [False, False], 2) == 0
    assert majority_at_k(["1/2", "0.5", "3", "3"], [True, True, False, False], 4) == pytest.approx(0.5)
    assert majority_at_k(["a", "a", "a", "b"], [True, True, True, False], 3) == pytest.approx(1)


@given(st.lists(st.sampled_from(["r", "a", "b", None]), min_size=1, max_size=200))
@settings(max_examples=30, deadline=None)
def test_majority_of_one_is_the_mean_accuracy(answers: list[str | None]) -> None:
    correct = [answer == "r" for answer in answers]
    assert majority_at_k(answers, correct, 1) == pytest.approx(mean(correct))


def test_majority_is_fast_with_64_distinct_answers() -> None:
    answers = [str(i) for i in range(64)]
    start = time.process_time()
    for k in (1, 2, 4, 8, 16, 32, 64):
        # Every subset of k is a tie of k: the correct one is in k of 64 subsets and wins one in k of those.
        assert majority_at_k(answers, [i == 0 for i in range(64)], k) == pytest.approx(1 / 64)
        assert 0.5 <= majority_at_k(["r"] * 32 + answers[:32], [i < 32 for i in range(64)], k) <= 1
    assert time.process_time() - start < 10  # about 0.1 second; enumeration would need 10^18 subsets


def test_majority_refuses() -> None:
    with pytest.raises(ValueError, match="k=3"):
        majority_at_k(["a", "b"], [True, False], 3)
    with pytest.raises(ValueError, match="2 answers but 1 flags"):
        majority_at_k(["a", "b"], [True], 1)
    with pytest.raises(ValueError, match="completion 1 is correct"):
        majority_at_k(["a", None], [True, True], 1)


def test_bootstrap_covers_the_true_mean() -> None:
    random = np.random.default_rng(7)
    trials, p, covered = 400, 0.3, 0
    for seed in range(trials):
        values = (random.random(100) < p).astype(float).tolist()
        low, high = bootstrap_interval(values, resamples=1_000, seed=seed)
        covered += low <= p <= high
    assert 0.90 <= covered / trials <= 0.99


def test_bootstrap_agrees_with_the_normal_approximation() -> None:
    values = [0.0] * 600 + [1.0] * 400
    low, high = bootstrap_interval(values)
    half = 1.96 * math.sqrt(0.4 * 0.6 / 1000)
    assert (low, high) == (pytest.approx(0.4 - half, abs=0.003), pytest.approx(0.4 + half, abs=0.003))
    narrow = bootstrap_interval(values, level=0.5)
    assert low < narrow[0] < 0.4 < narrow[1] < high
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)


@pytest.mark.parametrize("n", [1, 30, 500])
def test_none_and_all_solved_have_exact_binomial_intervals(n: int) -> None:
    low, high = bootstrap_interval([0.0] * n)
    assert low == 0
    assert (1 - high) ** n == pytest.approx(0.025)  # at `high`, no success in n has probability 2.5%
    assert bootstrap_interval([1.0] * n) == (pytest.approx(1 - high), 1.0)
    assert bootstrap_interval([0.5] * n) == (0.5, 0.5)


@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf]])
def test_bootstrap_refuses_values(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval(values)


@pytest.mark.parametrize("options", [{"level": 1.0}, {"level": 0.0}, {"resamples": 0}])
def test_bootstrap_refuses_options(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([0.0, 1.0], **options)  # type: ignore[arg-type]


def test_summarise() -> None:
    values = [1 / 3, 1.0, 0.0]
    summary = summarise(values)
    assert summary["mean"] == pytest.approx(4 / 9)
    assert summary["problems"] == 3
    assert (summary["low"], summary["high"]) == bootstrap_interval(values)
