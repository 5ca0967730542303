"""Classes of equal answers: what joins, what stays apart, order, and hostile text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import answer_classes as module
from rewards.algebra import Limits
from rewards.answer_classes import LONGEST_COMPARED, answer_classes
from rewards.policy import Policy
from rewards.verify import Verdict, compare_many, verify_many


@pytest.mark.parametrize(
    ("answers", "classes"),
    [
        ([], []),
        (["", None, "5", None, "5.0"], [-1, -1, 0, -1, 0]),
        (["7", "1/2", "0.5", r"\frac12", "x=.5", "7 apples"], [0, 1, 1, 1, 1, 0]),
        (["12", "9+3=12", "13"], [0, 0, 1]),
        ([r"9\sqrt{3}", "9*sqrt(3)", r"\sqrt{243}", r"8\sqrt{3}"], [0, 0, 0, 1]),
        (["(x+1)^2", "x^2+2x+1", "x^2+1"], [0, 0, 1]),
        (["1, 2", "2, 1", "3, 1"], [0, 0, 1]),
        (["yes", "Yes.", "no", "maybe not"], [0, 0, 1, 2]),
        (["50%", "50", "51"], [0, 0, 1]),
        (["0.333333333333", "1/3", "0.333"], [0, 0, 1]),
        (["$$", "5"], [0, 1]),
    ],
)
def test_equal_answers_are_one_class(answers: list[str | None], classes: list[int]) -> None:
    assert answer_classes([answers]) == [classes]


@pytest.mark.parametrize(
    ("one", "other"), [("512+17", "529"), ("1.414", r"\sqrt{2}"), ("3.333", "10/3"), ("seven", "7")]
)
def test_what_is_correct_in_one_direction_or_undecided_stays_apart(one: str, other: str) -> None:
    assert answer_classes([[one, other], [other, one]]) == [[0, 1], [0, 1]]


def test_the_policy_says_what_is_equal() -> None:
    lenient = Policy(unevaluated="correct")
    assert answer_classes([["512+17", "529"]], lenient) == [[0, 0]]
    assert answer_classes([["50%", "50"]], Policy(percent_sign="wrong")) == [[0, 1]]


def test_an_answer_joins_the_first_class_that_it_equals() -> None:
    """50% equals both 50 and 0.5, which differ; it is no bridge between them."""
    assert answer_classes([["50", "0.5", "50%"], ["50%", "0.5", "50"]]) == [[0, 1, 0], [0, 0, 0]]


def test_problems_have_nothing_to_do_with_each_other() -> None:
    groups = [["1", "2"], [], ["2", "1", "2"], [None], ["x", "y", "x"]]
    assert answer_classes(groups) == [[0, 1], [], [0, 1, 0], [-1], [0, 1, 0]]
    assert answer_classes([]) == []


def spelled(number: int, form: int) -> str:
    """A whole number in one of several spellings."""
    return [f"{number}", f"{number}.0", f"{number * 2}/2", f"${number}$", f"\\frac{{{number * 3}}}{{3}}"][
        form
    ]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-30, 2000), st.integers(0, 4)), max_size=10).flatmap(
        lambda answers: st.tuples(st.just(answers), st.permutations(range(len(answers))))
    )
)
def test_any_order_gives_the_same_classes_of_numbers(
    drawn: tuple[list[tuple[int, int]], list[int]],
) -> None:
    answers, order = drawn
    written = [spelled(*answer) for answer in answers]
    before, after = answer_classes([written, [written[place] for place in order]])
    values = [number for number, _ in answers]
    firsts = list(dict.fromkeys(values))
    assert before == [firsts.index(value) for value in values]
    assert [[a == b for a in after] for b in after] == [
        [before[i] == before[j] for i in order] for j in order
    ]


HOSTILE = [
    "10**10**10", "10^{10^{10}}", "9^{9^{9^9}}", "9^{9^9}+1", "1e1000000000", "9" * 900, "9" * 20_000,
    "{" * 20_000, "{" * 100 + "x" + "}" * 100, "(" * 140 + "1" + ")" * 140,
    "\\frac{1}{" * 30 + "2" + "}" * 30, "\\sqrt{" * 40 + "2" + "}" * 40, r"\int_0^{10^9} \sin(x^x) dx",
    r"\sum_{n=1}^{10^{12}} \frac{1}{n^n}", "((x+1)^{99}+1)^{99}", "100000!", "(10^6)!", "1,2,3," * 40,
    "x=" * 100, "\x00", "\ud800", "²", "٣", "\\boxed{", "__import__('os')",
]  # fmt: skip


def test_hostile_answers_return_soon() -> None:
    start = time.monotonic()
    limits = Limits(seconds=0.5, batch_seconds=5)
    classes = answer_classes([[*HOSTILE, *HOSTILE], HOSTILE[::-1]], limits=limits)
    assert time.monotonic() - start < 60  # two batches, and the other tiers; a quadratic tier takes hours
    assert classes[0][: len(HOSTILE)] == classes[0][len(HOSTILE) :]
    assert [len(each) for each in classes] == [2 * len(HOSTILE), len(HOSTILE)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.none() | st.text(max_size=30) | st.sampled_from(HOSTILE[-8:]), max_size=6))
def test_any_text_has_a_class(answers: list[str | None]) -> None:
    (classes,) = answer_classes([answers], limits=Limits(seconds=0.1, batch_seconds=0.1))
    seen = list(dict.fromkeys(each for each in classes if each >= 0))
    assert seen == list(range(len(seen)))
    assert [each < 0 for each in classes] == [not answer for answer in answers]


def test_the_number_of_comparisons_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain numbers, long answers, and pairs of late spellings are not compared at all."""
    sizes: list[int] = []

    def counted(golds: Sequence[str], *rest: Any) -> list[Verdict]:
        sizes.append(len(golds))
        return compare_many(golds, *rest)

    monkeypatch.setattr(module, "compare_many", counted)
    monkeypatch.setattr(module, "MOST_REPRESENTATIVES", 4)
    numbers = [str(number) for number in range(1000, 3000, 100)]
    long = ["x" * LONGEST_COMPARED + "+1", "1+" + "x" * LONGEST_COMPARED]
    assert answer_classes([numbers, long]) == [list(range(len(numbers))), [0, 1]]
    assert sizes == [0, 0]
    letters = [*"pqrstuv", "a+b", "b+a"]
    assert answer_classes([letters, ["a+b", *letters[:-2], "b+a"]]) == [[*range(9)], [*range(8), 0]]
    assert sizes[2:] == [2 * (8 + 7 + 6 + 5), 1]


def test_what_is_not_compared_in_time_stays_apart_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    hard = [r"\int_0^1 x^3 dx", r"\int_0^1 t^3 dt"]
    assert answer_classes([hard], limits=Limits(batch_seconds=1e-9)) == [[0, 1]]
    assert "1 of 1 pairs of answers were not compared in time" in caplog.text


def test_comparing_is_verifying_without_reading() -> None:
    golds, answers = ["5", r"\frac{1}{2}", "Friday", "2", ""], ["5.0", "0.5", "7", "3", "1"]
    compared = compare_many(golds, answers)
    boxed = verify_many(golds, [f"\\boxed{{{answer}}}" for answer in answers])
    assert [(v.outcome, v.rule, v.extracted) for v in compared] == [
        (v.outcome, v.rule, v.extracted) for v in boxed
    ]
