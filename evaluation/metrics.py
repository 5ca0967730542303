"""Accuracy metrics over the sampled completions of a problem, and intervals over problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb, isfinite

import numpy as np


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k completions is correct, drawn without replacement from n of which c
    are correct: 1 - C(n-c, k) / C(n, k), as a product, so that no binomial is ever formed.

    Source: Chen et al. 2021, arXiv 2107.03374, eq. 1 and figure 3.

    Raises:
        ValueError: k < 1, k > n, or c outside 0..n.
    """
    _check_draw(n, k)
    if not 0 <= c <= n:
        raise ValueError(f"c={c} correct completions is outside 0..n={n}")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def majority_at_k(answers: Sequence[str | None], correct: Sequence[bool], k: int) -> float:
    """Expected accuracy of a majority vote over k of the n completions, drawn without replacement.

    The expectation is exact, over all C(n, k) subsets: no estimate from the first k or from random draws.
    Equal answers vote together, and all correct answers are one class however they are written. A tie is
    broken uniformly among the tied classes. None (no answer) takes a place in the subset and casts no vote; a
    subset without any vote is wrong.

    Args:
        answers: n answers in canonical form (equal answers are equal strings), None where there is none.
        correct: n flags.
    Raises:
        ValueError: k < 1, k > n, lengths that differ, or a correct completion without an answer.
    """
    n = len(answers)
    if len(correct) != n:
        raise ValueError(f"{n} answers but {len(correct)} flags; give one flag for each answer")
    _check_draw(n, k)
    for index, (answer, is_correct) in enumerate(zip(answers, correct, strict=True)):
        if is_correct and answer is None:
            raise ValueError(f"completion {index} is correct but has no answer")
    votes_correct = sum(map(bool, correct))
    wrong = Counter(
        a for a, is_correct in zip(answers, correct, strict=True) if not is_correct and a is not None
    )

    # The classes are drawn one after the other: draws[R, t] is the probability that a class gets t of the R
    # places still free. The places that remain in the end are those of None.
    left = n - votes_correct
    draws_of_class = []
    for size in wrong.values():
        draws_of_class.append(_hypergeometric(left, size, k))
        left -= size
    first = _hypergeometric(n, votes_correct, k)[k]
    expected = 0.0
    for votes in range(1, min(votes_correct, k) + 1):
        expected += first[votes] * _wins(draws_of_class, votes, k - votes)
    return min(float(expected), 1.0)


def _wins(draws_of_class: list[np.ndarray], votes: int, places: int) -> float:
    """Probability that a class with `votes` votes wins when the others share `places` places."""
    most_ties = places // votes
    state = np.zeros((most_ties + 1, places + 1))  # [classes tied so far, places still free]
    state[0, places] = 1.0
    for draws in draws_of_class:
        after = np.zeros_like(state)
        for t in range(min(votes, draws.shape[1] - 1, places) + 1):
            drawn = (state * draws[: places + 1, t])[:, t:]
            if t < votes:
                after[:, : places + 1 - t] += drawn
            else:
                after[1:, : places + 1 - t] += drawn[:-1]
        state = after
    return float((state.sum(axis=1) / np.arange(1, most_ties + 2)).sum())


def _hypergeometric(population: int, size: int, places: int) -> np.ndarray:
    """[R, t] for R in 0..places, t in 0..size: probability of t marked among R drawn from `population`, of
    which `size` are marked; 0 where R exceeds the population."""
    table = np.zeros((places + 1, size + 1))
    for drawn in range(min(places, population) + 1):
        total = comb(population, drawn)
        for t in range(min(size, drawn) + 1):
            # Integers of any size: their quotient is correctly rounded.
            table[drawn, t] = comb(size, t) * comb(population - size, drawn - t) / total
    return table


def bootstrap_interval(
    values: Sequence[float], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Interval for the mean of one value per problem: percentile bootstrap over problems.

    Resamples of equal values are all alike, so their interval would have no width, although n problems never
    prove that the next one is solved. Where all values are 0 or all are 1 the exact binomial interval
    (Clopper and Pearson 1934) stands instead: (0, 1 - (a/2)^(1/n)) or ((a/2)^(1/n), 1) with a = 1 - level.
    Other equal values are no counts; they keep zero width.

    Raises:
        ValueError: no values, a value that is not finite, level outside (0, 1), or resamples < 1.
    """
    if not values or not all(map(isfinite, values)):
        raise ValueError(f"needs at least one value and finite values only, got {list(values)[:5]}")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"needs 0 < level < 1 and resamples >= 1, got level={level}, resamples={resamples}")
    n, tail = len(values), (1 - level) / 2
    if set(values) == {0}:
        return 0.0, 1 - tail ** (1 / n)
    if set(values) == {1}:
        return tail ** (1 / n), 1.0
    array = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(seed)
    rows_at_once = max(1, 2_000_000 // n)
    means = [
        array[random.integers(n, size=(min(rows_at_once, resamples - done), n))].mean(axis=1)
        for done in range(0, resamples, rows_at_once)
    ]
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def summarise(values: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Mean of one value per problem, its 95% interval (`bootstrap_interval`), and the number of problems."""
    low, high = bootstrap_interval(values, seed=seed)
    return {"mean": float(np.mean(values)), "low": low, "high": high, "problems": len(values)}


def _check_draw(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k={k} completions cannot be drawn from n={n}; k must be in 1..{n}")
