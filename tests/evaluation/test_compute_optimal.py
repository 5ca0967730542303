"""Compute-optimal choice on grids whose best choice is known."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.compute_optimal import (
    Binning,
    Grid,
    affordable,
    at_budget,
    best_option,
    binnings,
    choose_by_bin,
    cross_fit,
    default_budgets,
    halves,
)
from evaluation.fit_planner import fit_planner
from evaluation.search_curves import COSTS, Option
from evaluation.search_difficulty import Measured
from tests.evaluation.search_rows import problem

PROBLEMS = [problem(number) for number in range(40)]
HARD = np.arange(40) < 20
HALF = halves(PROBLEMS, 0)


def grid(right: list[np.ndarray], costs: list[float], probed: tuple[float, ...] = (0, 0)) -> Grid:
    return Grid(
        names=tuple(f"option {number}" for number in range(len(right))),
        right=np.stack([np.asarray(values, dtype=float) for values in right], axis=1),
        cost=np.tile(np.array(costs, dtype=float), (len(right[0]), 1)),
        probed=np.tile(np.array(probed, dtype=float), (len(right[0]), 1)),
    )


def oracle(extra: float = 0.0, options: int = 2) -> Binning:
    return Binning(
        name="oracle_bins", assign=lambda _: (~HARD).astype(int), extra=np.full((40, options), extra)
    )


SAMPLING_AND_BEAM = grid([~HARD, HARD], [10, 20])
"""Sampling is right on every easy problem, the beam on every hard one."""


def test_each_bin_gets_what_is_best_there() -> None:
    row = at_budget(SAMPLING_AND_BEAM, [oracle()], HALF, 20)
    assert row is not None
    assert row["oracle_bins"]["mean"] == row["bound"]["mean"] == row["oracle_bins"]["hindsight"] == 1
    assert row["oracle_bins"]["chosen"] == [["option 1", "option 0"]] * 2
    assert row["oracle_bins"]["probed"] == [True, True]
    assert row["oracle_bins"]["mean_cost"] == 15
    assert row["oracle_bins"]["regret"] == 0
    assert row["settings"] == {"option 0": 0.5, "option 1": 0.5}
    assert row["oracle_bins"]["gain"]["mean"] == pytest.approx(1 - row["fixed"]["mean"])
    assert row["oracle_bins"]["gain"]["low"] > 0.3


def test_within_a_smaller_budget_there_is_no_beam() -> None:
    row = at_budget(SAMPLING_AND_BEAM, [oracle()], HALF, 19)
    assert row is not None
    assert row["fixed"]["chosen"] == [["option 0"]] * 2
    assert row["oracle_bins"]["mean"] == row["fixed"]["mean"] == row["bound"]["mean"] == 0.5
    assert row["oracle_bins"]["gain"] == {"mean": 0, "low": 0, "high": 0}
    assert at_budget(SAMPLING_AND_BEAM, [oracle()], HALF, 9) is None
    assert default_budgets(SAMPLING_AND_BEAM) == [10.5, 21]
    near = grid([HALF, HALF, HALF, HALF], [10, 10.2, 10.4, 11])
    assert default_budgets(near) == pytest.approx([10.92, 11.55])


def test_luck_on_one_half_is_measured_on_the_other() -> None:
    lucky = grid([np.full(40, 0.5), HALF], [10, 10])
    fixed = cross_fit(lucky, HALF, 10)
    assert fixed is not None
    assert fixed.chosen == [["option 1"], ["option 0"]]
    assert fixed.right[~HALF].tolist() == [0] * 20  # chosen for its luck on the first half
    assert fixed.right[HALF].tolist() == [0.5] * 20
    row = at_budget(lucky, [oracle()], HALF, 10)
    assert row is not None
    assert row["fixed"]["mean"] == row["oracle_bins"]["mean"] == 0.25
    assert row["oracle_bins"]["hindsight"] == 0.75
    assert row["oracle_bins"]["regret"] == 0.5
    assert row["bound"]["mean"] == 0.75


def test_a_probe_counts_and_is_left_out_where_it_does_not_fit() -> None:
    paid = at_budget(SAMPLING_AND_BEAM, [oracle(5)], HALF, 25)
    assert paid is not None
    assert (paid["oracle_bins"]["mean"], paid["oracle_bins"]["mean_cost"]) == (1, 20)
    short = at_budget(SAMPLING_AND_BEAM, [oracle(5)], HALF, 24)
    assert short is not None
    assert short["oracle_bins"]["mean"] == short["fixed"]["mean"]
    assert short["oracle_bins"]["probed"] == [False, False]
    assert short["oracle_bins"]["mean_cost"] == short["fixed"]["mean_cost"]


def test_a_parallel_option_goes_on_from_the_probe() -> None:
    costs = grid([~HARD, HARD, HARD], [2, 10, 10], (2, 8, 0))
    (_, way) = binnings(costs, MEASURED, PROBLEMS, 2, "generated_tokens")
    assert way.extra[0].tolist() == [8, 2, 10]


def test_equally_good_options_go_to_the_cheapest() -> None:
    same = grid([HARD, HARD], [10, 5])
    everything = np.ones(40, dtype=bool)
    assert best_option(same, everything, np.array([True, True])) == 1
    assert best_option(same, everything, np.array([True, False])) == 0


def test_a_bin_that_the_half_lacks_gets_the_best_over_all() -> None:
    chosen = choose_by_bin(
        SAMPLING_AND_BEAM, HARD, (~HARD).astype(int), np.zeros((40, 2)), 20
    )  # easy problems are not in the half
    assert chosen is not None
    assert chosen.option.tolist() == [1] * 40


def test_budgets_hold_on_the_half_that_is_fitted_and_nothing_exceeds_the_bound() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        made = Grid(
            names=tuple("abcdef"),
            right=rng.random((40, 6)),
            cost=rng.gamma(2, rng.random((1, 6)) * 10, (40, 6)),
            probed=np.zeros((40, 6)),
        )
        bins_P = rng.integers(0, 3, 40)
        extra_PO = rng.random((40, 6))
        for budget in default_budgets(made):
            chosen = choose_by_bin(made, HALF, bins_P, extra_PO, budget)
            if chosen is None:
                assert not affordable(made, HALF, budget).any()
                continue
            rows = np.flatnonzero(HALF)
            cost_P = made.cost[rows, chosen.option[rows]]
            cost_P = cost_P + (extra_PO[rows, chosen.option[rows]] if chosen.probed else 0)
            assert cost_P.mean() <= budget * (1 + 1e-9)
        way = Binning(name="bins", assign=lambda _, numbers=bins_P: numbers, extra=extra_PO)
        row = at_budget(made, [way], HALF, default_budgets(made)[-1])
        assert row is not None
        values = [row["fixed"]["mean"], row["bins"]["mean"], row["bins"]["hindsight"]]
        assert row["bound"]["mean"] >= max(values) - 1e-12


def test_halves_are_equal_and_depend_on_ids_and_seed_alone() -> None:
    assert HALF.sum() == 20
    order = np.random.default_rng(0).permutation(40)
    assert halves([PROBLEMS[place] for place in order], 0).tolist() == HALF[order].tolist()
    assert halves(PROBLEMS, 1).tolist() != HALF.tolist()
    assert halves(PROBLEMS[:5], 0).sum() == 3


# ------------------------------------------------------------------ the planner


def option(name: str, n: int, right: np.ndarray, tokens: float) -> Option:
    strategy = name.split()[0]
    return Option(
        name=name,
        searched=name,
        strategy=strategy,
        n=n,
        width=1,
        options={"n": 16, "depth": 3},
        rights={"majority": right.astype(float)},
        costs={unit: np.full(40, tokens) for unit in COSTS},
        probed={unit: np.full(40, 10.0 * (strategy == "majority")) for unit in COSTS},
    )


MEASURED = Measured(
    setting="majority n=4",
    pass_rate=np.where(HARD, 0.0, 1.0),
    probe=4,
    estimate=np.where(HARD, 0.25, 0.75),
    probe_costs={unit: np.full(40, 10.0) for unit in COSTS},
)


def test_the_planner_plans_what_is_best_in_a_bin() -> None:
    options = [option("majority n=4", 4, ~HARD, 10), option("beam n=4", 4, HARD, 20)]
    planner = fit_planner(
        options,
        MEASURED,
        estimate="agreement",
        choice="weighted_best_of_n",
        bins=5,
        units=["generated_tokens"],
    )
    assert planner.edges == (0.75,)
    assert planner.shares == (0.5, 0.5)
    hard, easy = planner.plan(0.5, 20), planner.plan(0.75, 20)
    assert (hard.setting, hard.accuracy, hard.mean_cost) == ("beam n=4", 1, {"generated_tokens": 20})
    assert (easy.setting, easy.accuracy, easy.mean_cost) == ("majority n=4", 1, {"generated_tokens": 0})
    assert hard.choice == "majority"
    assert hard.options == {"n": 4, "depth": 3}
    assert planner.plan(None, 10).mean_cost == {"generated_tokens": 10}
    assert planner.worth_probing(30)
    assert not planner.worth_probing(20)


def test_model_bins_are_made_on_the_half_that_is_fitted() -> None:
    made = grid([~HARD, HARD], [10, 20], (10, 0))
    ways = {way.name: way for way in binnings(made, MEASURED, PROBLEMS, 2, "generated_tokens")}
    assert ways["oracle_bins"].assign(HALF).tolist() == (~HARD).astype(int).tolist()
    assert ways["model_bins"].assign(HALF).tolist() == (~HARD).astype(int).tolist()
    assert ways["model_bins"].assign(HARD).tolist() == [0] * 40  # all of it is alike: one bin
    row = at_budget(made, list(ways.values()), HALF, 30)
    assert row is not None
    assert row["model_bins"]["mean"] == 1
    assert row["model_bins"]["mean_cost"] == 20  # 10 of sampling, or 10 of the probe and 20 of the beam
