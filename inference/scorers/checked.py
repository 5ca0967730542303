"""A scorer of the user's own, whose answers are checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from data.own_code import load_own_code


class CheckedScorer:
    """A `Scorer` made of an object with a method `score(questions, solutions)`.

    `name`, `forwarded_tokens` and `forget` are taken from the object where it has them.

    Args:
        kind: how it is called in errors.
        name: where the object has none.
    Raises:
        ValueError: the object has no such method.
    """

    def __init__(self, scorer: Any, kind: str, name: str) -> None:
        if not callable(getattr(scorer, "score", None)):
            raise ValueError(f"scorer: {kind} has no method score(questions, solutions)")
        self.scorer = scorer
        self.kind = kind
        self.name = str(getattr(scorer, "name", name))
        self.forwarded_tokens = 0

    def forget(self) -> None:
        """Drop all that is kept."""
        if callable(forget := getattr(self.scorer, "forget", None)):
            forget()

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Scorer.score`.

        Raises:
            ValueError: there are fewer or more scores than steps, or one is no probability.
        """
        scores = [[float(score) for score in steps] for steps in self.scorer.score(questions, solutions)]
        self.forwarded_tokens = int(getattr(self.scorer, "forwarded_tokens", 0))
        if len(scores) != len(solutions):
            raise ValueError(f"scorer: {self.kind} scores {len(scores)} of {len(solutions)} solutions")
        for index, (found, steps) in enumerate(zip(scores, solutions, strict=True)):
            if len(found) != len(steps):
                raise ValueError(
                    f"scorer: {self.kind} returns {len(found)} scores for the {len(steps)} steps of "
                    f"solution {index}"
                )
            for score in found:
                if math.isnan(score) or not 0 <= score <= 1:
                    raise ValueError(
                        f"scorer: {self.kind} returns {score} for a step of solution {index}, which is not "
                        "from 0 to 1"
                    )
        return scores


def load_own(kind: str, model: str, options: dict[str, Any]) -> CheckedScorer:
    """The scorer `package.module:Class`, called with the model's name and the options by name.

    Raises:
        ValueError: there is no such class, or it does not take them.
    """
    made = load_own_code(kind, "scorer")
    try:
        scorer = made(model, **options)
    except TypeError as error:
        raise ValueError(f"scorer_options: {kind} does not take them: {error}") from error
    return CheckedScorer(scorer, kind, model)
