"""Stage `evaluate_search`: what search is worth for its compute, and which search a problem should get."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.figures import write_png
from data.schema import Problem
from data.stage import run_stage
from data.store import atomic_path, write_json
from evaluation.compute_optimal import at_budget, binnings, default_budgets, grid_of, halves
from evaluation.fit_planner import fit_planner
from evaluation.metrics import summarise
from evaluation.problem_values import write_choices
from evaluation.search_curves import (
    AUTO,
    Option,
    Searches,
    differences,
    load_searches,
    option_rows,
    options_of,
    setting_rows,
)
from evaluation.search_difficulty import (
    Difficulty,
    Measured,
    bin_edges,
    check_bins,
    measure_difficulty,
    rank_bins,
)
from evaluation.search_plot import search_pictures
from evaluation.search_report import NOTE, UNIT_NAMES, screen_sheets, sheets
from evaluation.sheets import markdown, rich_table
from inference.search.planner import FILE, Planner

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class EvaluateSearchConfig:
    """Fields of stage `evaluate_search`."""

    searches: list[str] = field(default_factory=list)
    """Folders of stage `search`; their settings are compared on the same problems."""
    choice: Literal["majority", "best_of_n", "weighted_best_of_n"] = "weighted_best_of_n"
    """How an answer is chosen from the candidates; settings without scores take the majority."""
    bins: int = 5
    """Bins of difficulty."""
    difficulty: Difficulty = "agreement"
    """What tells a problem's difficulty without a gold answer, from a few candidates: agreement (share of the
    most frequent answer) or score (mean score). oracle: nothing does, and there is no planner."""
    probe: int = 4
    """Candidates that it is told from; what they cost counts."""
    costs: list[str] = field(default_factory=lambda: ["generated_tokens", "flops"])
    """Units of the budgets: generated_tokens, flops (of policy and scorer), seconds."""
    budgets: dict[str, list[float]] = field(default_factory=dict)
    """Budgets of a problem by unit; without them the mean costs of all settings."""
    seed: int = 0
    """Seed of the halves, the probes, the intervals and random subsets."""

    def __post_init__(self) -> None:
        if not self.searches:
            raise ValueError("searches: give at least one folder of stage search, for example run:18_search")
        if len(set(self.searches)) < len(self.searches):
            raise ValueError(f"searches: a folder repeats in {self.searches}")
        for name in ("bins", "probe"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least 1")
        for key, units in (("costs", self.costs), ("budgets", [*self.budgets])):
            unknown = sorted(set(units) - set(UNIT_NAMES))
            if unknown:
                raise ValueError(f"{key}: {unknown[0]!r} is no unit; there are {', '.join(UNIT_NAMES)}")
        if not self.costs or len(set(self.costs)) < len(self.costs):
            raise ValueError(f"costs: {self.costs} must name at least one unit, and each once")
        for unit, budgets in self.budgets.items():
            if unit not in self.costs:
                raise ValueError(f"budgets: {unit} is not among the costs {', '.join(self.costs)}")
            if not budgets or min(budgets) <= 0:
                raise ValueError(f"budgets: {unit} needs numbers above 0, not {budgets}")


def evaluate_search(config: EvaluateSearchConfig, folder: Path) -> dict[str, Any]:
    """Measure all settings and choices; write planner.json, choices.json, results.md and plots/."""
    searches = load_searches(config.searches)
    problems = [result.problem for result in next(iter(searches.values()))]
    check_bins(len(problems), config.bins)
    measured = measure_difficulty(searches, config.difficulty, config.probe, config.seed)
    every_option = options_of(searches, config.seed, measured.probe)
    options = [option for option in every_option if option.strategy != AUTO]
    costs = known_units(config.costs, every_option)
    budgets = {unit: budget_rows(config, options, measured, problems, unit) for unit in costs}
    write_choices(folder, [problem.id for problem in problems], budgets)
    results = {
        "problems": len(problems),
        "choice": config.choice,
        "costs": costs,
        "settings": setting_rows(searches, config.seed),
        "options": option_rows(every_option, config.choice, config.seed),
        "differences": differences(every_option, config.choice, config.seed),
        "difficulty": difficulty_row(config, measured),
        "bins": bin_rows(config, options, measured, problems),
        "compute_optimal": {unit: {"budgets": without_ways(rows)} for unit, rows in budgets.items()},
    }
    planner = None
    if config.difficulty != "oracle":
        planner = fit_planner(
            options,
            measured,
            estimate=config.difficulty,
            choice=config.choice,
            bins=config.bins,
            units=costs,
        )
        planner.save(folder / FILE)
    write_plots(folder / "plots", results)
    report(results, searches, planner, folder)
    return {**headline(results), **results}


def without_ways(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of budgets without what stands in choices.json."""
    return [{key: value for key, value in row.items() if key != "ways"} for row in rows]


def known_units(costs: Sequence[str], options: Sequence[Option]) -> list[str]:
    """The units in which the cost of every option is known.

    Raises:
        ValueError: there is none.
    """
    known = []
    for unit in costs:
        unknown = [option.name for option in options if not np.isfinite(option.costs[unit]).all()]
        if unknown:
            logger.warning("%s: not known for %s; left out", unit, ", ".join(unknown))
        else:
            known.append(unit)
    if not known:
        raise ValueError(f"costs: {', '.join(costs)} are not known for every setting; add generated_tokens")
    return known


def difficulty_row(config: EvaluateSearchConfig, measured: Measured) -> dict[str, Any]:
    """How difficulty was told, and its rank correlation with the share of right candidates."""
    row = {"estimate": config.difficulty, "setting": measured.setting, "probe": measured.probe}
    if measured.estimate is None:
        return {**row, "correlation": None}
    own, others = _ranks(measured.estimate), _ranks(measured.pass_rate)
    varies = own.std() > 0 and others.std() > 0
    return {**row, "correlation": float(np.corrcoef(own, others)[0, 1]) if varies else None}


def _ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks: equal values have equal ones."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def bin_rows(
    config: EvaluateSearchConfig, options: Sequence[Option], measured: Measured, problems: Sequence[Problem]
) -> dict[str, list[dict[str, Any]]]:
    """What the options achieve in each bin of difficulty, oracle_bins and model_bins; the hardest first."""
    bins = {"oracle_bins": (measured.pass_rate, rank_bins(measured.pass_rate, problems, config.bins))}
    if measured.estimate is not None:
        edges = bin_edges(measured.estimate, config.bins)
        numbers = np.searchsorted(edges, measured.estimate, side="right")
        bins["model_bins"] = (measured.estimate, numbers)
    return {
        name: [_bin_row(config, options, values, numbers == number) for number in np.unique(numbers)]
        for name, (values, numbers) in bins.items()
    }


def _bin_row(
    config: EvaluateSearchConfig, options: Sequence[Option], values: np.ndarray, inside: np.ndarray
) -> dict[str, Any]:
    def costs(option: Option) -> dict[str, float | None]:
        means = {unit: float(option.costs[unit][inside].mean()) for unit in config.costs}
        return {unit: mean if isfinite(mean) else None for unit, mean in means.items()}

    return {
        "low": float(values[inside].min()),
        "high": float(values[inside].max()),
        "problems": int(inside.sum()),
        "options": [
            {
                "setting": option.name,
                "strategy": option.strategy,
                "n": option.n,
                **summarise(option.right(config.choice)[inside].tolist(), seed=config.seed),
                "cost": costs(option),
            }
            for option in options
        ],
    }


def budget_rows(
    config: EvaluateSearchConfig,
    options: Sequence[Option],
    measured: Measured,
    problems: Sequence[Problem],
    unit: str,
) -> list[dict[str, Any]]:
    """`evaluation.compute_optimal.at_budget` of each budget that holds an option.

    Raises:
        ValueError: none does.
    """
    grid = grid_of(options, config.choice, unit)
    ways = binnings(grid, measured, problems, config.bins, unit)
    half = halves(problems, config.seed)
    budgets = sorted(config.budgets.get(unit) or default_budgets(grid))
    found = {budget: at_budget(grid, ways, half, budget, config.seed) for budget in budgets}
    short = [budget for budget, row in found.items() if row is None]
    if short and unit in config.budgets:
        logger.warning("budgets: %s holds no setting on both halves; left out: %s", unit, short)
    rows = [row for row in found.values() if row is not None]
    if not rows:
        raise ValueError(
            f"budgets: no setting is within {max(budgets):,.0f} {UNIT_NAMES[unit]} a problem; the cheapest "
            f"takes {default_budgets(grid)[0]:,.0f}"
        )
    return rows


# ------------------------------------------------------------------ what is written


def headline(results: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that stand in the summary of the stage: at the largest budget in the first unit."""
    rows = next(iter(results["compute_optimal"].values()))["budgets"]
    ways = {"fixed": "best fixed", "oracle_bins": "oracle bins", "model_bins": "model bins", "bound": "bound"}
    return {label: rows[-1][name]["mean"] for name, label in ways.items() if name in rows[-1]}


def write_plots(folder: Path, results: Mapping[str, Any]) -> None:
    """Write PNG and JSON of accuracy for each unit, bins and compute-optimal for those with budgets."""
    for name, picture in search_pictures(results).items():
        write_png(picture, folder / f"{name}.png")
        write_json(folder / f"{name}.json", picture.data)


def report(results: Mapping[str, Any], searches: Searches, planner: Planner | None, folder: Path) -> None:
    """Print the settings and the compute-optimal tables; write results.md."""
    from rich.console import Console

    tables = sheets(results, planner)
    title = f"{len(searches)} settings on {results['problems']} problems, choice: {results['choice']}"
    with atomic_path(folder / "results.md") as temporary:
        temporary.write_text(markdown(title, NOTE, tables), encoding="utf-8")
    console = Console()
    for table in screen_sheets(results):
        console.print(rich_table(table))


if __name__ == "__main__":
    run_stage(evaluate_search, EvaluateSearchConfig)
