"""Test-time scaling: control, scaling and performance of a method, with intervals over problems.

A method (budget forcing, a prompt that asks for a length, majority vote, ...) is run in several settings on
the same problems; each setting is one point (thinking tokens, accuracy).

Source: s1 (Muennighoff et al. 2025, arXiv 2501.19393), section 3.2, equations 1 to 3. Its table 3 follows
from the points of its tables 12 to 14 (appendix E.1) only if control compares the mean thinking tokens of a
setting with its bounds, not each completion, and scaling is in percentage points per doubling of the tokens
(equation 2 with log2 of the tokens), not per token. Here both are given, each named by its unit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.schema import Attempt
from evaluation.metrics import bootstrap_interval, majority_at_k
from evaluation.votes import voted_answers

_SAME = 1e-9  # means of tokens that differ by less, relatively, differ by rounding only


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One evaluation of a method: the completions that it gave to every problem."""

    name: str
    """How it differs from the other settings of its method, for example "2,048" or "Wait x 2"."""
    method: str
    groups: Sequence[Sequence[Attempt]]
    """The attempts of each problem, in the same order of problems in all settings. An empty group (a problem
    that could not be put to the model) is wrong, and has no thinking tokens."""
    low: float | None = None
    """Fewest thinking tokens that it asks for, in `Completion.thinking_tokens` (tags included), or None."""
    high: float | None = None
    """Most thinking tokens that it allows, counted alike, or None."""
    votes: int = 1
    """Completions that vote for one answer (parallel scaling): accuracy is then maj@votes, and the thinking
    tokens are those of all that vote."""

    def __post_init__(self) -> None:
        where = f"setting {self.name!r} of {self.method!r}"
        if not any(self.groups):
            raise ValueError(f"{where}: has no completions; leave it out")
        if self.votes < 1 or (self.votes > 1 and (self.low, self.high) != (None, None)):
            raise ValueError(f"{where}: votes={self.votes} must be 1, or more without `low` and `high`")
        _check_bounds([self.low], [self.high], where)
        owners = [{attempt.problem.id for attempt in group} for group in self.groups]
        if any(len(ids) > 1 for ids in owners):
            raise ValueError(f"{where}: a group mixes problems; group the attempts by problem")
        if len(set().union(*owners)) < sum(map(len, owners)):
            raise ValueError(f"{where}: a problem has two groups; make them one")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A setting as s1 draws it."""

    name: str
    thinking_tokens: Estimate
    """Mean per problem of the mean over its completions."""
    accuracy: Estimate
    """0 to 1; unverifiable counts as wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSummary:
    """One line of the table: what a method does with test-time compute."""

    method: str
    settings: int
    """|A| of the paper."""
    bounded_settings: int
    """Settings with a minimum or a maximum: those that control is about."""
    control: Estimate | None
    """Share (0 to 1) of the bounded settings whose mean thinking tokens are within the bounds: equation 1."""
    control_per_completion: Estimate | None
    """Share of completions within the bounds, mean over bounded settings: a mean can be within bounds that
    most completions miss."""
    points_per_doubling: Estimate | None
    """Scaling as in table 3 of s1: percentage points per doubling of the thinking tokens."""
    points_per_1000_tokens: Estimate | None
    """Scaling as in equation 2: percentage points per 1,000 more thinking tokens."""
    performance: Estimate
    """Best accuracy (0 to 1) of any setting: equation 3, with the interval of that setting. The best of noisy
    numbers is optimistic; resamples of the maximum would be more so."""
    points: list[Point]
    notes: list[str]
    """What the numbers leave out."""


def control(
    tokens: Sequence[float], low: Sequence[float | None], high: Sequence[float | None]
) -> float | None:
    """Share of settings whose thinking tokens are within [low, high], bounds included: equation 1.

    A setting without any bound is left out, for it cannot miss; None where that leaves none. Over single
    completions, each with the bounds of its setting, it is the control per completion.

    Raises:
        ValueError: lengths that differ, a bound that is negative, or low > high.
    """
    if not len(tokens) == len(low) == len(high):
        raise ValueError(f"{len(tokens)} tokens, {len(low)} low and {len(high)} high; give each its bounds")
    _check_bounds(low, high, "control")
    bounded = [row for row in zip(tokens, low, high, strict=True) if row[1:] != (None, None)]
    return float(np.mean([_within(*row) for row in bounded])) if bounded else None


def scaling(
    tokens: Sequence[float], accuracies: Sequence[float], *, per_doubling: bool = False
) -> float | None:
    """Mean slope over all pairs of settings, in accuracy per token (equation 2) or per doubling (table 3).

    Pairs without a slope (equal tokens; per doubling also no tokens) are left out; None if that leaves none.

    Raises:
        ValueError: lengths that differ, or tokens that are negative or not finite.
    """
    if len(tokens) != len(accuracies):
        raise ValueError(f"{len(tokens)} tokens but {len(accuracies)} accuracies; give one for each setting")
    if any(not 0 <= count < np.inf for count in tokens):
        raise ValueError(f"tokens: {list(tokens)[:5]} must be finite and not negative")
    slopes = _slopes(np.asarray(tokens, float), np.asarray(accuracies, float), per_doubling)
    return float(np.nanmean(slopes)) if np.isfinite(slopes).any() else None


def _within(tokens: Any, low: float | None, high: float | None) -> Any:
    return (tokens >= (-np.inf if low is None else low)) & (tokens <= (np.inf if high is None else high))


def _slopes(tokens: np.ndarray, accuracies: np.ndarray, per_doubling: bool) -> np.ndarray:
    """[..., pairs] from [..., S] twice; NaN where a pair has no slope."""
    first, second = np.triu_indices(tokens.shape[-1], k=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.log2(tokens) if per_doubling else tokens
        step = x[..., second] - x[..., first]
        equal = np.isclose(tokens[..., second], tokens[..., first], rtol=_SAME, atol=0)
        step = np.where(equal | ~np.isfinite(step), np.nan, step)
        return (accuracies[..., second] - accuracies[..., first]) / step


def _check_bounds(low: Sequence[float | None], high: Sequence[float | None], where: str) -> None:
    for least, most in zip(low, high, strict=True):
        if (least or 0) < 0 or (most is not None and most < (least or 0)):
            raise ValueError(f"{where}: low={least}, high={most} must be 0 <= low <= high")


def summarise_methods(
    settings: Sequence[Setting], *, seed: int = 0, resamples: int = 10_000
) -> list[MethodSummary]:
    """The points and the metrics of each method, with percentile bootstrap intervals over problems.

    Each resample of problems is applied to all settings together, because they share the problems: what is
    hard in one is hard in all, and a slope between two settings is far better known than either accuracy.

    Raises:
        ValueError: no settings, settings with different problems, a name twice in a method, resamples < 1.
    """
    _check_settings(settings)
    if resamples < 1:
        raise ValueError(f"resamples: {resamples} must be at least 1")
    samples = _resampled(settings, seed, resamples)
    methods = dict.fromkeys(setting.method for setting in settings)
    columns = {m: [i for i, setting in enumerate(settings) if setting.method == m] for m in methods}
    return [
        _summarise([settings[i] for i in own], *(sample[:, own] for sample in samples))
        for own in columns.values()
    ]


def _summarise(
    settings: list[Setting], tokens: np.ndarray, accuracy: np.ndarray, inside: np.ndarray
) -> MethodSummary:
    problems = len(settings[0].groups)
    bounded = [i for i, setting in enumerate(settings) if (setting.low, setting.high) != (None, None)]
    hits = [_within(tokens[:, i], settings[i].low, settings[i].high) for i in bounded]
    per_1000_tokens, per_doubling, notes = _mean_slopes(tokens, accuracy)
    if unbounded := len(settings) - len(bounded):
        notes.append(f"{unbounded} of {len(settings)} settings have no bound: control is without them")
    if empty := sum(not group for setting in settings for group in setting.groups):
        notes.append(f"{empty} times a problem without completions counts as wrong")
    points = [
        Point(
            name=setting.name,
            thinking_tokens=_estimate(tokens[:, i]),
            accuracy=_estimate(accuracy[:, i], problems),
        )
        for i, setting in enumerate(settings)
    ]
    return MethodSummary(
        method=settings[0].method,
        settings=len(settings),
        bounded_settings=len(bounded),
        control=_estimate(np.mean(hits, axis=0)) if bounded else None,
        control_per_completion=_estimate(inside[:, bounded].mean(axis=1), problems) if bounded else None,
        points_per_doubling=per_doubling,
        points_per_1000_tokens=per_1000_tokens,
        performance=max((point.accuracy for point in points), key=lambda accuracy: accuracy.value),
        points=points,
        notes=notes,
    )


def _mean_slopes(
    tokens: np.ndarray, accuracy: np.ndarray
) -> tuple[Estimate | None, Estimate | None, list[str]]:
    """Scaling per 1,000 tokens and per doubling, and what they leave out: a pair without a slope in row 0 is
    left out of every resample."""
    estimates, pairs = [], tokens.shape[1] * (tokens.shape[1] - 1) // 2
    notes = [] if pairs else ["one setting: there is no slope"]
    for per_doubling, points in ((False, 100_000), (True, 100)):
        slopes = _slopes(tokens, accuracy, per_doubling)
        slopes = slopes[:, np.isfinite(slopes[0])]
        used = np.isfinite(slopes).sum(axis=1)
        mean = np.where(used, np.nansum(slopes, axis=1) / np.maximum(used, 1), np.nan)
        estimates.append(_estimate(points * mean) if slopes.shape[1] else None)
        if left_out := pairs - slopes.shape[1]:
            why = "doubling (equal or no tokens)" if per_doubling else "token (equal tokens)"
            notes.append(f"{left_out} of {pairs} pairs of settings have no slope per {why}")
    return estimates[0], estimates[1], notes


def _check_settings(settings: Sequence[Setting]) -> None:
    if not settings:
        raise ValueError("no settings: give at least one")
    (named, times), *_ = Counter((setting.method, setting.name) for setting in settings).most_common(1)
    if times > 1:
        raise ValueError(f"{times} settings of {named[0]!r} are called {named[1]!r}; name them apart")
    counts = {len(setting.groups) for setting in settings}
    if len(counts) > 1:
        raise ValueError(f"settings have {sorted(counts)} problems; use the same problems in all")
    for position, groups in enumerate(zip(*(setting.groups for setting in settings), strict=True)):
        ids = {group[0].problem.id for group in groups if group}
        if len(ids) > 1:
            raise ValueError(f"problem {position} is not the same in all settings: {sorted(ids)[:3]}")


def _resampled(settings: Sequence[Setting], seed: int, resamples: int) -> list[np.ndarray]:
    """Thinking tokens, accuracy and share of completions within bounds, each [1 + resamples, S]: row 0 is of
    the problems as they are."""
    columns = [problem_scores(setting) for setting in settings]
    scores_P4S = np.concatenate([np.stack(rows, axis=1) for rows in zip(*columns, strict=True)], axis=1)
    problems = len(scores_P4S)
    random, chance = np.random.default_rng(seed), np.full(problems, 1 / problems)
    sums = [scores_P4S.sum(axis=0, keepdims=True)]
    rows_at_once = max(1, 2_000_000 // problems)
    for done in range(0, resamples, rows_at_once):
        times_RP = random.multinomial(problems, chance, size=min(rows_at_once, resamples - done))
        sums.append(times_RP.astype(np.float64) @ scores_P4S)
    answered, tokens, inside, correct = np.split(np.concatenate(sums), 4, axis=1)
    with np.errstate(invalid="ignore"):  # a resample of empty groups alone has no tokens: NaN
        return [tokens / answered, correct / problems, inside / answered]


def problem_scores(setting: Setting) -> np.ndarray:
    """[4, P]: 1 where the problem has completions, their mean thinking tokens, the share of them within the
    bounds, and the accuracy."""
    rows = []
    votes = voted_answers(setting.groups) if setting.votes > 1 else [[] for _ in setting.groups]
    for group, answers in zip(setting.groups, votes, strict=True):
        if not group:
            rows.append((0.0, 0.0, 0.0, 0.0))
            continue
        tokens = [attempt.completion.thinking_tokens for attempt in group]
        correct = [attempt.verdict == "correct" for attempt in group]
        if setting.votes > 1:
            accuracy = majority_at_k(answers, correct, setting.votes)
        else:
            accuracy = sum(correct) / len(group)
        share = sum(_within(count, setting.low, setting.high) for count in tokens) / len(group)
        rows.append((1.0, setting.votes * sum(tokens) / len(group), share, accuracy))
    return np.array(rows).T


def _estimate(samples: np.ndarray, problems: int = 0) -> Estimate:
    """Row 0 with the percentile interval of the others.

    problems: given for a share of problems; where that is 0 or 1 resamples have no width, and the exact
    binomial interval of `bootstrap_interval` stands instead.
    """
    value = float(samples[0])
    if problems and value in (0, 1):
        return Estimate(value, *bootstrap_interval([value] * problems))
    low, high = np.nanquantile(samples[1:], [0.025, 0.975])
    return Estimate(value, float(low), float(high))
