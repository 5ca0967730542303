"""Independent completions: majority vote (arXiv 2203.11171) and best-of-N."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from inference.search.strategies.strategy import SearchStrategy
from inference.search.tree import Extend, Strategy, Tree


@dataclass(frozen=True, kw_only=True)
class Majority(SearchStrategy):
    """`majority`: n completions that vote; nothing is scored."""

    label: ClassVar[str] = "majority"
    needs_scorer: ClassVar[bool] = False

    def run(self, tree: Tree) -> Strategy:
        return (yield [Extend(node=tree.root, count=self.n, whole=True)])


@dataclass(frozen=True, kw_only=True)
class BestOfN(Majority):
    """`best_of_n`: n completions that are scored: the best one, or votes weighted by score."""

    label: ClassVar[str] = "best_of_n"
    needs_scorer: ClassVar[bool] = True
