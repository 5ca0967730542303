"""Beam search against a process reward model (arXiv 2408.03314 section 5.2; search-and-learn@6f81cac:
src/sal/search/beam_search.py, whose lookahead costs tokens without being scored)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from inference.search.strategies.lookahead import best, check_lookahead, looked_ahead
from inference.search.strategies.strategy import StepSearch, without_copies
from inference.search.tree import Extend, Node, Strategy, Tree, finished, opened


@dataclass(frozen=True, kw_only=True)
class Beam(StepSearch):
    """`beam`: of n next steps the n / width best go on, with width next steps each. A finished path keeps its
    beam."""

    lookahead: int = 0
    """Greedy steps behind each candidate, with which it is scored."""
    filter_duplicates: bool = False
    """Whether of candidates with the same text only one may go on."""

    label: ClassVar[str] = "beam"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lookahead(self.lookahead)

    def run(self, tree: Tree) -> Strategy:
        beams, done = [tree.root], []
        for step in range(1, self.max_steps + 1):
            last = step == self.max_steps
            children = yield spread(beams, self.n - len(done), whole=last)
            ranks = yield from looked_ahead(children, self.lookahead)
            done += finished(children)
            beams = best(
                self._distinct(opened(children), tree), (self.n - len(done)) // self.width or 1, ranks
            )
            if len(done) == self.n or not beams:
                break
        return done

    def _distinct(self, nodes: list[Node], tree: Tree) -> list[Node]:
        return without_copies(nodes, tree) if self.filter_duplicates else nodes


def spread(nodes: Sequence[Node], count: int, whole: bool) -> list[Extend]:
    """`count` children for these nodes, one more for the first ones where they do not divide."""
    each, more = divmod(count, len(nodes))
    counts = [each + (place < more) for place in range(len(nodes))]
    return [Extend(node=node, count=n, whole=whole) for node, n in zip(nodes, counts, strict=True) if n]
