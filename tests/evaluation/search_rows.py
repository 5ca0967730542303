"""Results of searches, made by hand and at random."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import Any

from data.schema import Problem
from data.store import write_rows
from inference.search.results import CHOICES, Cost, SearchResult, result_row


def problem(number: int) -> Problem:
    return Problem(id=f"p{number:03}", question=f"What is {number}?", answer="0", role="eval")


def cost(tokens: int, scorer_tokens: float = 0.0, **more: Any) -> Cost:
    values = {
        "prompt_tokens": 10,
        "generated_tokens": tokens,
        "forced_tokens": 0,
        "scorer_tokens": scorer_tokens,
        "policy_flops": 2.0 * (10 + tokens),
        "scorer_flops": 3.0 * scorer_tokens,
        "seconds": tokens / 100,
        "latency_seconds": tokens / 10,
        "rounds": 1,
    }
    return Cost(**{**values, **more})


def result(
    number: int,
    setting: str,
    classes: Sequence[int],
    *,
    scores: Sequence[float] = (),
    right: int = 0,
    n: int | None = None,
    width: int = 1,
    chosen: int | None = None,
    paid: Cost | None = None,
) -> SearchResult:
    """A search whose candidates of class `right` are correct; all choices choose the place `chosen`, or the
    first candidate with the most frequent answer."""
    correct = tuple(each == right for each in classes)
    votes = Counter(each for each in classes if each >= 0).most_common(1)
    place = chosen if chosen is not None else classes.index(votes[0][0]) if votes else -1
    return SearchResult(
        problem=problem(number),
        setting=setting,
        strategy=setting.split()[0],
        n=n or len(classes),
        width=width,
        classes=tuple(classes),
        scores=tuple(scores) or (nan,) * len(classes),
        correct=correct,
        tokens=(10,) * len(classes),
        nodes=tuple(range(1, len(classes) + 1)),
        chosen=dict.fromkeys(CHOICES, place),
        cost=paid or cost(10 * len(classes), 10.0 * len(classes) if scores else 0.0),
    )


def write(folder: Path, results: Sequence[SearchResult]) -> str:
    write_rows(folder / "searches.parquet", map(result_row, results), "searches")
    return str(folder)


def world(problems: int = 60, seed: int = 0) -> list[SearchResult]:
    """Half of the problems are easy: sampling finds most answers. On the others a beam is much better."""
    rng = random.Random(seed)
    rows = []
    for number in range(problems):
        rate, beam = (0.8, 0.7) if number % 2 else (0.15, 0.6)
        rows += [
            _sampled(rng, number, "majority", rate, False),
            _sampled(rng, number, "best_of_n", rate, True),
        ]
        for n in (4, 8, 16):
            right = rng.random() < beam + 0.01 * n
            rows.append(
                result(
                    number,
                    f"beam n={n} width=4",
                    [0 if right else 1] * n,
                    scores=[0.7] * n,
                    width=4,
                    paid=cost(12 * n, 30.0 * n),
                )
            )
    return rows


def _sampled(rng: random.Random, number: int, strategy: str, rate: float, scored: bool) -> SearchResult:
    classes = [0 if rng.random() < rate else rng.choice([-1, 1, 2, 3, 4]) for _ in range(16)]
    scores = [min(max(rng.gauss(0.6 if each == 0 else 0.4, 0.2), 0), 1) for each in classes]
    return result(number, f"{strategy} n=16", classes, scores=scores if scored else ())
