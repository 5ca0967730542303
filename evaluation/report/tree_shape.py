"""How a tree is laid out: straight on along its main children, with what branches off beside them.

A node's main child is the winner's, else one with candidates, else the largest. The path along main children
is shown flat, so that what is nested is only what leaves such a path: at most twice the binary logarithm of
the number of nodes, however deep the tree is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evaluation.report.tree_nodes import SearchTree, TreeNode


@dataclass(frozen=True, slots=True)
class Shape:
    """The nodes of a tree that are shown, and their order."""

    kept: frozenset[TreeNode]
    """With every node its parent."""

    def straight_on(self, node: TreeNode) -> list[TreeNode]:
        """The main children below a node, one below the other."""
        path = []
        while shown := self._shown(node):
            node = shown[0]
            path.append(node)
        return path

    def beside(self, node: TreeNode) -> list[TreeNode]:
        """The other children of the parent of a main child: candidates first, then by score."""
        return self._shown(node.parent)[1:] if node.parent else []

    def missing(self, node: TreeNode) -> int:
        """Nodes below a node that are left out beside or behind its children."""
        return sum(child.size for child in node.children if child not in self.kept)

    def _shown(self, node: TreeNode) -> list[TreeNode]:
        shown = [child for child in node.children if child in self.kept]
        main = max(shown, key=lambda n: (n.wins, n.reach > 0, n.size, rank(n)), default=None)
        return sorted(shown, key=lambda n: (n is not main, n.reach == 0, *(-r for r in rank(n))))


def rank(node: TreeNode) -> tuple[float, int]:
    """Higher is better: by score, none last, then by number."""
    return (node.score if math.isfinite(node.score) else -math.inf, -node.number)


def shape(tree: SearchTree, limit: int) -> Shape:
    """A tree with the `limit` nodes that tell most: the winner's path always, then what is beside it, the
    paths of the candidates that other choices take, those of all candidates by rank, and the rest."""
    kept = {tree.root, *tree.path}
    for node in _by_interest(tree):
        new: list[TreeNode] = []
        above: TreeNode | None = node
        while above is not None and above not in kept:
            new.insert(0, above)
            above = above.parent
        kept |= set(new[: max(0, limit - len(kept))])
        if len(kept) >= limit:
            break
    return Shape(frozenset(kept))


def _by_interest(tree: SearchTree) -> Iterator[TreeNode]:
    for node in [tree.root, *tree.path]:
        yield from sorted(node.children, key=rank, reverse=True)
    yield from (tree.ends[index] for index in tree.result.chosen.values() if index >= 0)
    yield from sorted((node for node in tree.unique if node.ending), key=rank, reverse=True)
    yield from tree.unique


def fair_share(sizes: Sequence[int], total: int) -> int:
    """The largest amount that each may have at most, so that together they take no more than `total`."""
    left, remaining = total, len(sizes)
    for size in sorted(sizes):
        if size * remaining > left:
            return left // remaining
        left, remaining = left - size, remaining - 1
    return max(sizes, default=0)
