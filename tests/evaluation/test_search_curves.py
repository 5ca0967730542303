"""Accuracy and cost of settings, against closed forms, and what is refused."""

from __future__ import annotations

from itertools import combinations
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest

from evaluation.best_of_n import paired_difference
from evaluation.metrics import bootstrap_interval
from evaluation.search_curves import (
    cost_at,
    differences,
    load_searches,
    option_rows,
    options_of,
    padded,
    setting_rows,
)
from evaluation.search_difficulty import (
    bin_edges,
    check_bins,
    measure_difficulty,
    rank_bins,
)
from tests.evaluation.search_rows import cost, problem, result, write

SCORES = (0.9, 0.8, 0.3, 0.2)
CLASSES = (1, 0, 0, 2)
"""The best score is wrong, and the right answer has most votes and the highest sum."""


def weighted(classes: tuple[int, ...], scores: tuple[float, ...], n: int) -> float:
    """Share of the subsets whose highest sum is class 0."""
    wins = []
    for drawn in combinations(range(len(classes)), n):
        sums = {c: sum(scores[i] for i in drawn if classes[i] == c) for c in {classes[i] for i in drawn}}
        wins.append(max(sums, key=sums.__getitem__) == 0)
    return sum(wins) / len(wins)


def test_parallel_settings_are_known_at_every_smaller_n(tmp_path: Path) -> None:
    rows = [result(i, "best_of_n n=4", CLASSES, scores=SCORES) for i in range(2)]
    rows += [result(i, "beam n=3 width=1", [0] * 3, scores=[0.5] * 3) for i in range(2)]
    options = {option.name: option for option in options_of(load_searches([write(tmp_path, rows)]))}
    assert list(options) == [*(f"best_of_n n={n}" for n in (1, 2, 3, 4)), "beam n=3 width=1"]
    assert {option.searched for option in options.values()} == {"best_of_n n=4", "beam n=3 width=1"}
    for n in (1, 2, 3, 4):
        option = options[f"best_of_n n={n}"]
        assert option.rights["weighted_best_of_n"] == pytest.approx([weighted(CLASSES, SCORES, n)] * 2)
        assert option.costs["generated_tokens"].tolist() == [10 * n] * 2
        assert option.costs["scorer_tokens"].tolist() == [10 * n] * 2
        assert option.costs["flops"].tolist() == pytest.approx([2 * (10 + 10 * n) + 3 * 10 * n] * 2)
    scored = {o.name: o for o in options_of(load_searches([str(tmp_path)]), probe=2)}
    for n, first in ((1, 1), (2, 2), (4, 2)):
        probed = scored[f"best_of_n n={n}"].probed
        assert probed["generated_tokens"].tolist() == probed["scorer_tokens"].tolist() == [10 * first] * 2
    assert scored["beam n=3 width=1"].probed["flops"].tolist() == [0, 0]
    assert not options["best_of_n n=2"].probed["flops"].any()
    # of 6 pairs: 1 of two right ones, and the 4 of a right and a wrong one are ties
    assert options["best_of_n n=2"].rights["majority"] == pytest.approx([(1 + 4 / 2) / 6] * 2)
    # the best of two is right without candidate 0 and with candidate 1 or 2
    assert options["best_of_n n=2"].rights["best_of_n"] == pytest.approx([3 / 6] * 2)


def test_without_scores_there_is_the_majority_alone(tmp_path: Path) -> None:
    rows = [result(i, setting, [0, 1]) for i in range(2) for setting in ("majority n=2", "revisions n=2")]
    searches = load_searches([write(tmp_path, rows)])
    for option in options_of(searches):
        assert list(option.rights) == ["majority"]
        assert option.choice("weighted_best_of_n") == "majority"
    first = setting_rows(searches)[0]
    assert first["best_of_n"] is first["weighted_best_of_n"] is None
    assert first["majority"]["mean"] == first["oracle"]["mean"] == 1


def test_a_missing_candidate_takes_a_place_and_casts_no_vote() -> None:
    rows = padded(result(0, "best_of_n n=4", [0, -1], scores=[0.5, nan], n=4))
    assert rows.answers == ("0", None, None, None)
    assert rows.correct == (True, False, False, False)
    assert rows.scores == (0.5, 0, 0, 0)
    with pytest.raises(ValueError, match="3 candidates for n=2"):
        padded(result(0, "best_of_n n=2", [0, 1, 1], n=2))
    with pytest.raises(ValueError, match="negative"):
        padded(result(0, "best_of_n n=2", [0, 1], scores=[-1, 1]))


def test_the_prompt_is_paid_whole() -> None:
    paid = cost(80, 40.0, forced_tokens=10)
    whole, half = cost_at(paid), cost_at(paid, 0.5)
    assert (whole["generated_tokens"], half["generated_tokens"]) == (80, 40)
    assert whole["flops"] == pytest.approx(2 * 90 + 3 * 40)
    assert half["flops"] == pytest.approx(2 * 90 * (10 + 45) / 100 + 3 * 20)
    assert isnan(cost_at(cost(80, policy_flops=nan))["flops"])
    assert cost_at(cost(80, 0.0, scorer_flops=nan))["flops"] == 180


def test_the_largest_parallel_setting_stands_for_the_smaller_ones(tmp_path: Path) -> None:
    rows = [result(i, "majority n=2", [1] * 2) for i in range(2)]
    rows += [result(i, "majority n=4", [0] * 4) for i in range(2)]
    rows += [result(i, "majority tries=3", [1] * 3) for i in range(2)]
    options = {option.name: option for option in options_of(load_searches([write(tmp_path, rows)]))}
    assert list(options) == [*(f"majority n={n}" for n in (1, 2, 3, 4)), "majority tries=3"]
    assert options["majority n=2"].rights["majority"].tolist() == [1, 1]
    assert options["majority n=2"].searched == "majority n=4"
    assert options["majority tries=3"].rights["majority"].tolist() == [0, 0]


def test_a_name_without_n_says_at_which_n(tmp_path: Path) -> None:
    rows = [result(i, "majority", [0, 1]) for i in range(2)]
    names = [option.name for option in options_of(load_searches([write(tmp_path, rows)]))]
    assert names == ["majority at n=1", "majority"]


def test_rows_have_intervals_and_differences_are_paired(tmp_path: Path) -> None:
    rows = []
    for i in range(12):
        rows += [result(i, "majority n=2", [0, i % 2]), result(i, "beam n=2 width=2", [0, 0], width=2)]
        rows.append(result(i, "best_of_n n=2", [0, 1], scores=[0.4, 0.5], chosen=1))
    options = options_of(load_searches([write(tmp_path, rows)]))
    row = next(r for r in option_rows(options, "majority") if r["setting"] == "majority n=2")
    values = [0.5 if i % 2 else 1.0 for i in range(12)]
    assert row["accuracy"]["mean"] == 0.75
    assert (row["accuracy"]["low"], row["accuracy"]["high"]) == bootstrap_interval(values)
    found = {(r["setting"], r["against"]): r for r in differences(options, "best_of_n")}
    assert list(found) == [
        ("best_of_n n=1", "majority n=1"),
        ("best_of_n n=2", "majority n=2"),
        ("beam n=2 width=2", "majority n=2"),
        ("beam n=2 width=2", "best_of_n n=2"),
    ]
    gain = found["beam n=2 width=2", "majority n=2"]
    expected = paired_difference([1.0] * 12, values)
    assert (gain["mean"], gain["low"], gain["high"]) == (expected.mean, expected.low, expected.high)
    assert found["best_of_n n=2", "majority n=2"]["mean"] == -0.75
    assert gain["tokens_ratio"] == 1


def test_settings_must_have_the_same_problems(tmp_path: Path) -> None:
    rows = [result(i, "majority n=1", [0]) for i in range(3)]
    rows += [result(i, "beam n=1 width=1", [0]) for i in (0, 1, 7)]
    with pytest.raises(ValueError, match="same problems") as error:
        load_searches([write(tmp_path, rows)])
    assert "'majority n=1' lacks 1 of 4 (p007)" in str(error.value)
    assert "'beam n=1 width=1' lacks 1 of 4 (p002)" in str(error.value)


def test_bad_searches_are_refused(tmp_path: Path) -> None:
    rows = [result(0, "majority n=1", [0])]
    one, other = write(tmp_path / "one", rows), write(tmp_path / "other", rows)
    with pytest.raises(ValueError, match=r"'majority n=1' is in .*one and in .*other"):
        load_searches([one, other])
    with pytest.raises(ValueError, match="has problem p000 twice"):
        load_searches([write(tmp_path / "twice", rows * 2)])
    with pytest.raises(ValueError, match="hold no results"):
        load_searches([write(tmp_path / "empty", [])])
    with pytest.raises(ValueError, match="does not exist"):
        load_searches([str(tmp_path / "absent")])
    mixed = [result(0, "beam a", [0]), result(1, "beam a", [0, 0])]
    with pytest.raises(ValueError, match="different strategy, n or width"):
        load_searches([write(tmp_path / "mixed", mixed)])


# ------------------------------------------------------------------ difficulty


def test_difficulty_by_the_largest_parallel_setting(tmp_path: Path) -> None:
    rows = [result(0, "best_of_n n=4", [0, 1, 1, 1], scores=[0.1, 0.3, 0.3, 0.3])]
    rows.append(result(1, "best_of_n n=4", [0, 0, 0, -1], scores=[0.5, 0.5, 0.5, nan]))
    rows += [result(i, "majority n=2", [0, 0]) for i in range(2)]
    searches = load_searches([write(tmp_path, rows)])
    agreement = measure_difficulty(searches, "agreement", 4)
    assert agreement.setting == "best_of_n n=4"
    assert agreement.pass_rate.tolist() == [0.25, 0.75]
    assert agreement.estimate is not None
    assert agreement.estimate.tolist() == [0.75, 0.75]
    score = measure_difficulty(searches, "score", 4)
    assert score.estimate == pytest.approx(np.array([0.25, 0.375]))
    assert score.probe_costs["generated_tokens"].tolist() == [40, 40]
    assert measure_difficulty(searches, "score", 2).probe_costs["scorer_tokens"].tolist() == [20, 20]
    oracle = measure_difficulty(searches, "oracle", 4)
    assert oracle.estimate is None
    assert oracle.probe == 0
    with pytest.raises(ValueError, match=r"probe: 5 candidates .* 'best_of_n n=4' has 4; .* `probe: 4`"):
        measure_difficulty(searches, "agreement", 5)


def test_difficulty_needs_a_parallel_setting(tmp_path: Path) -> None:
    beam = load_searches([write(tmp_path / "a", [result(0, "beam n=2 width=2", [0, 0], scores=[1, 1])])])
    with pytest.raises(ValueError, match=r"add \{strategy: best_of_n, n: 16\}"):
        measure_difficulty(beam, "agreement", 1)
    votes = load_searches([write(tmp_path / "b", [result(0, "majority n=2", [0, 0])])])
    with pytest.raises(ValueError, match="best_of_n setting, whose candidates have scores"):
        measure_difficulty(votes, "score", 1)


def test_bins_of_equal_size_by_rank_with_ties_by_id() -> None:
    problems = [problem(number) for number in (3, 1, 2, 0, 4)]
    assert rank_bins(np.array([0.5, 0.5, 0.5, 0.5, 0.1]), problems, 2).tolist() == [1, 0, 1, 0, 0]
    with pytest.raises(ValueError, match="3 bins on two halves need 6 problems, and there are 5"):
        check_bins(5, 3)


def test_edges_leave_no_bin_empty() -> None:
    assert bin_edges(np.arange(10.0), 5) == (2, 4, 6, 8)
    assert bin_edges(np.array([1.0] * 9 + [0.5]), 5) == (1,)
    assert bin_edges(np.ones(4), 4) == ()
    assert bin_edges(np.array([0.25] * 6 + [0.75] * 4), 2) == (0.75,)  # the median is the lowest value
    for seed in range(20):
        values = np.random.default_rng(seed).integers(0, 5, 30) / 4
        edges = bin_edges(values, 5)
        assert set(np.searchsorted(edges, values, side="right")) == set(range(len(edges) + 1))
