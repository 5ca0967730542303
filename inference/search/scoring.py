"""Scoring the new nodes of all problems at once."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.heartbeat import phase
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
        """Score these nodes; of paths with the same steps one is put to the scorer."""
        alike: dict[tuple[str, tuple[str, ...]], list[_Path]] = defaultdict(list)
        for path in self._paths(new):
            path.node.score = 0.0
            if path.steps:
                alike[path.tree.problem.question, path.steps].append(path)
        refused = 0
        error = ""
        for paths, scores in self._scored(list(alike.values())):
            if isinstance(scores, str):
                refused, error = refused + len(paths), scores
                for node in (path.node for path in paths):
                    node.step_scores = (*node.parent.step_scores, 0.0) if node.parent else (0.0,)
            else:
                for node in (path.node for path in paths):
                    node.step_scores = tuple(scores)
                    node.score = aggregate(scores, self.aggregation)
        self.has_scored = self.has_scored or refused < sum(map(len, alike.values()))
        self.refused += refused
        self.counts["unscorable"] += refused
        if self.refused >= MOST_REFUSED and not self.has_scored:
            raise ValueError(f"{self.scorer.name} can score none of {self.refused} paths, the last: {error}")

    def _paths(self, new: Sequence[tuple[Tree, Node]]) -> list[_Path]:
        """The nodes with the steps of their paths; what children of one node begin with is split once."""
        before: dict[Node, tuple[tuple[str, ...], str]] = {}
        paths = []
        for tree, node in new:
            parent = node.parent or tree.root
            if parent not in before:
                text = tree.text(parent)
                rest = text.split(self.separator)[-1]
                before[parent] = self._steps(text[: len(text) - len(rest)]), rest
            steps, rest = before[parent]
            paths.append(_Path(tree, node, steps + self._steps(rest + node.text)))
        return paths

    def _steps(self, text: str) -> tuple[str, ...]:
        return tuple(step.text for step in steps_of(text, self.form, self.separator))

    def _scored(self, alike: Sequence[list[_Path]]) -> Iterator[tuple[list[_Path], list[float] | str]]:
        """Paths of the same steps with their scores or why there are none: halves of what the scorer refuses
        are tried."""
        if not alike:
            return
        try:
            questions = [path.tree.problem.question for path, *_ in alike]
            with phase("forward_backward"):
                scores = self.scorer.score(questions, [path.steps for path, *_ in alike])
        except ValueError as error:
            if len(alike) == 1:
                logger.debug("%s: unscorable: %s", alike[0][0].tree.problem.id, error)
                yield alike[0], str(error)
                return
            middle = len(alike) // 2
            yield from self._scored(alike[:middle])
            yield from self._scored(alike[middle:])
            return
        yield from zip(alike, scores, strict=True)
