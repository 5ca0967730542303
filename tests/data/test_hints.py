"""Hints: what shows that an attempt had one, and what only looks like it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data.hints import check_hint, fill_hint, hint_leak, hinted, without_leaks
from data.schema import Attempt, Problem, problem_id, written_completion
from data.small_world import generate_problems, solve

SIGNS = "= {answer}"
WORDS = "(Hint: the answer is {answer}.)"


def attempt(question: str, answer: str, thinking: str, response: str = "") -> Attempt:
    return Attempt(
        problem=Problem(id=problem_id(question), question=question, answer=answer),
        index=0,
        completion=written_completion(thinking, response),
        verdict="correct",
        extracted=answer,
    )


@pytest.mark.parametrize(
    ("thinking", "evidence"),
    [
        ("3 + 8 = 11.\nThe hint agrees.", "the hint"),
        ("Given that the answer is 11, there are 3 more.", "given that the answer"),
        ("Given the answer, we go back from it.", "given the answer"),
        ("Okay. We are told the answer is 11.", "told the answer"),
        ("4 + 7 = 11, which matches the given answer.", "the given answer"),
        ("We already know that the correct answer should be 11.", "know that the correct answer"),
        ("Let me think. Since the answer is 11, each child has two.", "since the answer is"),
        ("The answer is 11. Let me see why.", "answer is 11"),
        ("Okay.\nWe need to show that the answer should be $11$.", "answer should be $11"),
        ("Final answer: \\boxed{11}.\n4 + 7 = 11", "answer: "),
        ("11\n4 + 7 = 11", "11"),
        ("How many apples? = 11\n4 + 7 = 11", "how many apples? = 11"),
    ],
)
def test_leaks_are_found_with_their_evidence(thinking: str, evidence: str) -> None:
    found = hint_leak(attempt("How many apples?", "11", thinking), SIGNS)
    assert found is not None
    assert evidence in found


@pytest.mark.parametrize(
    ("response", "leaks"),
    [
        ("Since the answer is 11, each child has two.", True),
        ("The answer is 11. Let me see why.", True),
        ("First, 4 + 7 = 11. The answer is \\boxed{11}.", False),
    ],
)
def test_a_model_without_thinking_reasons_in_its_response(response: str, leaks: bool) -> None:
    found = hint_leak(attempt("How many apples?", "11", "", response), SIGNS)
    assert (found or "").startswith("response begins with") == leaks
    assert hint_leak(attempt("How many apples?", "11", "4 + 7 = 11.", response), SIGNS) is None


@pytest.mark.parametrize(
    ("question", "answer", "thinking"),
    [
        ("Hint: work modulo 7. How many?", "11", "The hint says modulo 7. 4 + 7 = 11."),
        ("How many?", "11", "There are 11 apples at first, and 11 - 0 = 11. The answer is 11."),
        ("How many?", "11", "11 is prime, so nothing divides it."),
        ("How many?", "1", "The answer is 11 or more. 12 - 11 = 1."),
        ("How many?", "11", "Given the answer choices, only B fits: 4 + 7 = 11."),
        ("An integer?", "11", "Given that the answer must be an integer, 4 + 7 = 11."),
        ("An integer?", "11", "We know the answer is positive, and the answer is given by 4 + 7 = 11."),
        ("We are told the answer is below 20.", "11", "We are told the answer is below 20. 4 + 7 = 11."),
        ("How many?", "11", "4 + 7 = 11, and since the answer is 11 we box it."),
        ("How many?", "11", "4 + 7 = 11, so the answer is 11."),
        ("How many?", "", "The answer is hard to see."),
        ("47; A+8; B/5", "11", "A47+8=55\nB55/5=11"),
    ],
)
def test_what_only_looks_like_a_leak_passes(question: str, answer: str, thinking: str) -> None:
    response = f"The answer is \\boxed{{{answer}}}."
    assert hint_leak(attempt(question, answer, thinking, response), SIGNS) is None


def test_steps_of_the_small_world_pass_and_the_copied_question_does_not() -> None:
    for problem in generate_problems(400, 1, "train"):
        thinking = solve(problem)
        checked = thinking + "\nWait\n" + thinking.replace("=", "==")
        for text in (thinking, checked):
            right = attempt(problem.question, problem.answer, text, f"\\boxed{{{problem.answer}}}")
            assert hint_leak(right, SIGNS) is None, text
        told = f"{problem.question} {fill_hint(SIGNS, problem.answer)}\n{thinking}"
        assert hint_leak(attempt(problem.question, problem.answer, told), SIGNS)


def test_a_text_that_runs_on_is_judged_by_its_beginning() -> None:
    """Without a bound this one takes hours."""
    endless = "The answer is " + "$ " * 1_000_000
    assert hint_leak(attempt("How many?", "11", endless), SIGNS) is None
    assert hint_leak(attempt("How many?", "11", f"The answer is 11 {endless}"), SIGNS)


_PIECES = st.sampled_from(
    ["Hint: the answer is", "(correct)", "Use the key", "[reference solution:", "What you should reach is"]
)
_WORK = st.lists(
    st.sampled_from(["4 + 7 = 11.", "so", "Wait,", "let me check", "\\boxed{11}", "the answer is"])
)


@given(
    piece=_PIECES,
    before=st.booleans(),
    answer=st.sampled_from(["11", "\\frac{1}{2}", "x + 1", "B"]),
    work=_WORK,
    place=st.integers(0, 10),
    change=st.sampled_from([str, str.upper, str.title, lambda t: t.replace(" ", "\n"), lambda t: f"**{t}**"]),
    where=st.sampled_from(["thinking", "response"]),
    leaks=st.booleans(),
)
@example(
    piece="(correct)", before=False, answer="11", work=[], place=0, change=str, where="response", leaks=True
)
def test_the_text_of_the_hint_is_never_kept(
    piece: str, before: bool, answer: str, work: list[str], place: int, change: Any, where: str, leaks: bool
) -> None:
    hint = f"{piece} {{answer}}" if before else f"{{answer}} {piece}"
    parts = [*work]
    if leaks:
        parts.insert(place, change(fill_hint(hint, answer)))
    texts = {
        "thinking": "4 + 7 = 11. First we add.",
        "response": "done",
        where: " ".join(["4 + 7 = 11.", *parts]),
    }
    kept, rejected = without_leaks([attempt("How many apples?", answer, **texts)], hint)
    assert len(kept) + len(rejected) == 1
    for row in kept:
        for text in (row.completion.thinking, row.completion.response):
            assert fill_hint(hint, answer).lower() not in " ".join(text.lower().split())
    if leaks:
        assert not kept
        assert rejected[0].rule == "hint_leak"
        assert rejected[0].evidence.startswith(where)
        assert json.loads(rejected[0].row)[where] == texts[where]


def test_text_that_the_question_has_itself_is_no_leak() -> None:
    question = "Hint: the answer is 11. True?"
    assert (
        hint_leak(attempt(question, "11", "It says: Hint: the answer is 11. But 4 + 8 = 12."), WORDS) is None
    )


@pytest.mark.parametrize(
    ("hint", "message"),
    [
        ("look closely", r"hint: 'look closely' has no \{answer\}"),
        ("it is {solution}", r"hint: unknown placeholder '\{solution\}'; there is only \{answer\}"),
        ("{answer} or {}", r"unknown placeholder '\{\}'"),
        ("{answer:>3}", r"unknown placeholder '\{answer:>3\}'"),
    ],
)
def test_hints_that_cannot_be_filled_are_refused(hint: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_hint(hint)


def test_answers_in_braces_are_filled_in() -> None:
    check_hint("\\boxed{{answer}}")
    assert fill_hint("\\boxed{{answer}}", "\\frac{1}{2}") == "\\boxed{\\frac{1}{2}}"


def test_one_space_or_the_hint_s_own_stands_between_question_and_hint() -> None:
    assert hinted("A+8", "= {answer}", "55") == hinted("A+8", " = {answer}", "55") == "A+8 = 55"
    assert hinted("A+8", "\n{answer}", "55") == "A+8\n55"
