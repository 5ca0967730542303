"""Diverse verifier tree search: independent subtrees, greedy by score (search-and-learn@6f81cac:
src/sal/search/diverse_verifier_tree_search.py, which also returns paths that have not ended)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from inference.search.strategies.lookahead import best, check_lookahead, looked_ahead
from inference.search.strategies.strategy import StepSearch
from inference.search.tree import Extend, Strategy, Tree, finished


@dataclass(frozen=True, kw_only=True)
class DVTS(StepSearch):
    """`dvts`: n / width subtrees; in each the best of width next steps goes on. When it is finished, the
    finished ones beside it are candidates too."""

    lookahead: int = 0
    """Greedy steps behind each candidate, with which it is scored."""

    label: ClassVar[str] = "dvts"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lookahead(self.lookahead)

    def run(self, tree: Tree) -> Strategy:
        width = min(self.width, self.n)
        heads, done = [tree.root] * (self.n // width), []
        for step in range(1, self.max_steps + 1):
            whole = step == self.max_steps
            children = yield [Extend(node=head, count=width, whole=whole) for head in heads]
            ranks = yield from looked_ahead(children, self.lookahead)
            heads = []
            for first in range(0, len(children), width):
                subtree = children[first : first + width]
                usable = [node for node in subtree if node.end != "length"]
                top = best(usable, 1, ranks)
                if top and top[0].is_open:
                    heads += top
                else:
                    done += finished(subtree)
            if not heads:
                break
        return done
