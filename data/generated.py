"""Problems made by reasoning_gym: as many as asked for, all different, train and eval apart."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from data.schema import Problem, Role, problem_id

_EVAL_SHARE = 10
"""One question in this many belongs to the eval split."""


def reasoning_gym_problems(
    task: str, count: int, seed: int, split: Role, options: Mapping[str, Any]
) -> list[Problem]:
    """`count` different questions of a task; the same arguments give the same ones.

    reasoning_gym draws row i of a set with seed + i, so neighbouring seeds overlap; each batch here has a
    seed of its own. The hash of a question decides its split, so train and eval share none whatever the
    seeds. Questions without a gold answer are passed over.

    Raises:
        ValueError: no such task, options that it refuses, or fewer different questions than `count`.
    """
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        near = difflib.get_close_matches(task, DATASETS, n=3, cutoff=0.5)
        raise ValueError(f"reasoning_gym has no task {task!r}; near: {', '.join(near) or 'none'}")
    problems: dict[str, Problem] = {}
    barren_batches = 0
    for batch in range(10_000):
        size = max(50, (count - len(problems)) * (_EVAL_SHARE if split == "eval" else 1))
        before = len(problems)
        try:
            entries = reasoning_gym.create_dataset(
                task, size=size, seed=_batch_seed(seed, split, batch), **options
            )
        except (TypeError, AssertionError, ValueError) as error:
            raise ValueError(f"reasoning_gym/{task} refuses options {dict(options)}: {error}") from error
        for entry in entries:
            problem = _problem(task, entry, split)
            if problem is not None:
                problems.setdefault(problem.id, problem)
            if len(problems) == count:
                return list(problems.values())
        barren_batches = barren_batches + 1 if len(problems) == before else 0
        if barren_batches == 5:
            break
    raise ValueError(
        f"reasoning_gym/{task} gave only {len(problems)} different {split} questions with an answer for "
        f"options {dict(options)}, {count} are asked for; lower `limit` or widen `options`"
    )


def _batch_seed(seed: int, split: str, batch: int) -> int:
    return int(hashlib.sha256(f"{seed} {split} {batch}".encode()).hexdigest()[:7], 16)


def _problem(task: str, entry: Mapping[str, Any], split: Role) -> Problem | None:
    """None where the question is of the other split or has no gold answer; its scorer needs the metadata."""
    id = problem_id(entry["question"])
    if not entry["answer"] or (int(id, 16) % _EVAL_SHARE == 0) != (split == "eval"):
        return None
    return Problem(
        id=id,
        question=entry["question"],
        answer=str(entry["answer"]),
        source=f"reasoning_gym/{task}/{split}",
        licence="Apache-2.0",
        role=split,
        domain=task,
        metadata=json.loads(json.dumps(entry["metadata"], default=str)),
    )
