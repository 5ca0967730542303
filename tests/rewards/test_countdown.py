"""Reward countdown: which expressions are paid, and that no text can hurt it."""

from __future__ import annotations

import gzip
import json
import operator
import re
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.generated import reasoning_gym_problems
from data.prompts import TINYZERO_TEMPLATE
from data.thinking import FORMATS
from rewards.countdown import Countdown
from rewards.registry import build_rewards

NUMBERS, TARGET = [44, 19, 35], 98


def rule(text: str, numbers: Any = NUMBERS, target: Any = TARGET, **options: Any) -> str:
    (verdict,) = Countdown(**options).verdicts([text], {"numbers": [numbers], "target": [target]})
    return verdict.rule


def paid(text: str, numbers: Any = NUMBERS, target: Any = TARGET, **options: Any) -> float | None:
    (value,) = Countdown(**options)(completions=[text], numbers=[numbers], target=[target])
    return value


@pytest.mark.parametrize(
    "answer",
    [
        "44 + 19 + 35",
        "(35+44)+19",
        "((44)) + (19 + 35)",
        "-(-44 - 19) + 35",
        "44 + 19 + 35 = 98",
        "44+19+35=98.",
        "$44 + 19 + 35$",
        r"\(44 + 19 + 35\)",
        r"\boxed{44 + 19 + 35}",
        "[44 + 19] + 35",
        "44 \u2212 (\u221219 \u2212 35)",
    ],
)
def test_any_way_to_write_it_is_paid(answer: str) -> None:
    assert paid(f"<answer>{answer}</answer>") == 1.0
    assert paid(f"\\boxed{{{answer}}}") == 1.0


@pytest.mark.parametrize(
    ("answer", "numbers", "target"),
    [
        (r"\frac{6}{3} \times 4", [3, 4, 6], 8),
        (r"6 \div 3 \cdot 4", [3, 4, 6], 8),
        ("6 \u00f7 3 \u00d7 4", [3, 4, 6], 8),
        ("1 / 3 * 6", [1, 3, 6], 2),
        ("8 / (3 - 8 / 3)", [3, 3, 8, 8], 24),
        ("0 * 5 - 7", [0, 5, 7], -7),
    ],
)
def test_values_are_exact(answer: str, numbers: list[int], target: int) -> None:
    assert paid(f"<answer>{answer}</answer>", numbers, target) == 1.0
    assert paid(f"<answer>{answer}</answer>", numbers, target + 1) == 0.1


@pytest.mark.parametrize(
    ("answer", "expected", "why"),
    [
        ("44 + 19 - 35", 0.1, "other_value"),
        ("44 / (19 - 19 + 35 - 35)", 0.1, "other_numbers"),
        ("35 / (44 - 44)", 0.1, "other_numbers"),
        ("44 + 19 + 35 = 97", 0.1, "other_value"),
        ("98", 0.1, "other_numbers"),
        ("100 - 2", 0.1, "other_numbers"),
        ("44 + 19 + 35 + 0", 0.1, "other_numbers"),
        ("44 + 54", 0.1, "other_numbers"),
        ("44 + 19 + 19 + 35 - 19", 0.1, "other_numbers"),
        ("4419 + 35", 0.1, "other_numbers"),
        ("44 + 19 + 35 = 98 = 98", 0.0, "no_expression"),
        ("98 = 44 + 19 + 35", 0.0, "no_expression"),
        ("44 + 19 + x", 0.0, "no_expression"),
        ("44 ** 19 + 35", 0.0, "no_expression"),
        ("44^19 + 35", 0.0, "no_expression"),
        ("44 // 19 + 35", 0.0, "no_expression"),
        ("44!", 0.0, "no_expression"),
        ("44(19)(35)", 0.0, "no_expression"),
        (r"44\frac{19}{35}", 0.0, "no_expression"),
        ("4\u00b9 + 35", 0.0, "no_expression"),
        ("\u0664\u0664 + 19 + 35", 0.0, "no_expression"),
        ("__import__('os').system('true') or 98", 0.0, "no_expression"),
        ("int('98')", 0.0, "no_expression"),
        ("44 + 19 + 35 is the expression", 0.0, "no_expression"),
        ("", 0.0, "no_expression"),
    ],
)
def test_what_is_wrong_and_what_is_no_expression(answer: str, expected: float, why: str) -> None:
    text = f"<answer>{answer}</answer>"
    assert rule(text) == why
    assert paid(text) == expected
    assert paid(text, partial=0.0) == 0.0


@pytest.mark.parametrize(
    "text", ["", "<answer>44 + 19 + 35", "<think>\n<answer>44 + 19 + 35</answer>", "44\n+ 54"]
)
def test_what_is_no_answer(text: str) -> None:
    assert rule(text) == "no_answer"
    assert paid(text) == 0.0


def test_a_division_by_zero_has_no_value() -> None:
    assert rule("<answer>7 / (5 - 5)</answer>", [5, 5, 7], 0) == "other_value"


def test_numbers_may_be_left_out_only_where_that_is_allowed() -> None:
    text = "<answer>(7 - 3) * 2</answer>"
    assert rule(text, [2, 3, 5, 7], 8) == "other_numbers"
    assert rule(text, [2, 3, 5, 7], 8, use_all=False) == "right"
    assert rule("<answer>7 - 3 + 7</answer>", [2, 3, 5, 7], 11, use_all=False) == "other_numbers"


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
def test_only_what_follows_the_thinking_is_read(form: Any) -> None:
    right, wrong = "44 + 19 + 35", "44 - 19 + 35"
    assert paid(form.render(wrong, right), thinking_format=form.name) == 1.0
    assert paid(form.render(right, wrong), thinking_format=form.name) == 0.1
    assert paid(form.start + right, thinking_format=form.name) == 0.0
    prefilled = form.render(wrong, right).removeprefix(form.start)
    assert paid(prefilled, thinking_format=form.name, thinking_prefilled=True) == 1.0
    assert paid(right, thinking_format=form.name, thinking_prefilled=True) == 0.0


@pytest.mark.parametrize("form", ["think_tags", "answer_tags"])
def test_text_around_the_answer_does_not_matter_and_a_second_answer_does(form: str) -> None:
    start = "add them </think>\nSo we have\n<answer> 44 + 19 + 35 </answer>"
    options = {"thinking_format": form, "thinking_prefilled": True}
    assert rule(start, **options) == "right"
    assert rule(start + "\n\nUser: Is that so?", **options) == "right"
    assert rule(start + "<answer>44+19+35</answer>", **options) == "right"
    assert rule(start + "<answer>44 - 19 + 35</answer>", **options) == "several_answers"
    assert rule("hm</think>The answer is 44 + 19 + 35. Good.", **options) == "right"


def test_rows_without_a_problem_cannot_be_judged() -> None:
    good = {"numbers": [1, 2], "target": 3}
    bad = [
        {},
        {"numbers": [1, 2]},
        {"numbers": None, "target": 3},
        {"numbers": [], "target": 3},
        {"numbers": "12", "target": 3},
        {"numbers": [1, 2.0], "target": 3},
        {"numbers": [1, True], "target": 3},
        {"numbers": [1, -2], "target": 3},
        {"numbers": [1, 2], "target": "3"},
        {"numbers": [1, 2], "target": 3.0},
    ]
    reward = Countdown()
    faults = reward.row_faults([good, *bad])
    assert not faults[0]
    assert all(faults[1:])
    assert "target: '3' is no integer" in faults
    for row in bad[2:]:
        assert paid("1 + 2", row["numbers"], row["target"]) is None
    with pytest.raises(ValueError, match="numbers: the dataset has no column 'nums'; its columns: numbers"):
        Countdown(numbers="nums")(completions=["1"], prompts=["?"], numbers=[[1]])


def test_it_tells_what_is_right_and_logs_shares() -> None:
    rewards = build_rewards(["format", {"name": "countdown", "label": "c"}], "answer_tags", True)
    assert [getattr(reward.function, "tells_right", False) for reward in rewards] == [False, True]
    logged: dict[str, float] = {}
    completions = [f"add</think><answer>{a}</answer>" for a in ("44+19+35", "98", "x", "")]
    values = rewards[1].function(
        completions=completions,
        numbers=[NUMBERS] * 4,
        target=[TARGET] * 4,
        log_metric=logged.__setitem__,
    )
    assert values == [1.0, 0.1, 0.0, 0.0]
    assert logged == {"c/right": 0.25, "c/no_expression": 0.25, "c/no_answer": 0.25}
    with pytest.raises(ValueError, match="must be below 1"):
        Countdown(partial=1.0)
    with pytest.raises(ValueError, match="thinking_format"):
        Countdown(thinking_format="tags")


OPERATORS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


@st.composite
def expressions(draw: st.DrawFn) -> tuple[str, list[int], Fraction]:
    """(text, its numbers, its value): any tree over 2 to 6 numbers, with any spaces and brackets."""
    numbers = draw(st.lists(st.integers(0, 120), min_size=2, max_size=6))
    parts = [(str(number), Fraction(number)) for number in numbers]
    while len(parts) > 1:
        left, right = (parts.pop(draw(st.integers(0, len(parts) - 1))) for _ in range(2))
        sign = draw(st.sampled_from("+-*/"))
        assume(sign != "/" or right[1] != 0)
        space = draw(st.sampled_from(["", " ", "\n"]))
        text = f"({left[0]}{space}{sign}{space}{right[0]})"
        parts.append((text, OPERATORS[sign](left[1], right[1])))
    return parts[0][0], numbers, parts[0][1]


@settings(deadline=None)
@given(expressions(), st.booleans())
def test_every_expression_of_the_numbers_is_paid_by_its_value(
    expression: tuple[str, list[int], Fraction], bare: bool
) -> None:
    text, numbers, value = expression
    target = int(value)
    answer = text[1:-1] if bare else text
    assert paid(f"<answer>{answer}</answer>", sorted(numbers), target) == (1.0 if value == target else 0.1)
    assert paid(f"<answer>{answer}</answer>", [*numbers, 1], target) == 0.1


PIECES = ["<answer>", "</answer>", "\\boxed{", "}", "(", ")", "**", "=", "9", "\u0664", "\\frac{", "</think>"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=9), max_size=30).map("".join))
def test_any_text_gets_a_number(text: str) -> None:
    for form in FORMATS:
        for written in (text, f"<answer>{text}</answer>"):
            assert paid(written, [9], 9, thinking_format=form) in (0.0, 0.1, 1.0)


MILLION = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "(" * MILLION,
        "<answer>" + "(" * 5_000 + "1" + ")" * 5_000 + "</answer>",
        "<answer>" + "(" * 240 + "1" + ")" * 240 + "</answer>",
        "<answer>" + "-" * 490 + "1</answer>",
        "<answer>" + "9" * MILLION + "</answer>",
        "<answer>" + " " * MILLION + "1</answer>",
        "<answer>9**9**9**9**9</answer>",
        "<answer>9^{9^{9^{9}}}</answer>",
        "<answer>" + "9*" * 240 + "9</answer>",
        "<answer>" + "\\frac{" * 80 + "1</answer>",
        "<answer>\ud800</answer>",
        "<answer>" * 125_000,
        "".join(f"<answer>{number}</answer>" for number in range(45_000)),
        "\\boxed{" * 140_000,
        "the answer is " * 70_000,
        "<think>" * 140_000,
        "\0" * MILLION,
    ],
    ids=lambda text: f"{text[:16]!r} {len(text)}",
)
def test_hostile_texts_end_soon_and_are_not_paid(text: str) -> None:
    start = time.perf_counter()
    assert paid(text, [1, 2], 3) in (0.0, 0.1)
    assert time.perf_counter() - start < 20  # a bound against hanging, not a measurement


def test_reasoning_gyms_own_solutions_are_paid() -> None:
    problems = reasoning_gym_problems("countdown", 40, 0, "train", {}) + reasoning_gym_problems(
        "countdown", 60, 1, "train", {"min_numbers": 3, "max_numbers": 4, "min_target": 10, "max_target": 100}
    )
    reward = Countdown(thinking_format="answer_tags")
    assert reward.row_faults([problem.metadata for problem in problems]) == [""] * len(problems)
    for problem in problems:
        metadata = problem.metadata
        assert paid(f"<answer>{problem.answer}</answer>", metadata["numbers"], metadata["target"]) == 1.0


def test_answers_of_real_models(shared_data: Callable[[str], Path]) -> None:
    """1,900 answers of 19 models with the score of a reasoning_gym that did not count the numbers yet: ours
    differs where the numbers are other ones, and nowhere else."""
    items = {}
    with gzip.open(shared_data("reasoning_gym/items.jsonl.gz"), "rt") as lines:
        for item in filter(lambda item: item["task"] == "countdown", map(json.loads, lines)):
            line = item["question"].partition("\n")[0]
            numbers = re.search(r"numbers:? ((?:[0-9]+, )+[0-9]+)", line)
            target = re.search(r"(?:Calculate|make|equals) ([0-9]+)", line)
            assert numbers is not None
            assert target is not None
            items[item["difficulty"], item["idx"]] = [int(n) for n in numbers[1].split(", ")], int(target[1])
    seen = 0
    with gzip.open(shared_data("reasoning_gym/answers.jsonl.gz"), "rt") as lines:
        for difficulty, task, index, _, answer, score, *_ in map(json.loads, lines):
            if task != "countdown":
                continue
            found = rule(f"<answer>{answer or ''}</answer>", *items[difficulty, index])
            assert (score == 1.0) == (found == "right") or found == "other_numbers", answer
            seen += 1
    assert seen == 1900


def test_the_published_prompt_names_the_tags_that_are_read() -> None:
    question = TINYZERO_TEMPLATE.format(question="?")
    example = re.search(r"<answer> .* </answer>", question)
    assert example is not None
    assert rule(example[0], [1, 2, 3], 1) == "right"
