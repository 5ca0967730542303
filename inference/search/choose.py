"""Choosing one answer among the candidates of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from inference.search.results import CHOICES


def choose(classes: Sequence[int], scores: Sequence[float]) -> dict[str, int]:
    """For each of CHOICES the index of a candidate with the chosen answer, -1 where there is none.

    majority: the class with the most votes; best_of_n: the candidate with the highest score of those that
    have an answer; weighted_best_of_n: the class with the highest sum of scores (arXiv 2408.03314, section
    5.1). Of equal classes or candidates the first is chosen; a class stands for its candidate with the
    highest score, without scores for its first.

    Args:
        classes: of the candidates' answers, as of `rewards.answer_classes`; -1 is no answer and no vote.
        scores: of the candidates, at least 0 for a weighted vote. One that is not finite is no score;
            without any, also where the list is empty, the two choices by score are -1.

    Raises:
        ValueError: another number of scores, other than none.
    """
    if len(scores) and len(scores) != len(classes):
        raise ValueError(f"{len(scores)} scores for {len(classes)} candidates; give one each, or none")
    members: dict[int, list[int]] = {}
    for place, each in enumerate(classes):
        if each >= 0:
            members.setdefault(each, []).append(place)
    known = {place: score for place, score in enumerate(scores) if math.isfinite(score)}
    scored = [place for place, each in enumerate(classes) if each >= 0 and place in known]

    def best(places: Sequence[int]) -> int:
        return max(places, key=lambda place: known.get(place, -math.inf), default=-1)

    def weight(places: Sequence[int]) -> float:
        return math.fsum(known.get(place, 0.0) for place in places)

    chosen = {
        "majority": best(_heaviest(list(members.values()), len)),
        "best_of_n": best(scored),
        "weighted_best_of_n": best(_heaviest(list(members.values()), weight)) if scored else -1,
    }
    assert tuple(chosen) == CHOICES
    return chosen


def _heaviest(classes: Sequence[list[int]], weight: Callable[[list[int]], float]) -> list[int]:
    """The first class of those with the greatest weight, but for rounding; empty where there is none."""
    weights = [weight(places) for places in classes]
    heaviest = max(weights, default=0.0)
    return next(
        (c for c, each in zip(classes, weights, strict=True) if each >= heaviest - 1e-12 * abs(heaviest)), []
    )
