"""Metrics of reward models against hand-worked cases, the authors' definition and scikit-learn."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.schema import Problem
from data.step_readers import labels_to
from data.step_sources import load_steps, parse_step_source
from data.steps import LabelledSolution
from evaluation.prm_baselines import baselines, best_rate, random_matches
from evaluation.prm_metrics import (
    Judged,
    best_threshold,
    by_position,
    calibration_error,
    exact_matches,
    first_errors,
    harmonic_mean,
    judged_steps,
    predicted_error,
    ranking,
    reliability,
)


def solution(first_error: int, steps: int, problem: str = "p", right: bool | None = None) -> LabelledSolution:
    return LabelledSolution(
        problem=Problem(id=problem, question=problem, answer=""),
        steps=tuple(f"step {i}" for i in range(steps)),
        labels=tuple(labels_to(first_error, steps)),
        right=right,
    )


def authors(labels: Sequence[int], predictions: Sequence[int | None]) -> tuple[float, float, float]:
    """QwenLM/ProcessBench@e802463:code/run_eval_prm_rlhflow.py in our words, in per cent."""
    rows = list(zip(labels, predictions, strict=True))
    error = np.mean([p == label for label, p in rows if label != -1]) * 100
    correct = np.mean([p == label for label, p in rows if label == -1]) * 100
    return float(error), float(correct), float(2 * error * correct / (error + correct))


def test_the_first_step_below_the_threshold() -> None:
    assert predicted_error([0.9, 0.4, 0.1], 0.5) == 1
    assert predicted_error([0.9, 0.5], 0.5) == -1
    assert predicted_error([], 0.5) == -1
    assert predicted_error(None, 0.5) is None


def test_f1_worked_by_hand() -> None:
    rows = [
        solution(0, 2, "a"),
        solution(1, 3, "b"),
        solution(2, 3, "c"),
        solution(-1, 2, "d"),
        solution(-1, 2, "e"),
    ]
    scores = [[0.1, 0.9], [0.1, 0.1, 0.9], [0.9, 0.9, 0.2], [0.9, 0.9], None]
    matches = exact_matches(rows, scores, 0.5)
    assert matches == [1, 0, 1, 1, 0]
    found = first_errors(rows, matches)
    assert (found.error_accuracy, found.correct_accuracy) == pytest.approx((2 / 3, 1 / 2))
    assert found.f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert (found.error_solutions, found.correct_solutions) == (3, 2)
    assert 0 <= found.low <= found.f1 <= found.high <= 1
    predictions = [predicted_error(each, 0.5) for each in scores]
    assert (100 * found.error_accuracy, 100 * found.correct_accuracy, 100 * found.f1) == pytest.approx(
        authors([row.first_error for row in rows], predictions)
    )
    assert harmonic_mean(0, 0) == 0


def test_sets_of_one_kind_and_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="none of the 1 solutions is one with an error"):
        first_errors([solution(-1, 2)], [1])
    with pytest.raises(ValueError, match="without an error"):
        first_errors([solution(1, 2)], [1])
    with pytest.raises(ValueError, match="1 matches for 2"):
        first_errors([solution(1, 2), solution(-1, 2)], [1])


@st.composite
def scored(draw: st.DrawFn) -> tuple[list[LabelledSolution], list[list[float] | None]]:
    rows, scores = [], []
    for number in range(draw(st.integers(2, 8))):
        steps = draw(st.integers(1, 4))
        error = (
            [-1, draw(st.integers(0, steps - 1))][number] if number < 2 else draw(st.integers(-1, steps - 1))
        )
        rows.append(solution(error, steps, f"p{number}"))
        value = st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
        scores.append(draw(st.none() | st.lists(value, min_size=steps, max_size=steps)))
    return rows, scores


@settings(max_examples=150, deadline=None)
@given(case=scored())
def test_no_threshold_is_better_than_the_best(
    case: tuple[list[LabelledSolution], list[list[float] | None]],
) -> None:
    rows, scores = case

    def f1(threshold: float) -> float:
        return first_errors(rows, exact_matches(rows, scores, threshold), resamples=2).f1

    assert f1(best_threshold(rows, scores)) == pytest.approx(max(f1(x / 10) for x in range(-1, 13)))


def test_the_interval_covers_what_it_is_of() -> None:
    """F1 of samples of 120 solutions against that of the population they come from: 0.8 and 0.6."""
    truth, covered = harmonic_mean(0.8, 0.6), 0
    for seed in range(60):
        draw = random.Random(seed)
        rows = [solution(1 if i % 2 else -1, 3, str(i)) for i in range(120)]
        matches = [float(draw.random() < (0.8 if i % 2 else 0.6)) for i in range(120)]
        found = first_errors(rows, matches, seed=seed, resamples=400)
        covered += found.low <= truth <= found.high
    assert 52 <= covered <= 60


def test_auc_with_ties_by_hand_and_with_one_class() -> None:
    made = ranking(["a", "b", "c", "d"], [0.9, 0.5, 0.5, 0.1], [True, True, False, False])
    assert made is not None
    assert made.auc == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert (made.right, made.wrong) == (2, 2)
    assert made.low <= made.auc <= made.high
    assert ranking(["a", "b"], [0.1, 0.2], [True, True]) is None


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30).filter(
        lambda pairs: len({right for _, right in pairs}) == 2
    )
)
def test_auc_is_that_of_scikit_learn(pairs: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import roc_auc_score

    scores, right = [float(score) for score, _ in pairs], [flag for _, flag in pairs]
    made = ranking([str(i % 3) for i in range(len(pairs))], scores, right, resamples=3)
    assert made is not None
    assert made.auc == pytest.approx(roc_auc_score(right, scores))


def test_reliability_and_calibration_by_hand() -> None:
    steps = [
        Judged(problem="p", position=i, score=score, label=label)
        for i, (score, label) in enumerate([(0.05, 0.0), (0.15, 1.0), (0.95, 1.0), (1.0, 0.0), (1.0, 1.0)])
    ]
    table = reliability(steps, bins=2)
    assert [(b.low, b.high, b.steps) for b in table] == [(0, 0.5, 2), (0.5, 1, 3)]
    assert [(b.mean_score, b.right) for b in table] == [
        pytest.approx((0.1, 0.5)),
        pytest.approx((2.95 / 3, 2 / 3)),
    ]
    assert calibration_error(table) == pytest.approx((2 * 0.4 + 3 * (2.95 - 2) / 3) / 5)
    assert calibration_error([]) == 0
    places = by_position(steps, 0.5, positions=3)
    assert [(row.position, row.steps, row.accuracy) for row in places] == [
        (0, 1, 1),
        (1, 1, 0),
        (2, 3, 2 / 3),
    ]


def test_steps_without_label_or_score_are_not_judged() -> None:
    rows = [solution(0, 2), solution(-1, 1)]
    assert [(s.position, s.score, s.label) for s in judged_steps(rows, [[0.2, 0.3], None])] == [(0, 0.2, 0.0)]


def test_random_calls_have_the_accuracy_that_they_are_said_to_have() -> None:
    rows = [solution(2, 4, "a"), solution(-1, 3, "b")]
    draw, hits = random.Random(0), np.zeros(2)
    for _ in range(20_000):
        scores = [[float(draw.random() >= 0.3) for _ in row.steps] for row in rows]
        hits += exact_matches(rows, scores, 0.5)
    assert hits / 20_000 == pytest.approx(random_matches(rows, 0.3), abs=0.01)
    rate = best_rate(rows)
    f1 = [harmonic_mean(*random_matches(rows, r)) for r in (rate - 0.01, rate, rate + 0.01)]
    assert f1[1] >= max(f1)


def test_baselines_find_what_position_and_length_give_away() -> None:
    rows = [solution(1, 2, f"a{i}") for i in range(5)] + [solution(-1, 1, f"b{i}") for i in range(5)]
    found = baselines(rows, rows)
    assert found["step_position"]["f1"] == 1
    assert found["always_right"]["f1"] == 0
    assert found["always_right"]["correct_accuracy"] == 1
    assert 0 < found["random"]["f1"] < 1
    assert found["step_length"]["f1"] == 0


BASELINES = {
    "processbench/gsm8k": {
        "always_right": 0.0,
        "random": 0.198,
        "step_position": 0.111,
        "step_length": 0.362,
    },
    "processbench/math": {"always_right": 0.0, "random": 0.184, "step_position": 0.134, "step_length": 0.270},
}
"""F1 with threshold and rate chosen on processbench/gsm8k."""


@pytest.mark.parametrize("id", BASELINES)
def test_baselines_on_processbench(shared_data: Callable[[str], Path], id: str) -> None:
    shared_data("processbench/math.json")

    def solutions(name: str) -> list[LabelledSolution]:
        return load_steps(parse_step_source({"id": name}, "s")).solutions

    found: dict[str, Any] = baselines(solutions("processbench/gsm8k"), solutions(id))
    assert {name: row["f1"] for name, row in found.items()} == pytest.approx(BASELINES[id], abs=0.001)


def test_perfect_scores_have_f1_1_on_processbench(shared_data: Callable[[str], Path]) -> None:
    shared_data("processbench/math.json")
    rows = load_steps(parse_step_source({"id": "processbench/math"}, "s")).solutions
    scores = [[1.0 if label is None else label for label in row.labels] for row in rows]
    found = first_errors(rows, exact_matches(rows, scores, best_threshold(rows, scores)))
    assert (found.f1, found.low, found.high) == (1, 1, 1)
    assert (found.error_solutions, found.correct_solutions) == (594, 406)
    noise = random.Random(0)
    noisy = [[min(1, max(0, s + noise.gauss(0, 0.4))) for s in each] for each in scores]
    found = first_errors(rows, exact_matches(rows, noisy, 0.5))
    theirs = authors([row.first_error for row in rows], [predicted_error(each, 0.5) for each in noisy])
    assert (100 * found.error_accuracy, 100 * found.correct_accuracy, 100 * found.f1) == pytest.approx(theirs)
