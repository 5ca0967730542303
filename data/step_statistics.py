"""What a set of labelled solutions looks like, in numbers for metrics.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import mean, median
from typing import Any

from data.steps import LabelledSolution


def statistics(
    solutions: Sequence[LabelledSolution], count_tokens: Callable[[str], int] | None = None
) -> dict[str, Any]:
    """Counts, shares of labels, where the first error is, and lengths.

    Args:
        count_tokens: tokens of a text; without it lengths are in steps and characters alone.
    Returns:
        solutions, problems, steps; right_steps, wrong_steps (a label below one half) and unlabelled_steps as
        shares of the steps, soft_labels as share of the labels; right_answers, wrong_answers and
        unknown_answers as shares of the solutions; first_error: solutions by the index of their first error,
        in order, -1 for none; steps_per_solution, characters_per_solution and tokens_per_solution: mean,
        median and max.
    """
    labels = [label for solution in solutions for label in solution.labels]
    known = [label for label in labels if label is not None]
    answers = Counter(solution.right for solution in solutions)
    errors = Counter(solution.first_error for solution in solutions)
    lengths: dict[str, Callable[[LabelledSolution], int]] = {
        "steps_per_solution": lambda solution: len(solution.steps),
        "characters_per_solution": lambda solution: sum(map(len, solution.steps)),
    }
    if count_tokens is not None:
        lengths["tokens_per_solution"] = lambda solution: sum(map(count_tokens, solution.steps))
    return {
        "solutions": len(solutions),
        "problems": len({solution.problem.id for solution in solutions}),
        "steps": len(labels),
        "right_steps": _share(sum(label >= 0.5 for label in known), len(labels)),
        "wrong_steps": _share(sum(label < 0.5 for label in known), len(labels)),
        "unlabelled_steps": _share(len(labels) - len(known), len(labels)),
        "soft_labels": _share(sum(label not in (0, 1) for label in known), len(known)),
        "right_answers": _share(answers[True], len(solutions)),
        "wrong_answers": _share(answers[False], len(solutions)),
        "unknown_answers": _share(answers[None], len(solutions)),
        "first_error": {str(index): errors[index] for index in sorted(errors)},
        **{name: _spread([length(s) for s in solutions]) for name, length in lengths.items()},
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _spread(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {"mean": 0.0, "median": 0.0, "max": 0}
    return {"mean": mean(values), "median": float(median(values)), "max": max(values)}
