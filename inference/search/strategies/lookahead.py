"""Judging a step by what would follow it (arXiv 2408.03314 section 5.2)."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from inference.search.tree import Extend, Node, opened

Ranks = dict[Node, float]


def check_lookahead(steps: int) -> None:
    """Refuse a negative number."""
    if steps < 0:
        raise ValueError(f"lookahead: {steps} must not be negative; 0 scores each step as it is")


def looked_ahead(nodes: Sequence[Node], steps: int) -> Generator[Sequence[Extend], list[Node], Ranks]:
    """The score of each node `steps` greedy steps further on; its own where it has ended or steps is 0."""
    ranks = {node: node.score for node in nodes}
    going_on = opened(nodes) if steps else []
    if going_on:
        ahead = yield [Extend(node=node, steps=steps, greedy=True) for node in going_on]
        for node, seen in zip(going_on, ahead, strict=True):
            ranks[node] = seen.score
            seen.left_out = True
    return ranks


def best(nodes: Sequence[Node], count: int, ranks: Ranks) -> list[Node]:
    """The `count` nodes of the highest rank, the first of equal ones."""
    return sorted(nodes, key=lambda node: -ranks[node])[:count]
