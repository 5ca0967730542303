"""The answers of attempts as they vote."""

from __future__ import annotations

import pytest

from data.schema import Attempt, Problem, written_completion
from evaluation.problem_values import measure_problems
from evaluation.votes import voted_answers
from rewards.policy import Policy


def attempts(*extracted: str, right: str = "") -> list[Attempt]:
    problem = Problem(id="p", question="q", answer=right)
    return [
        Attempt(
            problem=problem,
            index=index,
            completion=written_completion("", ""),
            verdict="correct" if answer == right else "wrong",
            extracted=answer,
        )
        for index, answer in enumerate(extracted)
    ]


def test_equal_answers_are_written_as_the_first_of_them() -> None:
    groups = [attempts("9+3=12", "12", "", "13"), [], attempts("12", "3*4=12")]
    assert voted_answers(groups) == [["9+3=12", "9+3=12", None, "13"], [], ["12", "12"]]
    assert voted_answers([attempts("50%", "50")], Policy(percent_sign="wrong")) == [["50%", "50"]]


def test_equal_wrong_answers_outvote_a_right_one() -> None:
    """By strings this would be a tie of three."""
    group = attempts("(x+1)^2", "x^2+2x+1", "x^2", right="x^2")
    assert measure_problems([group], [1, 3])["maj@3"] == [pytest.approx(0)]
