"""What finds first errors without reading a step: a reward model must be better than these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from data.steps import LabelledSolution
from evaluation.prm_metrics import Scores, best_threshold, exact_matches, first_errors, harmonic_mean


def step_positions(solutions: Sequence[LabelledSolution]) -> list[Scores]:
    """Scores that fall with the number of the step: one place is always called the first error, and solutions
    that end before it right."""
    return [[-float(i) for i in range(len(solution.steps))] for solution in solutions]


def step_lengths(solutions: Sequence[LabelledSolution]) -> list[Scores]:
    """Scores that fall with the characters of the step: the first long step is called the first error."""
    return [[-float(len(step)) for step in solution.steps] for solution in solutions]


RATES = np.linspace(0.005, 0.995, 199)


def random_matches(solutions: Sequence[LabelledSolution], rate: float) -> list[float]:
    """Probability of an exact prediction where each step is called wrong with probability `rate`:
    all steps are called right, or those before the error and not the error."""
    return [
        (1 - rate) ** len(solution.steps)
        if solution.first_error == -1
        else rate * (1 - rate) ** solution.first_error
        for solution in solutions
    ]


def best_rate(solutions: Sequence[LabelledSolution]) -> float:
    """The rate with the highest expected F1 of random calls on these solutions."""
    wrong = np.array([solution.first_error != -1 for solution in solutions])

    def f1(rate: float) -> float:
        matches = np.array(random_matches(solutions, rate))
        return harmonic_mean(float(matches[wrong].mean()), float(matches[~wrong].mean()))

    return max((float(rate) for rate in RATES), key=f1)


def baselines(
    chosen_on: Sequence[LabelledSolution], solutions: Sequence[LabelledSolution], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """F1 of what reads no step, with the threshold or rate chosen on the first set: every solution is right,
    random calls, the position of a step, its length."""
    rate = best_rate(chosen_on)
    results: dict[str, dict[str, Any]] = {
        "always_right": {"matches": [float(solution.first_error == -1) for solution in solutions]},
        "random": {"rate": rate, "matches": random_matches(solutions, rate)},
    }
    surfaces: dict[str, Callable[[Sequence[LabelledSolution]], list[Scores]]] = {
        "step_position": step_positions,
        "step_length": step_lengths,
    }
    for name, surface in surfaces.items():
        threshold = best_threshold(chosen_on, surface(chosen_on))
        matches = exact_matches(solutions, surface(solutions), threshold)
        results[name] = {"threshold": threshold, "matches": matches}
    for result in results.values():
        result.update(asdict(first_errors(solutions, result.pop("matches"), seed=seed)))
    return results
