"""The answers of attempts as they vote: equal ones are one answer, however they are written."""

from __future__ import annotations

from collections.abc import Sequence

from data.schema import Attempt
from rewards.answer_classes import answer_classes
from rewards.policy import DEFAULT_POLICY, Policy


def voted_answers(
    problems: Sequence[Sequence[Attempt]], policy: Policy = DEFAULT_POLICY
) -> list[list[str | None]]:
    """For the attempts of each problem their answers, each as the first equal one is written; None where
    there is none. One call for all problems compares them as one batch."""
    groups = [[attempt.extracted for attempt in attempts] for attempts in problems]
    return [
        [answers[classes.index(each)] if each >= 0 else None for each in classes]
        for answers, classes in zip(groups, answer_classes(groups, policy), strict=True)
    ]
