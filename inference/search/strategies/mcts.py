"""Monte-Carlo tree search over steps: UCT (Kocsis and Szepesvari 2006) and PUCT (Silver et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from inference.search.strategies.strategy import StepSearch, without_copies
from inference.search.tree import Extend, Node, Strategy, Tree, finished


@dataclass(eq=False)
class Visits:
    """What simulations have found below a node."""

    count: int = 0
    total: float = 0.0
    prior: float = 1.0
    closed: bool = False
    """Whether there is nothing left to expand below."""

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


@dataclass(eq=False)
class Statistics:
    """Visits of the root and of all nodes that are part of the search."""

    of: dict[Node, Visits] = field(default_factory=dict)

    def __getitem__(self, node: Node) -> Visits:
        return self.of[node]

    def children(self, node: Node) -> list[Node]:
        """Those that are part of the search; rollouts are not."""
        return [child for child in node.children if child in self.of]


@dataclass(frozen=True, kw_only=True)
class MCTS(StepSearch):
    """`mcts`: n simulations. Each goes down to a path that nothing follows yet, gives it width next steps and
    passes what they are worth up."""

    rule: Literal["uct", "puct"] = "uct"
    """Which node to go down to. puct: with the policy's own probabilities of the steps."""
    exploration: float = 1.0
    """Weight of what was tried less often."""
    value: Literal["scorer", "rollouts", "both"] = "scorer"
    """What a step is worth: its path's score, the score of one completion from it (for outcome reward models,
    which cannot judge a part), or the mean of both."""

    label: ClassVar[str] = "mcts"

    def check_width(self) -> None:
        """n counts simulations: any width goes with it."""
        if self.exploration < 0:
            raise ValueError(f"exploration: {self.exploration} must not be negative")

    @property
    def rows(self) -> int:
        return self.width

    @property
    def needs_logprobs(self) -> bool:
        return self.rule == "puct"

    def run(self, tree: Tree) -> Strategy:
        visits = Statistics({tree.root: Visits()})
        for _ in range(self.n):
            leaf = self.select(tree.root, visits)
            children = yield from self.expand(leaf, visits, tree)
            values = yield from self.evaluate(children)
            for child, value in zip(children, values, strict=True):
                backpropagate(child, value, visits)
            if visits[tree.root].closed:
                break
        if not finished(tree.ended):  # nothing has ended yet: the most promising path is completed
            yield [Extend(node=most_visited(tree.root, visits), count=self.width, whole=True)]
        return finished(tree.ended)

    def select(self, root: Node, visits: Statistics) -> Node:
        """Down from the root to a node that nothing follows, always to the child of the highest bound."""
        node = root
        while children := [child for child in visits.children(node) if not visits[child].closed]:
            node = max(children, key=lambda child: self.bound(visits[child], visits[child.parent or root]))
        return node

    def bound(self, child: Visits, parent: Visits) -> float:
        """Mean value and a bonus for what was visited less than its siblings."""
        if self.rule == "puct":
            return child.mean + self.exploration * child.prior * math.sqrt(parent.count) / (1 + child.count)
        return child.mean + self.exploration * math.sqrt(math.log(max(parent.count, 1)) / max(child.count, 1))

    def expand(
        self, leaf: Node, visits: Statistics, tree: Tree
    ) -> Generator[Sequence[Extend], list[Node], list[Node]]:
        """The next steps of a node, equal ones once."""
        whole = len(leaf.path) + 1 >= self.max_steps
        ask = Extend(node=leaf, count=self.width, whole=whole, logprobs=self.needs_logprobs)
        children = without_copies((yield [ask]), tree)
        for child, prior in zip(children, priors(children), strict=True):
            visits.of[child] = Visits(prior=prior, closed=not child.is_open)
        close_upwards(leaf, visits)
        return children

    def evaluate(self, children: Sequence[Node]) -> Generator[Sequence[Extend], list[Node], list[float]]:
        """What each of the steps is worth; nothing where its path was cut off."""
        scores = [child.score if child.end != "length" else 0.0 for child in children]
        going_on = [place for place, child in enumerate(children) if child.is_open]
        if self.value == "scorer" or not going_on:
            return scores
        ends = yield [Extend(node=children[place], whole=True) for place in going_on]
        for place, end in zip(going_on, ends, strict=True):
            own, rolled = scores[place], rollout_value(end)
            scores[place] = rolled if self.value == "rollouts" else (own + rolled) / 2
        return scores


def rollout_value(end: Node) -> float:
    """What a completion is worth: its score; nothing where it was cut off."""
    return end.score if end.end == "stop" else 0.0


def backpropagate(node: Node, value: float, visits: Statistics) -> None:
    """Count a value at a node and at all above it."""
    here: Node | None = node
    while here is not None:
        visits[here].count += 1
        visits[here].total += value
        here = here.parent


def close_upwards(node: Node, visits: Statistics) -> None:
    """Mark a node whose children are all closed, and those above it for which this holds then."""
    here: Node | None = node
    while here is not None and all(visits[child].closed for child in visits.children(here)):
        visits[here].closed = True
        here = here.parent


def priors(children: Sequence[Node]) -> list[float]:
    """The policy's probabilities of the steps, relative to each other: a softmax of their mean
    log-probabilities a token, so that short steps have no advantage."""
    highest = max(child.logprob for child in children)
    weights = [math.exp(child.logprob - highest) for child in children]
    return [weight / sum(weights) for weight in weights]


def most_visited(root: Node, visits: Statistics) -> Node:
    """The end of the path along which the most simulations went; of equally many along the better one."""
    node = root
    while children := [child for child in visits.children(node) if child.is_open]:
        node = max(children, key=lambda child: (visits[child].count, visits[child].mean))
    return node
