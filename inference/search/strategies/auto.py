"""The strategy that suits a question's difficulty and a budget (arXiv 2408.03314 section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar, Literal

from inference.search.planner import Plan, Planner
from inference.search.strategies.beam import Beam
from inference.search.strategies.dvts import DVTS
from inference.search.strategies.mcts import MCTS
from inference.search.strategies.parallel import BestOfN, Majority
from inference.search.strategies.rebase import Rebase
from inference.search.strategies.revisions import Revisions
from inference.search.strategies.strategy import SearchStrategy, own_strategy
from inference.search.tree import Extend, Node, Strategy, Tree
from rewards.answer_classes import answer_classes
from rewards.extract import extract_answer
from rewards.texts import graded_text

PLANNED: dict[str, type[SearchStrategy]] = {
    cls.label: cls for cls in (Majority, BestOfN, Beam, DVTS, Rebase, MCTS, Revisions)
}


@dataclass(frozen=True, kw_only=True)
class Auto(SearchStrategy):
    """`auto`: what was best within the budget for questions as difficult as this one. A few completions tell
    that, where it is worth their cost."""

    n: int = 1
    """Given by the plan; leave it out."""
    planner: str
    """Folder of a stage `evaluate_search`, which has fitted the plans."""
    budget: float
    """What one question may cost on average, the first completions included."""
    cost: Literal["generated_tokens", "flops"] = "generated_tokens"
    """Unit of the budget."""

    label: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget <= 0:
            raise ValueError(f"budget: {self.budget} must be above 0")

    @property
    def title(self) -> str:
        return self.name or f"auto {self.cost}={self.budget:g}"

    @cached_property
    def plans(self) -> Planner:
        """The fitted plans.

        Raises:
            ValueError: see `Planner.load`.
        """
        try:
            return Planner.load(self.planner)
        except ValueError as error:
            raise ValueError(f"planner: {error}") from error

    @property
    def rows(self) -> int:
        return max(strategy.rows for strategy in self._planned)

    @property
    def needs_logprobs(self) -> bool:
        return any(strategy.needs_logprobs for strategy in self._planned)

    @cached_property
    def _planned(self) -> list[SearchStrategy]:
        """All strategies that it may take."""
        return [strategy_of(plan) for plans in (*self.plans.bins, self.plans.overall) for plan in plans]

    def run(self, tree: Tree) -> Strategy:
        if not self.plans.worth_probing(self.budget, self.cost):
            return (yield from strategy_of(self.plans.plan(None, self.budget, self.cost)).run(tree))
        probes = yield [Extend(node=tree.root, count=self.plans.probe, whole=True)]
        estimate = self.plans.difficulty(classes_of(tree, probes), [probe.score for probe in probes])
        left = self.budget - self.plans.probe_cost[self.cost]
        strategy = strategy_of(self.plans.plan(estimate, left, self.cost))
        if not isinstance(strategy, Majority):
            return probes + (yield from strategy.run(tree))
        if strategy.n > len(probes):  # the probes are the first of its completions
            more = [Extend(node=tree.root, count=strategy.n - len(probes), whole=True)]
            return probes + (yield more)
        return probes


def strategy_of(plan: Plan) -> SearchStrategy:
    """The strategy that a plan names, with the options that it was measured with."""
    cls = PLANNED.get(plan.strategy) or own_strategy(plan.strategy)
    known = {f.name for f in fields(cls)}
    options = {key: value for key, value in plan.options.items() if key in known}
    return cls(**{**options, "n": plan.n})


def classes_of(tree: Tree, nodes: Sequence[Node]) -> list[int]:
    """Classes of the answers of completions, which need no gold answer."""
    form = tree.tags.form
    answers = [extract_answer(graded_text(form.split(tree.text(node)), form))[0] for node in nodes]
    return answer_classes([answers])[0]
