"""A search strategy of your own: many beginnings, of which the better ones are finished."""

from dataclasses import dataclass

from inference.search.strategies.strategy import SearchStrategy
from inference.search.tree import Extend, Strategy, Tree, finished, opened


@dataclass(frozen=True, kw_only=True)
class Beginnings(SearchStrategy):
    """n beginnings of a few steps each; the `keep` best of them, by score, are completed."""

    keep: int = 2
    """Beginnings that go on."""
    steps: int = 1
    """Steps of a beginning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.keep <= self.n:
            raise ValueError(f"keep: {self.keep} must be from 1 to n: {self.n}")

    def run(self, tree: Tree) -> Strategy:
        """Yields which nodes to extend, is sent their new children with `score`, returns the candidates."""
        beginnings = yield [Extend(node=tree.root, count=self.n, steps=self.steps)]
        ended = finished(beginnings)
        best = sorted(opened(beginnings), key=lambda node: node.score, reverse=True)[: self.keep]
        if not best:
            return ended
        return ended + (yield [Extend(node=node, whole=True) for node in best])
