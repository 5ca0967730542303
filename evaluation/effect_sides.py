"""The two sides of an effect: what a stage of the pipeline measured on each problem, and what it cost.

A recipe names a side by the stage that measured it; each kind of stage is one class here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import isclose
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from data.field_values import parse_mapping
from evaluation.evaluations import Evaluation, check_metric, load_evaluations, metric_values
from evaluation.problem_values import read_choices, read_setting_values
from evaluation.search_curves import Option, load_searches, mean_costs, options_of


@dataclass(frozen=True, kw_only=True)
class Side:
    """What was measured."""

    label: str
    metric: str
    values: Mapping[str, float | None]
    """By problem id, in the order of the stage; None where it has none."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Means of a problem by their names in `evaluation.search_curves.COSTS`, those that are known."""
    evaluation: Evaluation | None = None
    """Where it is of stage evaluate: the settings by which it was made."""


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """A metric of completions."""

    metric: str = "accuracy"
    """One of those that stage compare knows: accuracy, formatted, thinking_tokens, pass@k, maj@k ..."""
    benchmark: str = ""
    """Needed where the evaluation has several."""
    label: str = ""
    """What it is called in tables; by default the name of the stage or of its setting."""

    def __post_init__(self) -> None:
        check_metric(self.metric, "metric")

    def _side_of(self, found: Evaluation) -> Side:
        benchmark = self._benchmark(found)
        ids = found.found.ids[benchmark]
        values = metric_values(found, benchmark, self.metric, ids)
        tokens = [each or 0.0 for each in metric_values(found, benchmark, "completion_tokens", ids)]
        completions = int(self.metric.partition("@")[2] or 1)
        return Side(
            label=self.label or found.name + (f", {self.metric}" if self.metric != "accuracy" else ""),
            metric=self.metric,
            values=dict(zip(ids, values, strict=True)),
            cost={"generated_tokens": completions * float(np.mean(tokens))},
        )

    def _benchmark(self, found: Evaluation) -> str:
        names = list(found.found.ids)
        if self.benchmark in names or (not self.benchmark and len(names) == 1):
            return self.benchmark or names[0]
        problem = f"{self.benchmark!r} is not in {found.name}" if self.benchmark else "give one"
        raise ValueError(f"benchmark: {problem}; there are {', '.join(names)}")


@dataclass(frozen=True, kw_only=True)
class EvaluationSide(_Measured):
    """A metric of a folder of stage `evaluate`."""

    evaluation: str

    kind: ClassVar[str] = "evaluation"

    def read(self, seed: int) -> Side:
        """Raises: ValueError, no finished evaluation, or it lacks the benchmark or the metric."""
        (found,) = load_evaluations([self.evaluation])
        return replace(self._side_of(found), evaluation=found)


@dataclass(frozen=True, kw_only=True)
class TestTimeSide(_Measured):
    """Accuracy, thinking_tokens or completion_tokens of a setting of a folder of stage `test_time`."""

    __test__: ClassVar[bool] = False
    test_time: str
    setting: str
    """As the stage names it: "plain", "budget forcing: Wait x 2", "majority vote: 4 votes"."""

    kind: ClassVar[str] = "test_time"

    def read(self, seed: int) -> Side:
        """Raises: ValueError, no such setting, or it lacks the benchmark or the metric."""
        folder = Path(self.test_time)
        settings = read_setting_values(folder)
        if self.setting not in settings:
            raise ValueError(_no_such("setting", self.setting, settings, folder))
        return self._side_of(Evaluation(name=self.setting, folder=folder, found=settings[self.setting]))


@dataclass(frozen=True, kw_only=True)
class SearchSide:
    """Accuracy of a setting of a folder of stage `search`, or of a parallel one with fewer candidates."""

    search: str
    option: str
    """As stage evaluate_search names it: "beam n=4 width=4", "best_of_n n=1" (one sample)."""
    choice: Literal["majority", "best_of_n", "weighted_best_of_n"]
    """How an answer is chosen from the candidates."""
    label: str = ""

    kind: ClassVar[str] = "search"

    def read(self, seed: int) -> Side:
        """Raises: ValueError, no such setting, or no scores to choose by."""
        ids, options = _options(self.search, seed)
        if self.option not in options:
            raise ValueError(_no_such("option", self.option, options, Path(self.search)))
        option = options[self.option]
        if self.choice not in option.rights:
            raise ValueError(f"choice: {self.option!r} has no scores; its only choice is majority")
        right = option.rights[self.choice].tolist()
        return Side(
            label=self.label or f"{self.option}, {self.choice}",
            metric="accuracy",
            values=dict(zip(ids, right, strict=True)),
            cost={unit: cost for unit, cost in mean_costs(option).items() if cost is not None},
        )


@lru_cache
def _options(folder: str, seed: int) -> tuple[list[str], dict[str, Option]]:
    """Problem ids and options of a search; several sides are of one."""
    searches = load_searches([folder])
    ids = [result.problem.id for result in next(iter(searches.values()))]
    return ids, {option.name: option for option in options_of(searches, seed)}


@dataclass(frozen=True, kw_only=True)
class ChoiceSide:
    """Accuracy of a way to choose a search, of a folder of stage `evaluate_search`."""

    evaluate_search: str
    way: Literal["fixed", "oracle_bins", "model_bins", "bound"]
    unit: Literal["generated_tokens", "flops", "seconds"] = "generated_tokens"
    budget: Literal["mean"] | float = "mean"
    """Of a problem, one of the curve; mean: the mean over all budgets of the curve, so that none need be
    chosen."""
    label: str = ""

    kind: ClassVar[str] = "evaluate_search"

    def read(self, seed: int) -> Side:
        """Raises: ValueError, no such unit, way or budget."""
        folder = Path(self.evaluate_search)
        ids, units = read_choices(folder)
        if self.unit not in units:
            raise ValueError(_no_such("unit", self.unit, units, folder))
        rows = [row for row in units[self.unit] if self._is_wanted(row["budget"])]
        if not rows:
            budgets = ", ".join(f"{row['budget']:.6g}" for row in units[self.unit])
            raise ValueError(f"budget: {self.budget} is not on the curve of {folder}; there are {budgets}")
        if self.way not in rows[0]["ways"]:
            raise ValueError(_no_such("way", self.way, rows[0]["ways"], folder))
        found = [row["ways"][self.way] for row in rows]
        costs = [way["cost"] for way in found if way["cost"] is not None]
        budget = "mean of all budgets" if self.budget == "mean" else f"{float(self.budget):.6g}"
        return Side(
            label=self.label or f"{self.way.replace('_', ' ')}, {self.unit.replace('_', ' ')}: {budget}",
            metric="accuracy",
            values=dict(zip(ids, np.mean([way["right"] for way in found], axis=0).tolist(), strict=True)),
            cost={self.unit: float(np.mean(costs))} if costs else {},
        )

    def _is_wanted(self, budget: float) -> bool:
        return self.budget == "mean" or isclose(budget, float(self.budget), rel_tol=1e-5)


AnySide = EvaluationSide | TestTimeSide | SearchSide | ChoiceSide
SIDES: dict[str, type[AnySide]] = {
    cls.kind: cls for cls in (EvaluationSide, TestTimeSide, SearchSide, ChoiceSide)
}


def parse_side(entry: Mapping[str, Any], key: str) -> AnySide:
    """A side of a recipe.

    Raises:
        ValueError: no kind or several, an unknown key (with the nearest), or a value that makes no sense.
    """
    kinds = [kind for kind in SIDES if kind in entry]
    if len(kinds) == 1:
        return parse_mapping(SIDES[kinds[0]], entry, key, kinds[0])
    near = [name for given in entry for name in difflib.get_close_matches(str(given), SIDES, n=1)]
    hint = f"did you mean {near[0]!r}?" if near and not kinds else f"give one of {', '.join(SIDES)}"
    raise ValueError(f"{key}: {', '.join(map(str, entry)) or 'nothing'} names {len(kinds)} kinds; {hint}")


def _no_such(key: str, wanted: str, names: Mapping[str, Any], folder: Path) -> str:
    near = [name for name in names if wanted in name] or difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, names))}"
    return f"{key}: {wanted!r} is not in {folder}; {hint}"
