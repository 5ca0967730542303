"""Reward-balanced search: next steps are shared out by a softmax of scores (arXiv 2408.00724 section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from inference.search.strategies.strategy import MAX_STEPS, SearchStrategy
from inference.search.tree import Extend, Strategy, Tree, finished, opened


@dataclass(frozen=True, kw_only=True)
class Rebase(SearchStrategy):
    """`rebase`: every path may go on, the better ones with more next steps; n paths in all."""

    balance_temperature: float = 0.2
    """Of the softmax; the lower, the more the best path gets."""
    max_steps: int = MAX_STEPS
    """Steps of a path; the last one is the whole rest."""

    label: ClassVar[str] = "rebase"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance_temperature <= 0:
            raise ValueError(f"balance_temperature: {self.balance_temperature} must be above 0")
        if self.max_steps < 1:
            raise ValueError(f"max_steps: {self.max_steps} must be at least 1")

    def run(self, tree: Tree) -> Strategy:
        paths, counts, done = [tree.root], [self.n], []
        for step in range(1, self.max_steps + 1):
            children = yield [
                Extend(node=node, count=count, whole=step == self.max_steps)
                for node, count in zip(paths, counts, strict=True)
                if count
            ]
            done += finished(children)
            paths = opened(children)
            counts = allocate([node.score for node in paths], self.n - len(done), self.balance_temperature)
            if not sum(counts):
                break
        return done


def allocate(scores: Sequence[float], count: int, temperature: float) -> list[int]:
    """How many of `count` each path gets: its share of the softmax, rounded so that they sum to `count` (the
    largest remainders up)."""
    if not scores:
        return []
    highest = max(scores)
    weights = [math.exp((score - highest) / temperature) for score in scores]
    shares = [count * weight / sum(weights) for weight in weights]
    counts = [math.floor(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i])
    for i in by_remainder[: count - sum(counts)]:
        counts[i] += 1
    return counts
