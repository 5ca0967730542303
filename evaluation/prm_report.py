"""The numbers of a reward model on one set of labelled solutions, and on attempts with verdicts."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from data.schema import Attempt
from data.steps import LabelledSolution
from evaluation.best_of_n import Candidates, candidates_many, curves, doublings
from evaluation.prm_baselines import baselines
from evaluation.prm_metrics import (
    Scores,
    by_position,
    calibration_error,
    exact_matches,
    first_errors,
    judged_steps,
    ranking,
    reliability,
)
from inference.scorers.scorer import Aggregation, aggregate

AGGREGATIONS: tuple[Aggregation, ...] = typing.get_args(Aggregation)


def has_both_kinds(solutions: Sequence[LabelledSolution]) -> bool:
    """Whether there are solutions with and without an error, so that F1 exists."""
    return len({solution.first_error == -1 for solution in solutions}) == 2


def set_metrics(
    solutions: Sequence[LabelledSolution],
    scores: Sequence[Scores],
    *,
    threshold: float,
    chosen_on: Sequence[LabelledSolution],
    seed: int,
) -> dict[str, Any]:
    """What the scores of a set are worth.

    Returns:
        solutions, unscored; first_error (F1 at the threshold), first_error_at_half and baselines, null where
        a set has only solutions with, or only without, an error; step_auc; error_auc and answer_auc by way of
        aggregation (does the solution's score tell solutions without an error, and right answers);
        calibration_error and reliability over the labelled steps; by_position. An AUC is null where there is
        only one class.
    """
    steps = judged_steps(solutions, scores)
    table = reliability(steps)
    both = has_both_kinds(solutions)

    def found(at: float) -> dict[str, Any] | None:
        return (
            asdict(first_errors(solutions, exact_matches(solutions, scores, at), seed=seed)) if both else None
        )

    return {
        "solutions": len(solutions),
        "unscored": sum(each is None for each in scores),
        "first_error": found(threshold),
        "first_error_at_half": found(0.5),
        "baselines": baselines(chosen_on, solutions, seed=seed) if both else None,
        "step_auc": _auc(
            [s.problem for s in steps], [s.score for s in steps], [s.label >= 0.5 for s in steps], seed
        ),
        "error_auc": aggregated_auc(
            [s.problem.id for s in solutions], scores, [s.first_error == -1 for s in solutions], seed
        ),
        "answer_auc": aggregated_auc(
            [s.problem.id for s in solutions], scores, [s.right for s in solutions], seed
        ),
        "calibration_error": calibration_error(table),
        "reliability": [asdict(row) for row in table],
        "by_position": [asdict(row) for row in by_position(steps, threshold)],
    }


def _auc(
    problems: Sequence[str], scores: Sequence[float], right: Sequence[bool], seed: int
) -> dict[str, Any] | None:
    made = ranking(problems, scores, right, seed=seed)
    return asdict(made) if made else None


def aggregated_auc(
    problems: Sequence[str], scores: Sequence[Scores], right: Sequence[bool | None], seed: int
) -> dict[str, dict[str, Any] | None]:
    """AUC of solutions by the way in which their steps make one score. Those without scores, and those of
    which it is not known whether they are right, are left out."""
    known = [
        (problem, each, flag)
        for problem, each, flag in zip(problems, scores, right, strict=True)
        if each is not None and flag is not None
    ]
    return {
        how: _auc(
            [problem for problem, _, _ in known],
            [aggregate(each, how) for _, each, _ in known],
            [flag for _, _, flag in known],
            seed,
        )
        for how in AGGREGATIONS
    }


def attempt_metrics(
    attempts: Sequence[Attempt],
    scores: Sequence[Scores],
    *,
    aggregation: Aggregation,
    ns: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """What the scores of attempts are worth: AUC of right answers by way of aggregation (last: of the last
    step), and the curves of best-of-n.

    An attempt that could not be scored counts with score 0, one that could not be verified as not correct.

    Returns:
        attempts, problems, unverifiable, unscored, without_steps; answer_auc over the verified attempts;
        aggregation; best_of_n: see `evaluation.best_of_n.curves`.
    """
    groups = grouped(attempts, scores, aggregation)
    most = min(len(group.scores) for group in groups)
    verdicts = {"correct": True, "wrong": False, "unverifiable": None}
    right = [verdicts[attempt.verdict] for attempt in attempts]
    return {
        "attempts": len(attempts),
        "problems": len(groups),
        "unverifiable": sum(flag is None for flag in right),
        "unscored": sum(each is None for each in scores),
        "without_steps": sum(each is not None and not each for each in scores),
        "answer_auc": aggregated_auc([attempt.problem.id for attempt in attempts], scores, right, seed),
        "aggregation": aggregation,
        "best_of_n": curves(groups, ns or doublings(most), seed=seed),
    }


def grouped(attempts: Sequence[Attempt], scores: Sequence[Scores], how: Aggregation) -> list[Candidates]:
    """The attempts of each problem with one score each."""
    by_problem: dict[str, list[tuple[Attempt, float]]] = {}
    for attempt, each in zip(attempts, scores, strict=True):
        by_problem.setdefault(attempt.problem.id, []).append((attempt, aggregate(each or [], how)))
    groups = by_problem.values()
    return candidates_many(
        [[a for a, _ in rows] for rows in groups], [[s for _, s in rows] for rows in groups]
    )
