"""Best-of-n against all subsets by hand, and on real attempts with scores of a reward model."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.schema import Attempt, Problem, written_completion
from evaluation.best_of_n import (
    Candidates,
    best_of_n,
    candidates,
    curves,
    doublings,
    paired_difference,
    weighted_best_of_n,
)


@st.composite
def groups(draw: st.DrawFn) -> Candidates:
    size = draw(st.integers(1, 6))
    answers = draw(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=size, max_size=size))
    scores = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=size, max_size=size))
    return Candidates(answers=tuple(answers), correct=tuple(a == "a" for a in answers), scores=tuple(scores))


def brute_best(rows: Candidates, n: int) -> float:
    """Mean over all subsets, and over the attempts that share the highest score."""
    results = []
    for subset in combinations(range(len(rows.scores)), n):
        top = max(rows.scores[i] for i in subset)
        tied = [rows.correct[i] for i in subset if rows.scores[i] == top]
        results.append(sum(tied) / len(tied))
    return sum(results) / len(results)


def brute_weighted(rows: Candidates, n: int) -> float:
    results = []
    for subset in combinations(range(len(rows.scores)), n):
        sums: dict[str, float] = defaultdict(float)
        for i in subset:
            if (answer := rows.answers[i]) is not None:
                sums[answer] += rows.scores[i]
        tied = [answer == "a" for answer in sums if math.isclose(sums[answer], max(sums.values()))]
        results.append(sum(tied) / len(tied) if tied else 0.0)
    return sum(results) / len(results)


@settings(max_examples=200, deadline=None)
@given(rows=groups(), data=st.data())
def test_every_choice_is_the_mean_over_all_subsets(rows: Candidates, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(rows.scores)))
    assert best_of_n(rows.scores, rows.correct, n) == pytest.approx(brute_best(rows, n))
    assert weighted_best_of_n(rows, n) == pytest.approx(brute_weighted(rows, n))


def test_a_case_by_hand() -> None:
    """Three attempts: wrong with 0.6, right with 0.5 and 0.3."""
    rows = Candidates(answers=("b", "a", "a"), correct=(False, True, True), scores=(0.6, 0.5, 0.3))
    (one, two, three) = curves([rows], [1, 2, 3])
    assert [at["best_of_n"]["mean"] for at in (one, two, three)] == pytest.approx([2 / 3, 1 / 3, 0])
    assert [at["weighted_best_of_n"]["mean"] for at in (one, two, three)] == pytest.approx([2 / 3, 1 / 3, 1])
    assert [at["majority"]["mean"] for at in (one, two, three)] == pytest.approx(
        [2 / 3, (0.5 + 0.5 + 1) / 3, 1]
    )
    assert [at["pass@1"]["mean"] for at in (one, two, three)] == pytest.approx([2 / 3] * 3)
    assert two["oracle"]["mean"] == 1
    assert one["best_of_n_gain"] == {"mean": 0, "low": 0, "high": 0}
    assert two["best_of_n_gain"]["mean"] == pytest.approx(1 / 3 - 2 / 3)


def test_random_subsets_come_close_to_all_of_them() -> None:
    random = np.random.default_rng(0)
    answers = [["a", "b", "c", "d"][i] for i in random.integers(0, 4, 14)]
    rows = Candidates(
        answers=tuple(answers), correct=tuple(a == "a" for a in answers), scores=tuple(random.random(14))
    )
    exact = weighted_best_of_n(rows, 7, max_subsets=4000)
    near = weighted_best_of_n(rows, 7, max_subsets=1000, seed=1)
    assert near == pytest.approx(exact, abs=0.06)
    assert near == weighted_best_of_n(rows, 7, max_subsets=1000, seed=1)


def test_scores_that_know_the_answer_reach_the_oracle_and_constant_ones_the_majority() -> None:
    random = np.random.default_rng(1)
    groups = []
    for _ in range(40):
        answers = tuple(["a", "b", "c"][i] for i in random.integers(0, 3, 8))
        groups.append(tuple(answers))
    knowing = [
        Candidates(answers=g, correct=tuple(a == "a" for a in g), scores=tuple(float(a == "a") for a in g))
        for g in groups
    ]
    constant = [Candidates(answers=c.answers, correct=c.correct, scores=(0.5,) * 8) for c in knowing]
    for at in curves(knowing, [1, 2, 4, 8]):
        assert at["best_of_n"]["mean"] == pytest.approx(at["oracle"]["mean"])
    for at in curves(constant, [1, 2, 4, 8]):
        assert at["weighted_best_of_n"]["mean"] == pytest.approx(at["majority"]["mean"])
        assert at["best_of_n"]["mean"] == pytest.approx(at["pass@1"]["mean"])
        assert at["weighted_best_of_n_gain"]["low"] <= 0 <= at["weighted_best_of_n_gain"]["high"]


def test_paired_differences() -> None:
    same = paired_difference([1, 0, 1], [1, 0, 1])
    assert (same.mean, same.low) == (0, -same.high)
    assert same.high == pytest.approx(1 - 0.025 ** (1 / 3))
    values, others = [1.0] * 60 + [0.0] * 40, [1.0] * 50 + [0.0] * 50
    paired = paired_difference(values, others)
    assert paired.mean == pytest.approx(0.1)
    assert 0.03 < paired.low < 0.1 < paired.high < 0.18
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1], [1, 0])


def test_what_cannot_be_drawn_is_refused() -> None:
    rows = Candidates(answers=("a",), correct=(True,), scores=(0.5,))
    with pytest.raises(ValueError, match="n: 2 is not between 1 and 1"):
        curves([rows], [2])
    with pytest.raises(ValueError, match="at least one problem"):
        curves([], [1])
    with pytest.raises(ValueError, match="cannot be drawn"):
        best_of_n([0.5], [True], 0)
    with pytest.raises(ValueError, match="cannot be drawn"):
        weighted_best_of_n(rows, 2)
    assert doublings(6) == [1, 2, 4, 6]
    assert doublings(8) == [1, 2, 4, 8]
    assert doublings(0) == []


def attempt(verdict: str, extracted: str) -> Attempt:
    return Attempt(
        problem=Problem(id="p", question="q", answer="1"),
        index=0,
        completion=written_completion("", ""),
        verdict=verdict,  # pyright: ignore[reportArgumentType]
        extracted=extracted,
    )


def test_answers_that_mean_the_same_vote_together() -> None:
    attempts = [attempt("wrong", "2"), attempt("wrong", "2.0"), attempt("correct", "1"), attempt("wrong", "")]
    rows = candidates(attempts, [0.4, 0.3, 0.6, 1.0])
    assert rows.answers[0] == rows.answers[1]
    assert (rows.answers[3], rows.correct) == (None, (False, False, True, False))
    assert weighted_best_of_n(rows, 4) == 0
    assert best_of_n(rows.scores, rows.correct, 4) == 0
    for scores, message in [
        ([0.1], "1 scores for 4"),
        ([0.1, 0.1, -0.1, 0], "negative"),
        ([0, 0, 0, math.nan], "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            candidates(attempts, scores)


def test_a_real_reward_model_chooses_among_eight(shared_data: Callable[[str], Path]) -> None:
    """100 MATH problems, 8 attempts each, with the scores of an outcome reward model."""
    lines = shared_data("traces/qwen_math_rm_maj8_math100.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    problems = [
        Candidates(
            answers=tuple(answer or None for answer in row["pred"]),
            correct=tuple(bool(s) and bool(a) for s, a in zip(row["score"], row["pred"], strict=True)),
            scores=tuple(1 / (1 + math.exp(-score[0])) for score in row["pred_score"]),
        )
        for row in rows
    ]
    best = [row["score"][int(np.argmax([s[0] for s in row["pred_score"]]))] for row in rows]
    at = curves(problems, [1, 8])
    means = {method: at[1][method]["mean"] for method in ("pass@1", "majority", "best_of_n", "oracle")}
    assert means == pytest.approx({"pass@1": 0.91, "majority": 0.925, "best_of_n": 0.94, "oracle": 0.96})
    assert at[1]["best_of_n"]["mean"] == pytest.approx(np.mean(best), abs=0.005)
    assert at[0]["best_of_n"]["mean"] == pytest.approx(at[0]["pass@1"]["mean"])
    assert at[1]["weighted_best_of_n"]["mean"] == pytest.approx(0.94)
    assert at[1]["best_of_n_gain"]["low"] < 0 < at[1]["best_of_n_gain"]["high"]
