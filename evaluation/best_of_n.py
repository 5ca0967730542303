"""What scores are worth for choosing among n answers: best-of-n and weighted votes against the majority.

Each is the expected accuracy over all subsets of n of a problem's N attempts. It is exact for single
attempts, majority, best-of-n and the oracle; for the weighted vote too where there are few subsets, and else
a mean over random ones. Intervals are over problems. N attempts, n drawn, M subsets, K classes of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from data.schema import Attempt
from evaluation.metrics import bootstrap_interval, majority_at_k, pass_at_k, summarise
from evaluation.votes import voted_answers

METHODS = ("pass@1", "majority", "best_of_n", "weighted_best_of_n", "oracle")
"""oracle: the share of subsets that hold a correct attempt, which no choice can exceed."""
MAX_SUBSETS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """The attempts at one problem."""

    answers: tuple[str | None, ...]
    """In canonical form, None where there is none; see `candidates`."""
    correct: tuple[bool, ...]
    scores: tuple[float, ...]
    """Of the whole solutions, at least 0."""


def candidates(attempts: Sequence[Attempt], scores: Sequence[float]) -> Candidates:
    """`candidates_many` for one problem."""
    return candidates_many([attempts], [scores])[0]


def candidates_many(
    problems: Sequence[Sequence[Attempt]], scores: Sequence[Sequence[float]]
) -> list[Candidates]:
    """The attempts at each problem by their verdicts, answers (as in maj@k of stage evaluate) and scores. All
    answers are compared in one batch: see `evaluation.votes`.

    Raises:
        ValueError: another number of scores, or a score that is negative or not finite.
    """
    for attempts, each in zip(problems, scores, strict=True):
        if len(attempts) != len(each):
            raise ValueError(f"{len(each)} scores for {len(attempts)} attempts")
        if not all(0 <= score < np.inf for score in each):
            raise ValueError(f"a score is negative or not finite: {list(each)[:8]}; votes need weights")
    return [
        Candidates(
            answers=tuple(answers),
            correct=tuple(attempt.verdict == "correct" for attempt in attempts),
            scores=tuple(each),
        )
        for attempts, answers, each in zip(problems, voted_answers(problems), scores, strict=True)
    ]


# ------------------------------------------------------------------ one problem


def best_of_n(scores: Sequence[float], correct: Sequence[bool], n: int) -> float:
    """Expected accuracy of the attempt with the highest score among n; equal scores are drawn at random.

    Exact: attempts that share a score hold the maximum when one of them is drawn and none above them, and
    then each of them is chosen equally often.

    Raises:
        ValueError: n is not between 1 and the number of attempts.
    """
    total = len(scores)
    _check(n, total)
    values, flags = np.asarray(scores, dtype=float), np.asarray(correct, dtype=float)
    expected, above = 0.0, 0
    for value in np.unique(values)[::-1]:
        same = values == value
        upto = above + int(same.sum())
        chosen = (comb(total - above, n) - comb(total - upto, n)) / comb(total, n)
        expected += chosen * float(flags[same].mean())
        above = upto
    return min(expected, 1.0)


def weighted_best_of_n(
    rows: Candidates, n: int, *, seed: int | Sequence[int] = 0, max_subsets: int = MAX_SUBSETS
) -> float:
    """Expected accuracy of the answer with the highest sum of scores among n attempts (arXiv 2408.03314,
    section 5.1); ties are drawn at random, attempts without an answer have no vote.

    All correct answers are one class, as in `evaluation.metrics.majority_at_k`. Exact where there are at most
    `max_subsets` subsets, else a mean over so many random ones.

    Raises:
        ValueError: n is not between 1 and the number of attempts.
    """
    total = len(rows.scores)
    _check(n, total)
    drawn_MN, members_NK = _subsets(total, n, seed, max_subsets), _classes(rows)
    voted_MK = drawn_MN @ members_NK > 0
    sums_MK = np.where(voted_MK, drawn_MN @ (members_NK * np.array(rows.scores)[:, None]), -1.0)
    best_M1 = sums_MK.max(axis=1, keepdims=True)
    winners_MK = voted_MK & (sums_MK >= best_M1 * (1 - 1e-12))
    return float((winners_MK[:, 0] / np.maximum(winners_MK.sum(axis=1), 1)).mean())


def _classes(rows: Candidates) -> np.ndarray:
    """[N, K] which attempt has which answer; the first class is that of the correct ones."""
    wrong = {
        answer: None
        for answer, correct in zip(rows.answers, rows.correct, strict=True)
        if answer is not None and not correct
    }
    columns = {answer: column for column, answer in enumerate(wrong, 1)}
    members_NK = np.zeros((len(rows.answers), 1 + len(columns)))
    for row, (answer, correct) in enumerate(zip(rows.answers, rows.correct, strict=True)):
        if correct:
            members_NK[row, 0] = 1
        elif answer is not None:
            members_NK[row, columns[answer]] = 1
    return members_NK


def _subsets(total: int, n: int, seed: int | Sequence[int], most: int) -> np.ndarray:
    """[M, N] the subsets of n as rows of ones and zeros: all of them, or `most` random ones."""
    if comb(total, n) <= most:
        chosen = np.array(list(combinations(range(total), n)))
    else:
        chosen = np.random.default_rng(seed).random((most, total)).argpartition(n - 1, axis=1)[:, :n]
    drawn_MN = np.zeros((len(chosen), total))
    np.put_along_axis(drawn_MN, chosen, 1, axis=1)
    return drawn_MN


def _check(n: int, total: int) -> None:
    if not 1 <= n <= total:
        raise ValueError(f"n={n} attempts cannot be drawn from {total}; n must be in 1..{total}")


# ------------------------------------------------------------------ all problems


def curves(problems: Sequence[Candidates], ns: Sequence[int], *, seed: int = 0) -> list[dict[str, Any]]:
    """For each n the accuracy of every method (mean, low, high, problems) and the differences of the two
    choices by score to the majority on the same problems (`best_of_n_gain`, `weighted_best_of_n_gain`).

    Raises:
        ValueError: no problems, or an n that a problem has not attempts enough for.
    """
    if not problems:
        raise ValueError("best-of-n needs at least one problem with attempts")
    fewest = min(len(problem.scores) for problem in problems)
    for n in ns:
        if not 1 <= n <= fewest:
            raise ValueError(f"n: {n} is not between 1 and {fewest}, the fewest attempts that a problem has")
    return [_at(problems, n, seed) for n in ns]


def _at(problems: Sequence[Candidates], n: int, seed: int) -> dict[str, Any]:
    values: dict[str, list[float]] = {method: [] for method in METHODS}
    for number, rows in enumerate(problems):
        total, correct = len(rows.scores), sum(rows.correct)
        values["pass@1"].append(correct / total)
        values["majority"].append(majority_at_k(rows.answers, rows.correct, n))
        values["best_of_n"].append(best_of_n(rows.scores, rows.correct, n))
        values["weighted_best_of_n"].append(weighted_best_of_n(rows, n, seed=(seed, n, number)))
        values["oracle"].append(pass_at_k(total, correct, n))
    gains = {
        f"{method}_gain": asdict(
            paired_difference(values[method], values["majority"], seed=seed) if n > 1 else SAME
        )
        for method in ("best_of_n", "weighted_best_of_n")
    }
    return {"n": n, **{method: summarise(each, seed=seed) for method, each in values.items()}, **gains}


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A mean difference over the same problems."""

    mean: float
    low: float
    """Of the 95 % interval."""
    high: float


SAME = Difference(mean=0.0, low=0.0, high=0.0)
"""Between choices that cannot differ: those from one attempt."""


def paired_difference(values: Sequence[float], others: Sequence[float], *, seed: int = 0) -> Difference:
    """Mean of value - other with a bootstrap interval over problems.

    Where no problem shows a difference the interval is what n problems without one leave open: a share of
    1 - 0.025^(1/n) of the problems might differ, in either direction.

    Raises:
        ValueError: no values, or lengths that differ.
    """
    differences = [round(value - other, 12) for value, other in zip(values, others, strict=True)]
    if differences and not any(differences):
        open_share = 1 - 0.025 ** (1 / len(differences))
        return Difference(mean=0.0, low=-open_share, high=open_share)
    low, high = bootstrap_interval(differences, seed=seed)
    return Difference(mean=float(np.mean(differences)), low=low, high=high)


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`, and `most` itself."""
    return sorted({*(1 << i for i in range(most.bit_length())), most} - {0}) if most > 0 else []
