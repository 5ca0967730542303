"""Compute-optimal search: for each bin of difficulty the setting that is best within a budget.

Settings are chosen on one half of the problems and measured on the other, both ways (arXiv 2408.03314,
section 3.2). P problems, O options.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data.schema import Problem
from evaluation.best_of_n import SAME, Difference, paired_difference
from evaluation.metrics import summarise
from evaluation.search_curves import Option
from evaluation.search_difficulty import Measured, bin_edges, rank_bins

MARGIN = 1.05
"""Of default budgets over the mean cost of a setting."""
Assign = Callable[[np.ndarray], np.ndarray]
"""From the mask [P] of the problems that bins may be made of to the number [P] of every problem's bin."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What every option achieves and costs on every problem, in one unit."""

    names: tuple[str, ...]
    right: np.ndarray
    """[P, O] expected accuracy."""
    cost: np.ndarray
    """[P, O]"""
    probed: np.ndarray
    """[P, O] what of the cost a probe has paid already."""


@dataclass(frozen=True, kw_only=True)
class Binning:
    """A way to tell problems apart, with what that costs."""

    name: str
    assign: Assign
    extra: np.ndarray
    """[P, O] what an option costs more where the probe goes before it."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Options for problems."""

    option: np.ndarray
    """[P] index of the option."""
    probed: bool
    """Whether the bins were told apart; without, all have one option."""
    allowed: np.ndarray
    """[P, O] what each problem could have been given within the budget."""


def grid_of(options: Sequence[Option], choice: str, unit: str) -> Grid:
    """The options in one unit of cost."""
    return Grid(
        names=tuple(option.name for option in options),
        right=np.stack([option.right(choice) for option in options], axis=1),
        cost=np.stack([option.costs[unit] for option in options], axis=1),
        probed=np.stack([option.probed[unit] for option in options], axis=1),
    )


def binnings(
    grid: Grid, measured: Measured, problems: Sequence[Problem], bins: int, unit: str
) -> list[Binning]:
    """`oracle_bins` by the share of right candidates, and `model_bins` by the estimate where there is one."""
    oracle = rank_bins(measured.pass_rate, problems, bins)
    made = [Binning(name="oracle_bins", assign=lambda _: oracle, extra=np.zeros_like(grid.cost))]
    estimate = measured.estimate
    if estimate is not None:

        def by_edges(fit: np.ndarray) -> np.ndarray:
            return np.searchsorted(bin_edges(estimate[fit], bins), estimate, side="right")

        extra_PO = measured.probe_costs[unit][:, None] - grid.probed
        made.append(Binning(name="model_bins", assign=by_edges, extra=extra_PO))
    return made


def halves(problems: Sequence[Problem], seed: int) -> np.ndarray:
    """[P] bool: one half of the problems (to one), by a hash of their ids."""
    keys = [hashlib.sha256(f"{seed} {problem.id}".encode()).digest() for problem in problems]
    mask = np.zeros(len(problems), dtype=bool)
    mask[sorted(range(len(problems)), key=keys.__getitem__)[::2]] = True
    return mask


# ------------------------------------------------------------------ choosing


def affordable(grid: Grid, rows: np.ndarray, budget: float, extra_PO: np.ndarray | None = None) -> np.ndarray:
    """[O] whether the mean cost on these problems is within the budget."""
    cost_PO = grid.cost if extra_PO is None else grid.cost + extra_PO
    return cost_PO[rows].mean(axis=0) <= budget * (1 + 1e-9)


def best_option(grid: Grid, rows: np.ndarray, allowed_O: np.ndarray) -> int:
    """The allowed option with the best accuracy on these problems; of equal ones the cheapest."""
    right_O = grid.right[rows].mean(axis=0).round(12)
    cost_O = grid.cost[rows].mean(axis=0)
    return min(np.flatnonzero(allowed_O).tolist(), key=lambda o: (-right_O[o], cost_O[o]))


def choose_one(grid: Grid, fit: np.ndarray, budget: float) -> Chosen | None:
    """One option for all problems, None where the budget holds none."""
    allowed_O = affordable(grid, fit, budget)
    if not allowed_O.any():
        return None
    problems = len(grid.right)
    return Chosen(
        option=np.full(problems, best_option(grid, fit, allowed_O)),
        probed=False,
        allowed=np.tile(allowed_O, (problems, 1)),
    )


def choose_by_bin(
    grid: Grid, fit: np.ndarray, bins_P: np.ndarray, extra_PO: np.ndarray, budget: float
) -> Chosen | None:
    """An option for each bin; one for all (`choose_one`) where that is as good on these problems, or the
    budget does not hold the probe and an option in every bin. A bin without problems in `fit` is given what
    is best over all bins."""
    everywhere = choose_one(grid, fit, budget)
    option_P = np.empty(len(bins_P), dtype=int)
    allowed_PO = np.empty(grid.right.shape, dtype=bool)
    for number in np.unique(bins_P):
        inside = bins_P == number
        rows = fit & inside if (fit & inside).any() else fit
        allowed_O = affordable(grid, rows, budget, extra_PO)
        if not allowed_O.any():
            return everywhere
        option_P[inside], allowed_PO[inside] = best_option(grid, rows, allowed_O), allowed_O
    if everywhere and _fitted(grid, fit, everywhere.option) >= _fitted(grid, fit, option_P):
        return everywhere
    return Chosen(option=option_P, probed=True, allowed=allowed_PO)


def _fitted(grid: Grid, fit: np.ndarray, option_P: np.ndarray) -> float:
    rows = np.flatnonzero(fit)
    return round(float(grid.right[rows, option_P[rows]].mean()), 12)


# ------------------------------------------------------------------ measuring


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A policy on all problems, each half by what was chosen on the other."""

    option: np.ndarray
    """[P] index of the option."""
    right: np.ndarray
    """[P]"""
    cost: np.ndarray
    """[P] with the probe."""
    allowed: np.ndarray
    """[P, O]"""
    probed: tuple[bool, bool]
    chosen: list[list[str]]
    """For each half the options of the bins, the hardest first; one where it is the same for all."""


def cross_fit(
    grid: Grid, half_P: np.ndarray, budget: float, binning: Binning | None = None, *, hindsight: bool = False
) -> Outcome | None:
    """Choose on each half and measure on the other; None where a budget holds nothing.

    Args:
        binning: without it one option is chosen for all problems.
        hindsight: choose on the half that is measured: the best that these bins could have done. Bins are
            made on the other half still.
    """
    option_P = np.zeros(len(half_P), dtype=int)
    allowed_PO = np.zeros(grid.right.shape, dtype=bool)
    cost_PO = grid.cost.copy()
    probed, names = [], []
    for fit in (half_P, ~half_P):
        measured = ~fit
        bins_P = binning.assign(fit) if binning else np.zeros(len(half_P), dtype=int)
        on = measured if hindsight else fit
        if binning:
            chosen = choose_by_bin(grid, on, bins_P, binning.extra, budget)
        else:
            chosen = choose_one(grid, on, budget)
        if chosen is None:
            return None
        option_P[measured], allowed_PO[measured] = chosen.option[measured], chosen.allowed[measured]
        if binning and chosen.probed:
            cost_PO[measured] += binning.extra[measured]
        probed.append(chosen.probed)
        of_bin = [chosen.option[bins_P == number][0] for number in np.unique(bins_P)]
        names.append([grid.names[option] for option in (of_bin if chosen.probed else of_bin[:1])])
    problems = np.arange(len(half_P))
    return Outcome(
        option=option_P,
        right=grid.right[problems, option_P],
        cost=cost_PO[problems, option_P],
        allowed=allowed_PO,
        probed=(probed[0], probed[1]),
        chosen=names,
    )


def at_budget(
    grid: Grid, ways: Sequence[Binning], half_P: np.ndarray, budget: float, seed: int = 0
) -> dict[str, Any] | None:
    """What a budget buys; None where a half can afford no option.

    Returns:
        budget; ways (`right` and `cost` of each problem by each way below; bound has no cost); settings
        (accuracy of each option that is affordable on all problems); fixed (the best option for all problems,
        chosen on the other half); for each way its accuracy, mean_cost, gain (over fixed, with the paired
        interval), hindsight and regret (hindsight - accuracy), chosen and probed; bound (the best option for
        each problem that any of them could afford there: no choice exceeds it).
    """
    fixed = cross_fit(grid, half_P, budget)
    if fixed is None:
        return None
    everything = np.ones(len(half_P), dtype=bool)
    means_O, allowed_O = grid.right.mean(axis=0), affordable(grid, everything, budget)
    row: dict[str, Any] = {
        "budget": budget,
        "settings": {grid.names[o]: float(means_O[o]) for o in np.flatnonzero(allowed_O)},
        "fixed": _outcome_row(fixed, seed),
    }
    row["ways"] = {"fixed": _of_problems(fixed)}
    allowed_PO = fixed.allowed | allowed_O
    for way in ways:
        found = cross_fit(grid, half_P, budget, way)
        best = cross_fit(grid, half_P, budget, way, hindsight=True) or found
        assert found is not None
        assert best is not None
        hindsight = float(best.right.mean())
        row[way.name] = {
            **_outcome_row(found, seed),
            "probed": list(found.probed),
            "gain": asdict(_gain(found, fixed, seed)),
            "hindsight": hindsight,
            "regret": hindsight - float(found.right.mean()),
        }
        row["ways"][way.name] = _of_problems(found)
        allowed_PO = allowed_PO | found.allowed | best.allowed
    bound_P = np.where(allowed_PO, grid.right, -1.0).max(axis=1)
    row["ways"]["bound"] = {"right": bound_P.tolist(), "cost": None}
    return {**row, "bound": summarise(bound_P.tolist(), seed=seed)}


def _of_problems(outcome: Outcome) -> dict[str, list[float] | None]:
    return {"right": outcome.right.tolist(), "cost": outcome.cost.tolist()}


def _outcome_row(outcome: Outcome, seed: int) -> dict[str, Any]:
    return {
        **summarise(outcome.right.tolist(), seed=seed),
        "mean_cost": float(outcome.cost.mean()),
        "chosen": outcome.chosen,
    }


def _gain(outcome: Outcome, fixed: Outcome, seed: int) -> Difference:
    if (outcome.option == fixed.option).all():
        return SAME
    return paired_difference(outcome.right.tolist(), fixed.right.tolist(), seed=seed)


def default_budgets(grid: Grid) -> list[float]:
    """The mean costs of the options, ascending, of nearly equal ones the highest; each with a margin, since
    the halves of the problems cost a little more or less."""
    costs = sorted(set(grid.cost.mean(axis=0).tolist()))
    following = [*costs[1:], math.inf]
    return [
        MARGIN * cost for cost, next_one in zip(costs, following, strict=True) if next_one > MARGIN * cost
    ]
