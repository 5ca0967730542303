"""How difficult each problem is: by its share of right candidates, and as a model can tell without answers.

P problems.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.schema import Problem
from evaluation.search_curves import COSTS, PARALLEL, Searches, cost_at, has_scores, padded
from inference.search.planner import Estimate, estimate_difficulty

Difficulty = Literal["agreement", "score", "oracle"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The difficulty of each problem; high is easy."""

    setting: str
    """Whose candidates show it."""
    pass_rate: np.ndarray
    """[P] share of right candidates: an oracle's difficulty, which nobody has before the answer."""
    probe: int
    """Candidates of the estimate; 0 where there is none."""
    estimate: np.ndarray | None
    """[P] what can be told without a gold answer."""
    probe_costs: dict[str, np.ndarray]
    """[P] by name of cost."""


def measure_difficulty(searches: Searches, kind: Difficulty, probe: int, seed: int = 0) -> Measured:
    """Difficulty by the largest parallel setting; `score` takes the largest one with scores.

    The estimate is of `probe` of the candidates, drawn at random: what it costs is their share, scores
    included where there are any.

    Raises:
        ValueError: there is no such setting, or it has fewer candidates.
    """
    name = _largest(searches, PARALLEL)
    results = searches[name]
    rates = np.array([sum(result.correct) / result.n for result in results])
    if kind == "oracle":
        none = {unit: np.zeros(len(results)) for unit in COSTS}
        return Measured(setting=name, pass_rate=rates, probe=0, estimate=None, probe_costs=none)
    probed = _largest(searches, PARALLEL, scored=True) if kind == "score" else name
    if searches[probed][0].n < probe:
        raise ValueError(
            f"probe: {probe} candidates tell the difficulty, but {probed!r} has {searches[probed][0].n}; run "
            f"stage search with a larger parallel setting, or set `probe: {searches[probed][0].n}`"
        )
    costs = [cost_at(result.cost, probe / result.n) for result in searches[probed]]
    return Measured(
        setting=name,
        pass_rate=rates,
        probe=probe,
        estimate=_estimates(searches, probed, kind, probe, seed),
        probe_costs={unit: np.array([cost[unit] for cost in costs]) for unit in COSTS},
    )


def _estimates(searches: Searches, name: str, kind: Estimate, probe: int, seed: int) -> np.ndarray:
    estimates = []
    for result in searches[name]:
        row = padded(result)
        classes = [-1 if answer is None else int(answer) for answer in row.answers]
        drawn = random.Random(f"{seed} {result.problem.id}").sample(range(result.n), probe)
        estimates.append(
            estimate_difficulty(kind, [classes[i] for i in drawn], [row.scores[i] for i in drawn])
        )
    return np.array(estimates)


def _largest(searches: Searches, strategies: Sequence[str], scored: bool = False) -> str:
    names = [
        name
        for name, results in searches.items()
        if results[0].strategy in strategies and (not scored or has_scores(results))
    ]
    if not names:
        what = (
            "best_of_n setting, whose candidates have scores" if scored else "majority or best_of_n setting"
        )
        raise ValueError(
            f"searches: the difficulty of problems is told by a {what}, and there is none among "
            f"{', '.join(searches)}; add {{strategy: best_of_n, n: 16}} to the settings of stage search"
        )
    return max(names, key=lambda name: (searches[name][0].n, has_scores(searches[name])))


# ------------------------------------------------------------------ bins


def rank_bins(values: np.ndarray, problems: Sequence[Problem], bins: int) -> np.ndarray:
    """[P] number of the bin of each problem, 0 with the lowest values; the bins have equal sizes (to one),
    and of equal values the lower id comes first.

    Raises:
        ValueError: fewer problems than bins.
    """
    check_bins(len(problems), bins)
    order = sorted(range(len(problems)), key=lambda place: (values[place], problems[place].id))
    numbers = np.empty(len(problems), dtype=int)
    numbers[order] = np.arange(len(problems)) * bins // len(problems)
    return numbers


def bin_edges(estimates: np.ndarray, bins: int) -> tuple[float, ...]:
    """Least values of all bins but the first: the cuts between values that are nearest to the quantiles.
    Equal values are in one bin, so that there may be fewer bins; none is empty."""
    values, counts = np.unique(estimates, return_counts=True)
    cuts = np.cumsum(counts)[:-1]
    targets = [number * len(estimates) // bins for number in range(1, bins)] if len(cuts) else []
    return tuple(sorted({float(values[1 + np.abs(cuts - target).argmin()]) for target in targets}))


def check_bins(problems: int, bins: int) -> None:
    """Refuse bins without a problem in each half."""
    if problems < 2 * bins:
        raise ValueError(
            f"bins: {bins} bins on two halves need {2 * bins} problems, and there are {problems}; lower "
            "`bins` or search more problems"
        )
