"""How well scores of steps find errors: ProcessBench, ranking and calibration.

ProcessBench is as QwenLM/ProcessBench@e802463:code/run_eval_prm_rlhflow.py defines it: the predicted first
error is the first step below the threshold, -1 where there is none; a prediction counts when it is exact; F1
is the harmonic mean of the accuracy on solutions with an error and on those without. A solution that could
not be scored (None) is a miss, as a judgement without answer is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.steps import LabelledSolution

Scores = Sequence[float] | None
"""One score for each step of a solution; None where it could not be scored."""
LEVEL = 0.95


def predicted_error(scores: Scores, threshold: float) -> int | None:
    """Index of the first step whose score is below the threshold, -1 where there is none; None without
    scores."""
    if scores is None:
        return None
    return next((i for i, score in enumerate(scores) if score < threshold), -1)


# ------------------------------------------------------------------ F1 of the first error


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstErrors:
    """How often the first error is found."""

    f1: float
    low: float
    """Of the 95 % interval of F1: bootstrap over problems."""
    high: float
    error_accuracy: float
    """Share of the solutions with an error whose first error is predicted exactly."""
    correct_accuracy: float
    """Share of the solutions without an error of which no step is called wrong."""
    error_solutions: int
    correct_solutions: int


def harmonic_mean(error_accuracy: float, correct_accuracy: float) -> float:
    """F1 of ProcessBench, 0 where both accuracies are 0."""
    total = error_accuracy + correct_accuracy
    return 2 * error_accuracy * correct_accuracy / total if total else 0.0


def first_errors(
    solutions: Sequence[LabelledSolution],
    matches: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> FirstErrors:
    """ProcessBench's accuracies and F1 from what each solution's prediction is worth (1 exact, 0 not, or the
    probability of 1).

    Raises:
        ValueError: solutions and matches differ in number, or there are none with, or none without, an error.
    """
    if len(solutions) != len(matches):
        raise ValueError(f"{len(matches)} matches for {len(solutions)} solutions")
    wrong = np.array([solution.first_error != -1 for solution in solutions], dtype=bool)
    if not wrong.any() or wrong.all():
        kind = "without" if wrong.all() else "with"
        raise ValueError(
            f"none of the {len(solutions)} solutions is one {kind} an error; F1 needs both kinds"
        )
    sums_U4 = _sums(solutions, np.asarray(matches, dtype=float), wrong)
    f1s = _resampled_f1(sums_U4, seed, resamples)
    low, high = np.quantile(f1s, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    found, errors, kept, correct = sums_U4.sum(axis=0)
    return FirstErrors(
        f1=float(harmonic_mean(found / errors, kept / correct)),
        low=float(low),
        high=float(high),
        error_accuracy=float(found / errors),
        correct_accuracy=float(kept / correct),
        error_solutions=int(errors),
        correct_solutions=int(correct),
    )


def _sums(solutions: Sequence[LabelledSolution], matches: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """[U, 4] for each problem: errors found, solutions with errors, solutions kept, solutions without."""
    units: dict[str, int] = {}
    rows = np.array([units.setdefault(solution.problem.id, len(units)) for solution in solutions])
    parts = [matches * wrong, wrong, matches * ~wrong, ~wrong]
    return np.stack([np.bincount(rows, weights=part, minlength=len(units)) for part in parts], axis=1)


def _resampled_f1(sums_U4: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """F1 of each resample of the problems; one that lacks a kind of solution counts 0."""
    units = len(sums_U4)
    random = np.random.default_rng(seed)
    draws_RU = random.multinomial(units, np.full(units, 1 / units), size=resamples)
    found, errors, kept, correct = (draws_RU @ sums_U4).T
    error_accuracy = found / np.maximum(errors, 1)
    correct_accuracy = kept / np.maximum(correct, 1)
    total = error_accuracy + correct_accuracy
    return 2 * error_accuracy * correct_accuracy / np.where(total > 0, total, 1)


def exact_matches(
    solutions: Sequence[LabelledSolution], scores: Sequence[Scores], threshold: float
) -> list[float]:
    """1 for each solution whose first error is predicted exactly, else 0."""
    pairs = zip(solutions, scores, strict=True)
    return [float(predicted_error(each, threshold) == solution.first_error) for solution, each in pairs]


def best_threshold(solutions: Sequence[LabelledSolution], scores: Sequence[Scores]) -> float:
    """The threshold with the highest F1 on these solutions: every one that makes a difference is tried.

    Between two scores any threshold predicts the same, so the middle stands for all of them; of equally good
    ones it is the lowest. 0.5 where none finds anything.
    """
    starts, ends, kinds = [], [], []
    for solution, each in zip(solutions, scores, strict=True):
        if each is None:
            continue
        error = solution.first_error
        starts.append(-np.inf if error == -1 else each[error])
        ends.append(min(each[:error] if error != -1 else each, default=np.inf))
        kinds.append(error != -1)
    errors = sum(solution.first_error != -1 for solution in solutions)
    starts_S, ends_S, wrong_S = np.array(starts), np.array(ends), np.array(kinds, dtype=bool)
    edges = np.unique([edge for edge in (*starts, *ends) if np.isfinite(edge)])
    candidates = _between(edges)
    found = _covering(starts_S[wrong_S], ends_S[wrong_S], candidates) / max(errors, 1)
    kept = _covering(starts_S[~wrong_S], ends_S[~wrong_S], candidates) / max(len(solutions) - errors, 1)
    f1s = [harmonic_mean(*pair) for pair in zip(found, kept, strict=True)]
    return float(candidates[int(np.argmax(f1s))]) if any(f1s) else 0.5


def _between(edges: np.ndarray) -> np.ndarray:
    """A threshold above each edge and not above the next one."""
    if not len(edges):
        return np.array([0.5])
    upper = np.append(edges[1:], np.nextafter(edges[-1], np.inf))
    middle = (edges + upper) / 2
    return np.where(middle > edges, middle, upper)


def _covering(starts: np.ndarray, ends: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many of the intervals (start, end] hold each threshold; an empty interval holds none."""
    some = starts < ends
    begun = np.searchsorted(np.sort(starts[some]), thresholds, side="left")
    return begun - np.searchsorted(np.sort(ends[some]), thresholds, side="left")


# ------------------------------------------------------------------ ranking and calibration


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Area under the ROC curve: how often a right one scores above a wrong one; ties count half."""

    auc: float
    low: float
    """Of the 95 % interval: bootstrap over problems."""
    high: float
    right: int
    wrong: int


def ranking(
    problems: Sequence[str],
    scores: Sequence[float],
    right: Sequence[bool],
    *,
    seed: int = 0,
    resamples: int = 500,
) -> Ranking | None:
    """How well scores tell right from wrong; None where there is only one of the two.

    Args:
        problems: the problem of each score; those of one problem are drawn together.
    """
    right_N = np.array(right, dtype=bool)
    if not right_N.any() or right_N.all():
        return None
    values_N = np.asarray(scores, dtype=float)
    units: dict[str, int] = {}
    rows_N = np.array([units.setdefault(problem, len(units)) for problem in problems])
    random = np.random.default_rng(seed)
    draws_RU = random.multinomial(len(units), np.full(len(units), 1 / len(units)), size=resamples)
    at_once = max(1, 4_000_000 // len(values_N))
    parts = [
        _auc(values_N, right_N, draws_RU[start : start + at_once, rows_N])
        for start in range(0, resamples, at_once)
    ]
    low, high = np.nanquantile(np.concatenate(parts), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    auc = float(_auc(values_N, right_N, np.ones((1, len(values_N))))[0])
    count = int(right_N.sum())
    return Ranking(auc=auc, low=float(low), high=float(high), right=count, wrong=len(right_N) - count)


def _auc(values_N: np.ndarray, right_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """[R] areas, one for each row of weights; nan where a row lacks right or wrong ones."""
    order = np.argsort(values_N, kind="stable")
    sorted_N = values_N[order]
    groups = np.flatnonzero(np.append(True, sorted_N[1:] != sorted_N[:-1]))
    right_RG = np.add.reduceat(weights_RN[:, order] * right_N[order], groups, axis=1)
    wrong_RG = np.add.reduceat(weights_RN[:, order] * ~right_N[order], groups, axis=1)
    below_RG = wrong_RG.cumsum(axis=1) - wrong_RG / 2
    pairs_R = right_RG.sum(axis=1) * wrong_RG.sum(axis=1)
    return np.where(pairs_R > 0, (right_RG * below_RG).sum(axis=1), np.nan) / np.where(
        pairs_R > 0, pairs_R, 1
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A labelled step with its score."""

    problem: str
    position: int
    score: float
    label: float


def judged_steps(solutions: Sequence[LabelledSolution], scores: Sequence[Scores]) -> list[Judged]:
    """The labelled steps of the solutions that could be scored."""
    return [
        Judged(problem=solution.problem.id, position=i, score=score, label=label)
        for solution, each in zip(solutions, scores, strict=True)
        if each is not None
        for i, (score, label) in enumerate(zip(each, solution.labels, strict=True))
        if label is not None
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Steps with scores from `low` to below `high` (the last bin: up to and with 1)."""

    low: float
    high: float
    steps: int
    mean_score: float
    right: float
    """Mean label: the share of right steps."""


def reliability(steps: Sequence[Judged], bins: int = 10) -> list[Bin]:
    """Mean score against share of right steps, in bins of equal width; bins without steps are left out."""
    groups: dict[int, list[Judged]] = {}
    for step in steps:
        groups.setdefault(min(int(step.score * bins), bins - 1), []).append(step)
    return [
        Bin(
            low=i / bins,
            high=(i + 1) / bins,
            steps=len(groups[i]),
            mean_score=sum(step.score for step in groups[i]) / len(groups[i]),
            right=sum(step.label for step in groups[i]) / len(groups[i]),
        )
        for i in sorted(groups)
    ]


def calibration_error(table: Sequence[Bin]) -> float:
    """Expected calibration error of a reliability table: mean distance of score and share of right steps,
    weighted by steps (Guo et al. 2017, arXiv 1706.04599, eq. 3)."""
    total = sum(each.steps for each in table)
    return sum(each.steps * abs(each.mean_score - each.right) for each in table) / total if total else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AtPosition:
    """The steps at one place of their solutions."""

    position: int
    """From 0; the last row stands for this place and all behind it."""
    steps: int
    accuracy: float
    """Share of the steps that the threshold puts on the right side."""
    mean_score: float
    right: float


def by_position(steps: Sequence[Judged], threshold: float, positions: int = 12) -> list[AtPosition]:
    """Accuracy of the single decisions by the place of the step."""
    groups: dict[int, list[Judged]] = {}
    for step in steps:
        groups.setdefault(min(step.position, positions - 1), []).append(step)
    return [
        AtPosition(
            position=i,
            steps=len(groups[i]),
            accuracy=sum((s.score >= threshold) == (s.label >= 0.5) for s in groups[i]) / len(groups[i]),
            mean_score=sum(s.score for s in groups[i]) / len(groups[i]),
            right=sum(s.label >= 0.5 for s in groups[i]) / len(groups[i]),
        )
        for i in sorted(groups)
    ]
