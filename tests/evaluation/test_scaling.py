"""The metrics against the published table, closed forms, worked examples and simulated coverage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.schema import Attempt, Completion, Problem
from evaluation.metrics import bootstrap_interval
from evaluation.scaling import Estimate, Setting, control, scaling, summarise_methods


def attempts(problem: str, rows: Sequence[tuple[float, bool | str]]) -> list[Attempt]:
    """Attempts of one problem with these (thinking tokens, correct); text is a wrong answer."""
    return [
        Attempt(
            problem=Problem(id=problem, question=problem, answer="1"),
            index=index,
            completion=Completion(
                text="",
                thinking="",
                response="",
                finish_reason="stop",
                prompt_tokens=1,
                thinking_tokens=int(tokens),
                completion_tokens=int(tokens) + 1,
                model="m",
                seed=0,
            ),
            verdict="correct" if correct is True else "wrong",
            extracted="1" if correct is True else correct or "",
        )
        for index, (tokens, correct) in enumerate(rows)
    ]


def setting(name: str, rows: Sequence[Sequence[tuple[float, bool | str]]], **fields: Any) -> Setting:
    """Problem i has rows[i]."""
    groups = [attempts(f"p{i}", group) for i, group in enumerate(rows)]
    return Setting(name=name, groups=groups, **{"method": "forcing", **fields})


LIMITS = [1024, 2048, 4096, 8192, 16384]
STEPS = [100 * steps for steps in (16, 32, 64, 128, 256)]  # a step counts as 100 tokens
PUBLISHED = {  # arXiv 2501.19393: points of tables 12 to 14, then control, scaling and performance of table 3
    "TCC": ([7939, 7158, 8263, 7108, 7500], [26.7, 30, 33.3, 33.3, 40], LIMITS, (0.4, -24, 40.0)),
    "TCC + BF": ([1024, 2048, 4031, 5664, 6330], [3.3, 30, 33.3, 33.3, 40], LIMITS, (1.0, 13, 40.0)),
    "SCC": ([7252, 6277, 5396, 5552, 7551], [33.3, 23.3, 33.3, 36.7, 33.3], STEPS, (0.6, 3, 36.7)),
    "SCC + BF": ([1517, 2963, 4636, 5409, 7551], [23.3, 23.3, 33.3, 36.7, 33.3], STEPS, (1.0, 6, 36.7)),
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_table_3_of_s1_follows_from_its_points(method: str) -> None:
    tokens, accuracies, high, (shown_control, shown_scaling, shown_performance) = PUBLISHED[method]
    assert control(tokens, [None] * 5, high) == pytest.approx(shown_control)
    # The points are rounded to 1 token and 0.1 %, and table 3 to 1.
    assert scaling(tokens, accuracies, per_doubling=True) == pytest.approx(shown_scaling, abs=0.6)
    assert max(accuracies) == shown_performance


def test_class_conditional_control_of_s1_has_one_bound_on_either_side() -> None:
    tokens = [8033, 9651]  # "short" is to stay below the 6109 of no instruction, "long" above
    assert control(tokens, [None, 6109], [6109, None]) == 0.5
    assert scaling(tokens, [30.0, 36.7], per_doubling=True) == pytest.approx(25, abs=0.5)


COUNTS = st.lists(st.integers(1, 40_000), min_size=2, max_size=8, unique=True)


@given(COUNTS, st.floats(-1, 1), st.floats(-5, 5))
def test_a_line_has_its_slope(tokens: list[int], slope: float, start: float) -> None:
    assert scaling(tokens, [start + slope * t for t in tokens]) == pytest.approx(slope, abs=1e-6)
    doublings = [start + slope * np.log2(t) for t in tokens]
    assert scaling(tokens, doublings, per_doubling=True) == pytest.approx(slope, abs=1e-6)


@given(COUNTS, st.booleans(), st.randoms(use_true_random=False), st.data())
def test_scaling_of_what_never_falls_is_not_negative_in_any_order(
    tokens: list[int], per_doubling: bool, random: Any, data: st.DataObject
) -> None:
    accuracies = data.draw(st.lists(st.floats(0, 1), min_size=len(tokens), max_size=len(tokens)))
    rising = list(zip(sorted(tokens), sorted(accuracies), strict=True))
    slope = scaling(*map(list, zip(*rising, strict=True)), per_doubling=per_doubling)
    assert slope is not None
    assert slope >= 0
    random.shuffle(rising)
    shuffled = scaling(*map(list, zip(*rising, strict=True)), per_doubling=per_doubling)
    assert shuffled == pytest.approx(slope, rel=1e-9, abs=1e-12)


BOUND = st.none() | st.integers(0, 100)


@given(st.lists(st.tuples(st.integers(0, 100), BOUND, BOUND), min_size=1, max_size=9))
def test_control_is_the_share_of_bounded_settings_that_hit(rows: list[tuple[int, Any, Any]]) -> None:
    rows = [
        (t, *((high, low) if None not in (low, high) and low > high else (low, high)))
        for t, low, high in rows
    ]
    share = control(*map(list, zip(*rows, strict=True)))
    bounded = [row for row in rows if row[1:] != (None, None)]
    if not bounded:
        assert share is None
    else:
        hits = [(low or 0) <= t <= (100 if high is None else high) for t, low, high in bounded]
        assert share is not None
        assert share == pytest.approx(sum(hits) / len(bounded))
        assert 0 <= share <= 1


def test_pairs_without_a_slope_are_left_out() -> None:
    assert scaling([100, 100, 300], [0.2, 0.9, 0.4]) == pytest.approx((0.2 / 200 - 0.5 / 200) / 2)
    assert scaling([0, 100, 200], [0.1, 0.2, 0.5], per_doubling=True) == pytest.approx(0.3)
    assert scaling([100, 100], [0.2, 0.9]) is None
    assert scaling([100], [0.2]) is None


def test_a_method_worked_by_hand() -> None:
    short = setting("short", [[(100, True), (300, False)], [(200, False), (200, False)]], high=200)
    long = setting("long", [[(300, True), (300, True)], [(500, True), (500, False)]], high=300)
    (summary,) = summarise_methods([short, long])
    assert [point.name for point in summary.points] == ["short", "long"]
    assert [point.thinking_tokens.value for point in summary.points] == [200, 400]
    assert [point.accuracy.value for point in summary.points] == [0.25, 0.75]
    assert (summary.settings, summary.bounded_settings) == (2, 2)
    assert summary.control is not None
    assert summary.control.value == 0.5  # a mean of 200 is within 200; one of 400 not within 300
    assert summary.control_per_completion is not None
    assert summary.control_per_completion.value == (3 / 4 + 1 / 2) / 2
    assert summary.points_per_doubling is not None
    assert summary.points_per_doubling.value == pytest.approx(50)
    assert summary.points_per_1000_tokens is not None
    assert summary.points_per_1000_tokens.value == pytest.approx(250)
    assert summary.performance.value == 0.75
    assert summary.notes == []
    assert json.loads(json.dumps(asdict(summary), allow_nan=False))["performance"]["value"] == 0.75


def test_an_empty_group_is_wrong_and_has_no_tokens() -> None:
    (summary,) = summarise_methods([setting("a", [[(100, True)], [], [(300, True)]])])
    (point,) = summary.points
    assert point.thinking_tokens.value == 200
    assert point.accuracy.value == pytest.approx(2 / 3)
    assert summary.control is None
    assert summary.points_per_doubling is None
    assert summary.points_per_1000_tokens is None
    assert summary.notes[0] == "one setting: there is no slope"
    assert any("without completions" in note for note in summary.notes)


def test_equal_tokens_are_left_out_and_noted() -> None:
    rows = [[(100, True)], [(100, False)]]
    settings = [setting("a", rows), setting("b", rows), setting("c", [[(200, True)], [(200, True)]])]
    (summary,) = summarise_methods(settings)
    assert summary.points_per_doubling is not None
    assert summary.points_per_doubling.value == pytest.approx(50)
    assert "1 of 3 pairs of settings have no slope per token (equal tokens)" in summary.notes


def test_means_that_differ_by_rounding_are_equal() -> None:
    rows = [
        [(0, False)] * (10 - k) + [(1, True)] * k for k in (1, 2, 3)
    ]  # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1
    other = [[(tokens, False) for tokens, _ in row] for row in reversed(rows)]
    (summary,) = summarise_methods([setting("a", rows), setting("b", other)])
    assert summary.points_per_1000_tokens is None


def test_votes_are_the_majority_of_several_completions() -> None:
    rows = [[(100, True), (200, True), (300, "7")], [(100, "7"), (100, "7"), (100, True)]]
    settings = [setting(f"{k}", rows, votes=k) for k in (1, 3)]
    (summary,) = summarise_methods(settings)
    one, three = summary.points
    assert (one.accuracy.value, three.accuracy.value) == (0.5, 0.5)  # maj@3: right, wrong
    assert (one.thinking_tokens.value, three.thinking_tokens.value) == (150, 450)
    with pytest.raises(ValueError, match="k=4"):
        summarise_methods([setting("4", rows, votes=4)])


def test_settings_are_paired() -> None:
    """The same problems solved with twice the tokens: no slope at all, however unsure both accuracies are."""
    solved = [bool(i % 3) for i in range(30)]
    settings = [setting(str(t), [[(t, right)] for right in solved]) for t in (100, 200)]
    (summary,) = summarise_methods(settings)
    assert summary.points_per_doubling == Estimate(0, 0, 0)
    accuracy = summary.points[0].accuracy
    assert accuracy.high - accuracy.low > 0.2


def test_intervals_of_all_or_nothing_are_exact() -> None:
    (summary,) = summarise_methods([setting("a", [[(50, True)]] * 20, high=90)])
    exact = Estimate(1, *bootstrap_interval([1.0] * 20))
    assert summary.points[0].accuracy == summary.performance == summary.control_per_completion == exact
    assert exact.low < 0.9


def test_the_seed_decides_and_other_methods_do_not_matter() -> None:
    random = np.random.default_rng(0)
    one, two, other = (
        setting(name, [[(float(t), bool(t % 2))] for t in random.integers(50, 500, 40)], method=method)
        for name, method in (("a", "forcing"), ("b", "forcing"), ("a", "prompt"))
    )
    alone = summarise_methods([one, two], seed=3)
    both = summarise_methods([one, other, two], seed=3)
    assert [summary.method for summary in both] == ["forcing", "prompt"]
    assert both[0] == alone[0]
    assert summarise_methods([one, two], seed=4) != alone


def simulated(random: np.random.Generator, problems: int) -> list[Setting]:
    """Five settings of true accuracy 0.2, 0.3, ... and mean tokens 100, 200, 400, ...; the same
    problems are hard in all, and hard problems take more tokens."""
    hard = random.random(problems)
    return [
        setting(
            str(k),
            [[(100 * 2**k * (0.5 + u), bool(u + 0.1 * random.normal() < 0.2 + 0.1 * k))] for u in hard],
        )
        for k in range(5)
    ]


def test_intervals_cover_the_truth() -> None:
    random = np.random.default_rng(5)
    (truth,) = summarise_methods(simulated(random, 10_000), resamples=1)
    trials, covered = 100, np.zeros(5)
    for seed in range(trials):
        (found,) = summarise_methods(simulated(random, 60), seed=seed, resamples=400)
        for i, (true, estimate) in enumerate(
            [
                (truth.points_per_doubling, found.points_per_doubling),
                (truth.points_per_1000_tokens, found.points_per_1000_tokens),
                (truth.points[2].accuracy, found.points[2].accuracy),
                (truth.points[2].thinking_tokens, found.points[2].thinking_tokens),
                (truth.performance, found.performance),
            ]
        ):
            assert true is not None
            assert estimate is not None
            covered[i] += estimate.low <= true.value <= estimate.high
    assert (covered / trials >= 0.88).all(), covered / trials


GOOD = [[(100, True)], [(200, False)]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: control([1.0], [None], [2, 3]), "1 tokens, 1 low and 2 high"),
        (lambda: control([1.0], [3], [2]), "low=3, high=2"),
        (lambda: control([1.0], [None], [-2]), "high=-2"),
        (lambda: scaling([1.0, 2.0], [0.5]), "2 tokens but 1 accuracies"),
        (lambda: scaling([1.0, float("nan")], [0.5, 0.5]), "finite"),
        (lambda: scaling([1.0, -1.0], [0.5, 0.5]), "not negative"),
        (lambda: setting("a", [[], []]), "no completions"),
        (lambda: setting("a", GOOD, low=5, high=4), "low=5, high=4"),
        (lambda: setting("a", GOOD, votes=2, high=4), "votes=2"),
        (lambda: setting("a", GOOD, votes=0), "votes=0"),
        (lambda: Setting(name="a", method="m", groups=[attempts("p", [(1, True)])] * 2), "two groups"),
        (
            lambda: Setting(
                name="a", method="m", groups=[attempts("p", [(1, True)]) + attempts("q", [(1, True)])]
            ),
            "mixes problems",
        ),
        (lambda: summarise_methods([]), "no settings"),
        (lambda: summarise_methods([setting("a", GOOD)], resamples=0), "resamples"),
        (lambda: summarise_methods([setting("a", GOOD), setting("a", GOOD)]), "2 settings of 'forcing'"),
        (lambda: summarise_methods([setting("a", GOOD), setting("b", GOOD[:1])]), r"\[1, 2\] problems"),
        (
            lambda: summarise_methods(
                [
                    setting("a", GOOD),
                    Setting(
                        name="b",
                        method="m",
                        groups=[attempts("p1", [(1, True)]), attempts("p0", [(1, True)])],
                    ),
                ]
            ),
            "problem 0 is not the same",
        ),
    ],
)
def test_bad_input_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
