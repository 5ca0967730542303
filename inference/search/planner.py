"""Which search a problem is given: by an estimate of its difficulty and a budget, as stage `evaluate_search`
has fitted it (compute-optimal choice, arXiv 2408.03314 section 3.2)."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from data.store import read_json, write_json

FILE = "planner.json"
Estimate = Literal["agreement", "score"]
"""agreement: share of the most frequent answer; score: mean score. Of a few candidates; high is easy."""


def estimate_difficulty(kind: Estimate, classes: Sequence[int], scores: Sequence[float]) -> float:
    """The estimate from the candidates of a probe; one without an answer agrees with none, and one without a
    score has 0.

    Args:
        classes: numbers of the candidates' answers, -1 where there is none.
        scores: of the candidates; not read for agreement.
    Raises:
        ValueError: no candidates.
    """
    if not classes:
        raise ValueError("the difficulty of a problem is estimated from candidates, and there are none")
    if kind == "score":
        return sum(score for score in scores if isfinite(score)) / len(classes)
    votes = Counter(number for number in classes if number >= 0)
    return max(votes.values(), default=0) / len(classes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A search, with what it cost and achieved on the problems that it was fitted on."""

    setting: str
    """Name, such as "best_of_n n=4"."""
    searched: str
    """The setting of the searches that it is from, whose other options it has; for a parallel one that is
    known from more candidates another than `setting`."""
    strategy: str
    n: int
    width: int
    options: Mapping[str, Any]
    """All of the strategy's."""
    choice: str
    """How the answer is chosen, one of `inference.search.results.CHOICES`."""
    mean_cost: Mapping[str, float]
    """Of a problem by unit: generated_tokens, flops, seconds. In a bin it is what follows the probe, whose
    candidates are the first ones of a parallel search."""
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Planner:
    """Plans for each bin of estimated difficulty."""

    probe: int
    """Candidates that the estimate is from."""
    estimate: Estimate
    probe_cost: Mapping[str, float]
    """Mean of a problem by unit; what a budget must hold beside the plan."""
    choice: str
    edges: tuple[float, ...]
    """Least estimates of all bins but the first, ascending; the first bin is the hardest."""
    bins: tuple[tuple[Plan, ...], ...]
    shares: tuple[float, ...]
    """Of the problems in each bin."""
    overall: tuple[Plan, ...]
    """The plans by all problems."""

    def __post_init__(self) -> None:
        counts = {len(self.bins), len(self.shares), len(self.edges) + 1}
        if len(counts) > 1 or list(self.edges) != sorted(self.edges):
            raise ValueError(f"{len(self.bins)} bins do not go with edges {list(self.edges)}")
        if not all((*self.bins, self.overall)):
            raise ValueError("a bin has no plans")

    @classmethod
    def load(cls, path: Path | str) -> Planner:
        """Read a planner of its file, or of the folder of stage `evaluate_search` that it is in.

        Raises:
            ValueError: there is none, or the file is none.
        """
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"{path} does not exist; stage evaluate_search writes it")
        value = read_json(path)
        wanted = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or set(value) != wanted:
            raise ValueError(f"{path} is not a planner: its keys must be {', '.join(sorted(wanted))}")
        try:
            return cls(
                **{
                    **value,
                    "edges": tuple(value["edges"]),
                    "shares": tuple(value["shares"]),
                    "bins": tuple(_plans(plans) for plans in value["bins"]),
                    "overall": _plans(value["overall"]),
                }
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a planner: {error}; run stage evaluate_search again") from error

    def save(self, path: Path) -> None:
        """Write the file that `load` reads."""
        write_json(path, asdict(self))

    def difficulty(self, classes: Sequence[int], scores: Sequence[float]) -> float:
        """The estimate by which its bins are told apart, of the candidates of a probe."""
        return estimate_difficulty(self.estimate, classes, scores)

    def bin(self, estimate: float) -> int:
        """Number of the bin of an estimate, 0 is the hardest."""
        return bisect_right(self.edges, estimate)

    def plan(self, estimate: float | None, budget: float, cost: str = "generated_tokens") -> Plan:
        """The plan with the best accuracy among those whose mean cost in the bin is within the budget; of
        equally good ones the cheapest. Where none is, the cheapest one.

        Args:
            estimate: of the problem; None where there was no probe: the plans by all problems.
            budget: for what follows the probe.
            cost: its unit, generated_tokens or flops (where the models' sizes were known).
        Raises:
            ValueError: the planner has no costs in that unit.
        """
        if cost not in self.probe_cost:
            raise ValueError(f"cost: the planner knows {', '.join(self.probe_cost)}, not {cost!r}")
        return _best(self.overall if estimate is None else self.bins[self.bin(estimate)], budget, cost)

    def worth_probing(self, budget: float, cost: str = "generated_tokens") -> bool:
        """Whether a probe and the plans of the bins promise more than one plan for all problems.

        Args:
            budget: for the probe and what follows.
        """
        everywhere = self.plan(None, budget, cost)
        left = budget - self.probe_cost[cost]
        plans = [_best(own, left, cost) for own in self.bins]
        if any(plan.mean_cost[cost] > left for plan in plans):
            return False
        return (
            sum(s * plan.accuracy for s, plan in zip(self.shares, plans, strict=True)) > everywhere.accuracy
        )


def _best(plans: Sequence[Plan], budget: float, cost: str) -> Plan:
    within = [plan for plan in plans if plan.mean_cost[cost] <= budget]
    if not within:
        return min(plans, key=lambda plan: plan.mean_cost[cost])
    return max(within, key=lambda plan: (plan.accuracy, -plan.mean_cost[cost]))


def _plans(rows: Sequence[Mapping[str, Any]]) -> tuple[Plan, ...]:
    return tuple(Plan(**row) for row in rows)
