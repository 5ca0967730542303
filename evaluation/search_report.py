"""The results of stage `evaluate_search` as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluation.sheets import Sheet
from inference.search.results import CHOICES

if TYPE_CHECKING:
    from inference.search.planner import Planner

UNIT_NAMES = {"generated_tokens": "generated tokens", "flops": "FLOPs", "seconds": "seconds"}
WAYS = ("oracle_bins", "model_bins")
"""How problems are told apart."""
_CHOICE_NAMES = dict(zip(CHOICES, ("majority", "best", "weighted"), strict=True))
NOTE = "Accuracy in %, with 95 % intervals: bootstrap over problems. Costs are means of a problem."
"""Of all tables."""


def sheets(results: Mapping[str, Any], planner: Planner | None) -> list[Sheet]:
    """All tables of the stage's results."""
    return [
        _settings(results["settings"]),
        _options(results["options"], results["costs"]),
        _differences(results["differences"]),
        *(_bins(name, rows) for name, rows in results["bins"].items()),
        *(_optimal(unit, found["budgets"]) for unit, found in results["compute_optimal"].items()),
        *(_planned(planner, results["compute_optimal"]) if planner else ()),
    ]


def screen_sheets(results: Mapping[str, Any]) -> list[Sheet]:
    """What fits on a screen: the settings, and the choice by each unit."""
    made = [
        Sheet(
            title=f"Settings on {results['problems']} problems, choice {results['choice']}",
            columns=("setting", "accuracy, %", "oracle", "tokens", "FLOPs", "seconds"),
            rows=[
                (
                    row["setting"],
                    interval(row[results["choice"]] or row["majority"]),
                    percent(row["oracle"]["mean"]),
                    *(number(row["cost"][unit]) for unit in UNIT_NAMES),
                )
                for row in results["settings"]
            ],
        )
    ]
    for unit, found in results["compute_optimal"].items():
        ways = [name for name in WAYS if name in found["budgets"][0]]
        heads = [head for way in ways for head in (way.removesuffix("_bins"), "gain")]
        rows = [
            (
                number(row["budget"]),
                percent(row["fixed"]["mean"]),
                *(cell for way in ways for cell in _way_cells(row[way])[:2]),
                percent(row["bound"]["mean"]),
            )
            for row in found["budgets"]
        ]
        title = f"Compute-optimal by {UNIT_NAMES[unit]}"
        made.append(Sheet(title=title, columns=("budget", "fixed", *heads, "bound"), rows=rows))
    return made


# ------------------------------------------------------------------ the tables


def _settings(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    return Sheet(
        title="Settings",
        columns=("setting", *_CHOICE_NAMES.values(), "oracle", "tokens", "scorer tokens", "FLOPs", "seconds"),
        rows=[
            (
                row["setting"],
                *(interval(row[choice]) for choice in CHOICES),
                percent(row["oracle"]["mean"]),
                *(
                    number(row["cost"][unit])
                    for unit in ("generated_tokens", "scorer_tokens", "flops", "seconds")
                ),
            )
            for row in rows
        ],
        note="As they ran; oracle: problems with a right candidate.",
    )


def _options(rows: Sequence[Mapping[str, Any]], units: Sequence[str]) -> Sheet:
    return Sheet(
        title="Accuracy by n",
        columns=("setting", "choice", "accuracy", *(UNIT_NAMES[unit] for unit in units)),
        rows=[
            (
                row["setting"],
                _CHOICE_NAMES[row["choice"]],
                interval(row["accuracy"]),
                *(number(row["cost"][unit]) for unit in units),
            )
            for row in rows
        ],
        note="Parallel settings at smaller n are expectations over the subsets of their candidates.",
    )


def _differences(rows: Sequence[Mapping[str, Any]]) -> Sheet:
    return Sheet(
        title="Differences at equal n",
        columns=("setting", "choice", "minus", "choice", "points", "ratio of tokens"),
        rows=[
            (
                row["setting"],
                _CHOICE_NAMES[row["choice"]],
                row["against"],
                _CHOICE_NAMES[row["against_choice"]],
                interval(row),
                number(row["tokens_ratio"]),
            )
            for row in rows
        ],
        note="On the same problems, in percentage points.",
    )


def _bins(name: str, bins: Sequence[Mapping[str, Any]]) -> Sheet:
    names = [row["setting"] for row in bins[0]["options"]]
    return Sheet(
        title=f"Accuracy by difficulty: {name.replace('_', ' ')}",
        columns=("setting", *(f"{bin_name(row)} ({row['problems']})" for row in bins)),
        rows=[
            (each, *(percent(row["options"][place]["mean"]) for row in bins))
            for place, each in enumerate(names)
        ],
        note="The range of the estimate and the problems of each bin; the hardest first.",
    )


def bin_name(row: Mapping[str, Any]) -> str:
    """The range of the estimates in a bin."""
    low, high = f"{row['low']:.2f}", f"{row['high']:.2f}"
    return low if low == high else f"{low} to {high}"


def _optimal(unit: str, rows: Sequence[Mapping[str, Any]]) -> Sheet:
    ways = [name for name in WAYS if name in rows[0]]
    heads = [head for way in ways for head in (way.replace("_", " "), "gain", "regret")]
    return Sheet(
        title=f"Compute-optimal by {UNIT_NAMES[unit]}",
        columns=("budget", "best fixed", *heads, "bound"),
        rows=[
            (
                number(row["budget"]),
                percent(row["fixed"]["mean"]),
                *(cell for way in ways for cell in _way_cells(row[way])),
                percent(row["bound"]["mean"]),
            )
            for row in rows
        ],
        note=(
            "Chosen on one half of the problems, measured on the other. Gain: points over the best fixed "
            "setting. Regret: points under the choice in hindsight. Bound: the best setting of each problem."
        ),
    )


def _way_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return percent(row["mean"]), interval(row["gain"]), percent(row["regret"])


def _planned(planner: Planner, found: Mapping[str, Any]) -> Iterator[Sheet]:
    """What the planner gives each bin, by the budget for the probe and what follows."""
    lows = (None, *planner.edges)
    names = ["no probe", *(f"under {high:.2f}" for high in planner.edges[:1])]
    names += [f"from {low:.2f}" for low in planner.edges] if planner.edges else ["all"]
    for unit, result in found.items():
        rows = []
        for budget in (row["budget"] for row in result["budgets"]):
            left = budget - planner.probe_cost[unit]
            of_bins = [planner.plan(_inside(low), left, unit).setting if left >= 0 else "-" for low in lows]
            probe = "yes" if planner.worth_probing(budget, unit) else "no"
            rows.append((number(budget), planner.plan(None, budget, unit).setting, *of_bins, probe))
        yield Sheet(
            title=f"Plans by {UNIT_NAMES[unit]}",
            columns=("budget", *names, "worth a probe"),
            rows=rows,
            note=f"Fitted on all problems. Bins by {planner.estimate} of {planner.probe} candidates, which "
            f"take {number(planner.probe_cost[unit])} of the budget and are the first of a parallel search.",
        )


def _inside(low: float | None) -> float:
    return float("-inf") if low is None else low


# ------------------------------------------------------------------ cells


def percent(share: float) -> str:
    """A share in %."""
    return f"{round(100 * share, 1) + 0.0:.1f}"


def interval(row: Mapping[str, float] | None) -> str:
    """Mean, low and high of a row in %."""
    if row is None:
        return "-"
    return f"{percent(row['mean'])} [{percent(row['low'])}, {percent(row['high'])}]"


def number(value: float | None) -> str:
    """A cost with four digits; "-" where it is not known."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"
