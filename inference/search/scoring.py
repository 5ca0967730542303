"""Scoring the new nodes of all problems at once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.steps import steps_of
from data.thinking import ThinkingFormat
from inference.scorers.scorer import Aggregation, Scorer, aggregate
from inference.search.tree import Node, Tree

logger = logging.getLogger(__name__)

MOST_REFUSED = 32


@dataclass(frozen=True)
class _Path:
    """A node whose steps are to be scored."""

    tree: Tree
    node: Node
    steps: tuple[str, ...]


class NodeScorer:
    """Gives nodes the scores of their paths.

    A path that the scorer refuses (a special token in a step, a solution beyond its context, a score that is
    no number) has score 0 and is counted as `unscorable`; its problem goes on.

    Raises:
        ValueError: the scorer has refused the first MOST_REFUSED paths: it does not fit this model.
    """

    def __init__(
        self,
        scorer: Scorer,
        form: ThinkingFormat,
        separator: str,
        aggregation: Aggregation,
        counts: Counter[str],
    ) -> None:
        self.scorer = scorer
        self.form = form
        self.separator = separator
        self.aggregation: Aggregation = aggregation
        self.counts = counts
        self.has_scored = False
        self.refused = 0

    def __call__(self, new: Sequence[tuple[Tree, Node]]) -> None:
        """Score these nodes."""
        paths = [self._path(tree, node) for tree, node in new]
        filled = [path for path in paths if path.steps]
        refused = 0
        error = ""
        for path, scores in self._scored(filled):
            if isinstance(scores, str):
                refused, error = refused + 1, scores
                scores = [*path.node.parent.step_scores, 0.0] if path.node.parent else [0.0]
                path.node.step_scores, path.node.score = tuple(scores), 0.0
            else:
                path.node.step_scores = tuple(scores)
                path.node.score = aggregate(scores, self.aggregation)
        for path in paths:
            if not path.steps:
                path.node.score = 0.0
        self.has_scored = self.has_scored or refused < len(filled)
        self.refused += refused
        self.counts["unscorable"] += refused
        if self.refused >= MOST_REFUSED and not self.has_scored:
            raise ValueError(f"{self.scorer.name} can score none of {self.refused} paths, the last: {error}")

    def _path(self, tree: Tree, node: Node) -> _Path:
        steps = steps_of(tree.text(node), self.form, self.separator)
        return _Path(tree, node, tuple(step.text for step in steps))

    def _scored(self, paths: Sequence[_Path]) -> Iterator[tuple[_Path, list[float] | str]]:
        """Each path with its scores or why there are none: halves of what the scorer refuses are tried."""
        if not paths:
            return
        try:
            questions = [path.tree.problem.question for path in paths]
            scores = self.scorer.score(questions, [path.steps for path in paths])
        except ValueError as error:
            if len(paths) == 1:
                logger.debug("%s: unscorable: %s", paths[0].tree.problem.id, error)
                yield paths[0], str(error)
                return
            middle = len(paths) // 2
            yield from self._scored(paths[:middle])
            yield from self._scored(paths[middle:])
            return
        yield from zip(paths, scores, strict=True)
