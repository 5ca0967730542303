"""Scores of many solutions by a reward model, kept as they come, so that a killed run goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.heartbeat import phase
from data.progress import Progress
from data.schema import Rejected, rejected
from data.store import Journal, atomic_path
from evaluation.prm_metrics import Scores
from inference.scorers.scorer import Scorer

logger = logging.getLogger(__name__)

JOURNAL = "scores.journal"
SOLUTIONS_PER_CALL = 32
"""Solutions that one call of the scorer gets; a call that was interrupted is made again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorable:
    """A solution to be scored."""

    set: str
    """Name of its set."""
    index: int
    """Place in the set."""
    problem: str
    """Id of its problem."""
    question: str
    steps: tuple[str, ...]
    labels: tuple[float | None, ...] = ()
    right: bool | None = None


def score_all(
    scorer: Scorer, work: Sequence[Scorable], folder: Path
) -> tuple[dict[tuple[str, int], Scores], list[Rejected]]:
    """Scores by (set, index), and the solutions that the model's format cannot hold: these have None.

    Finished scores are in a journal in `folder`; the caller removes it when they are safe elsewhere. A
    solution without steps has no scores and costs none.

    Raises:
        ValueError: the model can score none of the solutions.
    """
    with Journal(folder / JOURNAL) as journal:
        done = {(row["set"], row["index"]): row for row in journal.rows}
        if done:
            logger.info("going on after %d scored solutions", len(done))
        bar = Progress(total=len(work), initial=len(done), desc="solutions", unit="solution")
        for start in range(0, len(work), SOLUTIONS_PER_CALL):
            call = work[start : start + SOLUTIONS_PER_CALL]
            if all((item.set, item.index) in done for item in call):
                continue
            before = scorer.forwarded_tokens
            scored = list(_scored(scorer, call))  # whole: a call of its own might be rounded in another way
            rows = [row for row in scored if (row["set"], row["index"]) not in done]
            journal.append(rows)
            done.update({(row["set"], row["index"]): row for row in rows})
            bar.update(len(rows), tokens=scorer.forwarded_tokens - before)
        bar.close()
    found: dict[tuple[str, int], Scores] = {}
    bad = []
    for item in work:
        row = done[item.set, item.index]
        found[item.set, item.index] = row["scores"]
        if row["scores"] is None:
            shown = {"id": item.problem, "set": item.set, "index": item.index, "steps": list(item.steps)}
            bad.append(rejected(shown, "unscorable", row["error"]))
    if bad and len(bad) == len(work):
        raise ValueError(
            f"{scorer.name} can score none of {len(work)} solutions, the first: {bad[0].evidence}"
        )
    return found, bad


def _scored(scorer: Scorer, items: Sequence[Scorable]) -> Iterator[dict[str, Any]]:
    """Journal rows of some solutions; one by one where the scorer refuses them together."""
    filled = [item for item in items if item.steps]
    try:
        with phase("forward_backward"):
            scores = scorer.score([item.question for item in filled], [item.steps for item in filled])
    except ValueError as error:
        if len(items) > 1:
            for item in items:
                yield from _scored(scorer, [item])
            return
        yield {"set": items[0].set, "index": items[0].index, "scores": None, "error": str(error)}
        return
    by_place = {(item.set, item.index): each for item, each in zip(filled, scores, strict=True)}
    for item in items:
        each = by_place.get((item.set, item.index), [])
        yield {"set": item.set, "index": item.index, "scores": list(each), "error": ""}


def write_scores(
    path: Path, work: Sequence[Scorable], scores: dict[tuple[str, int], Scores], model: str
) -> None:
    """Write scores.parquet: one row a solution with its steps, labels and scores, null where it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = pa.list_(pa.float64())
    texts = [(name, pa.string()) for name in ("id", "question", "model")]
    schema = pa.schema(
        [
            ("set", pa.string()),
            ("index", pa.int64()),
            *texts,
            ("steps", pa.list_(pa.string())),
            ("labels", numbers),
            ("scores", numbers),
            ("right", pa.bool_()),
        ]
    )
    rows = [
        {
            "set": item.set,
            "index": item.index,
            "id": item.problem,
            "question": item.question,
            "model": model,
            "steps": list(item.steps),
            "labels": list(item.labels) or None,
            "scores": scores[item.set, item.index],
            "right": item.right,
        }
        for item in work
    ]
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
