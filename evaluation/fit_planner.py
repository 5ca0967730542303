"""The planner of strategy `auto`, fitted on searches. P problems."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluation.search_curves import Option
from evaluation.search_difficulty import Measured, bin_edges
from inference.search.planner import Estimate, Plan, Planner


def fit_planner(
    options: Sequence[Option],
    measured: Measured,
    *,
    estimate: Estimate,
    choice: str,
    bins: int,
    units: Sequence[str],
) -> Planner:
    """Plans for the bins of the estimate, from all problems."""
    assert measured.estimate is not None
    edges = bin_edges(measured.estimate, bins)
    bins_P = np.searchsorted(edges, measured.estimate, side="right")

    def plans(rows: np.ndarray, *, probed: bool) -> tuple[Plan, ...]:
        return tuple(_plan(option, choice, rows, units, probed) for option in options)

    return Planner(
        probe=measured.probe,
        estimate=estimate,
        probe_cost={unit: float(measured.probe_costs[unit].mean()) for unit in units},
        choice=choice,
        edges=edges,
        shares=tuple((np.bincount(bins_P) / len(bins_P)).tolist()),
        bins=tuple(plans(bins_P == number, probed=True) for number in range(len(edges) + 1)),
        overall=plans(np.ones(len(bins_P), dtype=bool), probed=False),
    )


def _plan(option: Option, choice: str, rows: np.ndarray, units: Sequence[str], probed: bool) -> Plan:
    costs = {unit: option.costs[unit] - option.probed[unit] * probed for unit in units}
    return Plan(
        setting=option.name,
        searched=option.searched,
        strategy=option.strategy,
        n=option.n,
        width=option.width,
        options={**option.options, "n": option.n},
        choice=option.choice(choice),
        mean_cost={unit: float(values[rows].mean()) for unit, values in costs.items()},
        accuracy=float(option.right(choice)[rows].mean()),
    )
