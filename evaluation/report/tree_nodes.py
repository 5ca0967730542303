"""The tree of a search as it is shown: nodes with their marks, candidates by answer, the winner's path."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from data.thinking import ThinkingFormat
from evaluation.report.rollout_text import visible
from inference.search.results import SearchResult
from rewards.extract import extract_answer

WINNING = ("weighted_best_of_n", "best_of_n", "majority")
"""The candidate that the first of these takes is the winner; without scores only the majority takes one."""


@dataclass(eq=False, slots=True)
class TreeNode:
    """A stretch of text in a tree."""

    number: int
    parent: TreeNode | None
    text: str = ""
    end: str = ""
    """"" it is open, stop the model ended it, length the limit did."""
    tokens: int = 0
    forced: bool = False
    cut: bool = False
    score: float = math.nan
    depth: int = 0
    children: list[TreeNode] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    """Those that end here, by their index."""
    copies: list[TreeNode] = field(default_factory=list)
    """Other children of its parent with the same text, all without children."""
    wins: bool = False
    """Whether the winner's path leads through it."""
    thinks: bool = False
    """Whether its text begins inside the thinking."""
    size: int = 1
    """Nodes from here on, copies aside."""
    reach: int = 0
    """Candidates from here on."""

    @property
    def ending(self) -> list[int]:
        """The candidates that end here or in a copy."""
        return [index for node in (self, *self.copies) for index in node.candidates]

    @property
    def pruned(self) -> bool:
        """Whether it could have been continued and was not."""
        return not (self.end or self.children or self.candidates) and self.parent is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Candidates with equal answers."""

    text: str
    """As it is read from one of them; empty where there is none."""
    candidates: list[int]
    scores: list[float]
    choices: list[str]
    """Which take it."""


@dataclass(frozen=True, kw_only=True)
class SearchTree:
    """A search with its tree."""

    result: SearchResult
    nodes: list[TreeNode]
    """By number, the root first."""

    @property
    def root(self) -> TreeNode:
        return self.nodes[0]

    @property
    def winning(self) -> str | None:
        """The choice that takes the winner; None where there is none."""
        return next((choice for choice in WINNING if self.result.chosen[choice] >= 0), None)

    @property
    def winner(self) -> int | None:
        """Index of the candidate whose path is highlighted."""
        return None if self.winning is None else self.result.chosen[self.winning]

    @cached_property
    def path(self) -> list[TreeNode]:
        """The winner's, from below the root."""
        return [] if self.winner is None else self.path_of(self.winner)

    def path_of(self, candidate: int) -> list[TreeNode]:
        """The nodes from below the root to a candidate's end."""
        node, path = self._by_number[self.result.nodes[candidate]], []
        while node.parent is not None:
            path.append(node)
            node = node.parent
        return path[::-1]

    @cached_property
    def unique(self) -> list[TreeNode]:
        """The nodes that are no copies of another, by number."""
        copies = {copy for node in self.nodes for copy in node.copies}
        return [node for node in self.nodes if node not in copies]

    @cached_property
    def ends(self) -> dict[int, TreeNode]:
        """Where each candidate ends, or the node that this is a copy of."""
        return {index: node for node in self.unique for index in node.ending}

    @cached_property
    def _by_number(self) -> dict[int, TreeNode]:
        return {node.number: node for node in self.nodes}

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest score that a bar can show: 0 and 1 unless a score lies outside."""
        known = [node.score for node in self.nodes if math.isfinite(node.score)]
        inside = all(0 <= score <= 1 for score in known)
        return (0.0, 1.0) if inside else (min(known), max(known))

    @cached_property
    def answers(self) -> dict[int, Answer]:
        """By class, most candidates first."""
        members: dict[int, list[int]] = {}
        for index, kind in enumerate(self.result.classes):
            members.setdefault(kind, []).append(index)
        ranked = sorted(members.items(), key=lambda item: (item[0] < 0, -len(item[1])))
        return {kind: self._answer(kind, candidates) for kind, candidates in ranked}

    def _answer(self, kind: int, candidates: list[int]) -> Answer:
        chosen = self.result.chosen
        text = "".join(node.text for node in self.path_of(candidates[0])) if kind >= 0 else ""
        return Answer(
            text=extract_answer(text)[0],
            candidates=candidates,
            scores=[score for i in candidates if math.isfinite(score := self.result.scores[i])],
            choices=[choice for choice, index in chosen.items() if index in candidates],
        )


def search_tree(result: SearchResult, rows: Iterable[Mapping[str, Any]], form: ThinkingFormat) -> SearchTree:
    """Nodes linked with their parents, candidates and the winner marked, copies put together.

    Raises:
        ValueError: a parent or the end of a candidate is not among the nodes, or something is missing.
    """
    where = f"problem {visible(result.problem.id)}, {visible(result.setting)}"
    told = (result.classes, result.scores, result.correct)
    if any(len(values) < len(result.nodes) for values in told) or not all(
        -1 <= index < len(result.nodes) for index in result.chosen.values()
    ):
        raise ValueError(f"{where}: its candidates are not whole")
    nodes: dict[int, TreeNode] = {}
    for row in sorted(rows, key=lambda row: row["node"]):
        parent = nodes.get(row["parent"])
        if (parent is None) != (row["node"] == 0):
            raise ValueError(
                f"{where}: node {row['node']} has parent {row['parent']}, which is not before it"
            )
        values = {name: row[name] for name in ("text", "end", "tokens", "forced", "cut")}
        if None in values.values():
            raise ValueError(f"{where}: node {row['node']} is not whole")
        node = TreeNode(row["node"], parent, **values, score=_known(row["score"]))
        if parent is not None:
            node.depth = parent.depth + 1
            parent.children.append(node)
        nodes[node.number] = node
    if not nodes or not set(result.nodes) <= nodes.keys():
        raise ValueError(f"{where}: the tree is not whole")
    tree = SearchTree(result=result, nodes=list(nodes.values()))
    for index, number in enumerate(result.nodes):
        nodes[number].candidates.append(index)
    for node in tree.path:
        node.wins = True
    _mark_thinking(tree.nodes, form)
    _count(tree.nodes)
    return tree


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def _mark_thinking(nodes: Sequence[TreeNode], form: ThinkingFormat) -> None:
    """Thinking goes on until its end, which the prompt may have begun; a tree without tags has none."""
    start, end = form.start.strip(), form.end_of_thinking
    begun = any(end in node.text or (start and start in node.text) for node in nodes)
    ended: dict[TreeNode | None, bool] = {None: False}
    for node in nodes:
        node.thinks = begun and not ended[node.parent]
        ended[node] = ended[node.parent] or end in node.text


def _count(nodes: Sequence[TreeNode]) -> None:
    """Put copies together, then add up from the leaves to the root."""
    for node in nodes:
        node.children = _without_copies(node.children)
    for node in reversed(nodes):
        node.size = 1 + sum(child.size for child in node.children)
        node.reach = len(node.ending) + sum(child.reach for child in node.children)


def _without_copies(children: Sequence[TreeNode]) -> list[TreeNode]:
    first: dict[tuple[Any, ...], TreeNode] = {}
    for child in sorted(children, key=lambda child: (not child.wins, not child.children)):
        kept = first.setdefault((child.text, child.end, child.forced, child.cut), child)
        if kept is not child and not child.children:
            kept.copies.append(child)
    copies = {copy for child in children for copy in child.copies}
    return [child for child in children if child not in copies]
