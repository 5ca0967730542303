"""Step labels from search trees: a step is worth the share of right ones among the completions behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from data.schema import Attempt
from data.steps import LabelledSolution, fault, steps_of
from data.thinking import ThinkingFormat
from inference.search.records import Record

LABELLER = "search"


def labelled_candidates(record: Record, form: ThinkingFormat, separator: str) -> Iterator[LabelledSolution]:
    """The candidates with labels, one for each text.

    A step has a label where a node ends with it, and the last one has the candidate's own verdict; steps
    within a node that was generated as a whole have none. Candidates without a verdict count for nothing.
    """
    parents = {row["node"]: row["parent"] for row in record.nodes}
    texts = {row["node"]: row["text"] for row in record.nodes}
    tallies = _tallies(record, parents)
    seen: set[str] = set()
    for attempt, last in zip(record.attempts, record.result.nodes, strict=True):
        if attempt.verdict == "unverifiable" or attempt.completion.text in seen:
            continue
        seen.add(attempt.completion.text)
        ends = _ends(last, parents, texts, attempt)
        labels = {
            end: right / total for end, node in ends.items() for right, total in [tallies[node]] if total
        }
        solution = _labelled(attempt, labels, form, separator)
        if fault(solution.steps, solution.labels, separator) is None:
            yield solution


def _tallies(record: Record, parents: dict[int, int]) -> dict[int, tuple[int, int]]:
    """Right candidates behind each node, and how many there are."""
    tallies: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for attempt, node in zip(record.attempts, record.result.nodes, strict=True):
        if attempt.verdict == "unverifiable":
            continue
        while node >= 0:
            right, total = tallies[node]
            tallies[node] = (right + (attempt.verdict == "correct"), total + 1)
            node = parents[node]
    return tallies


def _ends(last: int, parents: dict[int, int], texts: dict[int, str], attempt: Attempt) -> dict[int, int]:
    """The nodes of a path by where they end in the completion's text."""
    ends = {}
    end = len(attempt.completion.text)
    node = last
    while node > 0:
        ends[end] = node
        end -= len(texts[node])
        node = parents[node]
    return ends


def _labelled(
    attempt: Attempt, labels: dict[int, float], form: ThinkingFormat, separator: str
) -> LabelledSolution:
    """A candidate with the labels of its steps, by where these end in its text."""
    steps = steps_of(attempt.completion.text, form, separator)
    return LabelledSolution(
        problem=attempt.problem,
        steps=tuple(step.text for step in steps),
        labels=tuple(
            [labels.get(step.end) for step in steps[:-1]]
            + [float(attempt.verdict == "correct")] * bool(steps)
        ),
        right=attempt.verdict == "correct",
        model=attempt.completion.model,
        labeller=LABELLER,
    )
