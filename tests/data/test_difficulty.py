"""Difficulty: pass rates by model, trace lengths, labels."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.difficulty import (
    Measured,
    level_of,
    measure,
    number_in,
    outside_bands,
    outside_lengths,
    outside_levels,
    solved,
    unmeasured,
)
from data.filters import Rule, apply_rules
from data.schema import Attempt, Completion, Outcome, Problem

VERDICTS: dict[str, Outcome] = {"+": "correct", "-": "wrong", "?": "unverifiable"}


def attempt(
    id: str, model: str = "m", verdict: str = "+", tokens: int = 10, level: str = "", **metadata: Any
) -> Attempt:
    completion = Completion(
        text="",
        thinking="a thought",
        response="1",
        finish_reason="stop",
        prompt_tokens=0,
        thinking_tokens=tokens,
        completion_tokens=tokens,
        model=model,
        seed=0,
    )
    problem = Problem(id=id, question=id, answer="1", level=level, metadata=metadata)
    return Attempt(problem=problem, index=0, completion=completion, verdict=VERDICTS[verdict], extracted="")


def attempts(model: str, verdicts: dict[str, str]) -> list[Attempt]:
    return [attempt(id, model, verdict) for id, marks in verdicts.items() for verdict in marks]


def dropped(rules: dict[str, Rule], traces: list[Attempt]) -> dict[str, str]:
    return {row.trace.problem.id: row.rule for row in apply_rules(rules, traces)[1]}


POOL = "abcd"
ATTEMPTS = attempts("7B", {"a": "++--", "b": "----", "c": "??", "x": "+?"}) + attempts(
    "32B", {"a": "++++", "b": "-+", "d": "--?"}
)
MEASURED = measure(ATTEMPTS, POOL)
TRACES = [attempt(id) for id in POOL]


def test_rates_of_each_model_and_of_all() -> None:
    assert MEASURED.rates == {
        "7B": {"a": 0.5, "b": 0.0},
        "32B": {"a": 1.0, "b": 0.5, "d": 0.0},
        "*": {"a": 0.75, "b": pytest.approx(1 / 6), "d": 0.0},
    }
    assert MEASURED.metrics(POOL) == {
        "32B": {
            "judged": 8,
            "unverifiable": 1,
            "not_in_pool": 0,
            "problems_without_rate": 1,
            "mean_pass_rate": 0.5,
        },
        "7B": {
            "judged": 8,
            "unverifiable": 2,
            "not_in_pool": 2,
            "problems_without_rate": 2,
            "mean_pass_rate": 0.25,
        },
    }


@given(st.randoms(use_true_random=False))
def test_rates_do_not_depend_on_the_order_of_the_attempts(source: random.Random) -> None:
    assert measure(source.sample(ATTEMPTS, len(ATTEMPTS)), POOL) == MEASURED


def test_a_band_for_each_model() -> None:
    assert dropped(outside_bands(MEASURED, {"7B": (0.25, 1)}), TRACES) == {"b": "too_hard"}
    assert dropped(outside_bands(MEASURED, {"32B": (0, 0.5)}), TRACES) == {"a": "too_easy"}
    both = outside_bands(MEASURED, {"7B": (0.5, 0.5), "32B": (1, 1)})
    assert dropped(both, TRACES) == {"b": "too_hard", "d": "too_hard"}
    assert dropped(outside_bands(MEASURED, {"*": (0.1, 0.5)}), TRACES) == {"a": "too_easy", "d": "too_hard"}
    assert both["too_hard"](TRACES[1]) == "pass rate 0.000 of 7B is below 0.5"
    assert dropped(outside_bands(MEASURED, {}), TRACES) == {}


def test_no_model_solves_it_and_not_measured() -> None:
    assert dropped(solved(MEASURED), TRACES) == {"a": "solved", "b": "solved"}
    assert dropped(solved(MEASURED, ["7B"]), TRACES) == {"a": "solved"}
    assert dropped(unmeasured(MEASURED), TRACES) == {"c": "unmeasured", "d": "unmeasured"}
    assert dropped(unmeasured(MEASURED, ["32B"]), TRACES) == {"c": "unmeasured"}
    assert unmeasured(MEASURED)["unmeasured"](TRACES[2]) == "no judged attempt of 32B, 7B"


def test_a_model_that_was_not_measured_is_refused() -> None:
    for make in (solved, unmeasured):
        with pytest.raises(ValueError, match=r"'1B' has no judged attempts .* models: 32B, 7B"):
            make(MEASURED, ["1B"])
        with pytest.raises(ValueError, match="attempts: hold no judged attempt"):
            make(measure([], POOL))
    with pytest.raises(ValueError, match="'1B' has no judged attempts"):
        outside_bands(MEASURED, {"1B": (0, 1)})
    with pytest.raises(ValueError, match="need 0 <= lowest <= highest <= 1"):
        outside_bands(MEASURED, {"7B": (0.5, 0.25)})


@given(
    st.dictionaries(st.sampled_from("abcde"), st.text("+-?", max_size=5)),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_what_a_band_keeps(marks: dict[str, str], one: float, other: float) -> None:
    low, high = min(one, other), max(one, other)
    found: Measured = measure(attempts("m", marks), "abcde")
    gone = dropped(outside_bands(found, {"*": (low, high)}), [attempt(id) for id in "abcde"])
    for id in "abcde":
        judged = marks.get(id, "").replace("?", "")
        inside = not judged or low <= judged.count("+") / len(judged) <= high
        assert (id not in gone) == inside


def test_lengths() -> None:
    traces = [attempt(str(n), tokens=n) for n in (0, 4, 5, 9, 10)]
    rules = outside_lengths(5, 9)
    assert dropped(rules, traces) == {"0": "no_length", "4": "too_short", "10": "too_long"}
    assert rules["no_length"](traces[0]) == "thinking_tokens is 0"
    assert dropped(outside_lengths(), traces) == {"0": "no_length"}
    with pytest.raises(ValueError, match="need 0 <= lowest <= highest"):
        outside_lengths(9, 5)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -1, "nan", "", True, "many", [5]])
def test_a_missing_length_is_recorded(value: Any) -> None:
    kept, rows, _ = apply_rules(outside_lengths(column="gemini_length"), [attempt("a", gemini_length=value)])
    assert (kept, [row.rule for row in rows]) == ([], ["no_length"])
    assert rows[0].evidence == f"metadata column 'gemini_length' is {value!r}"
    assert dropped(outside_lengths(5, column="n"), [attempt("a", n="7"), attempt("b", n=4.0)]) == {
        "b": "too_short"
    }
    assert dropped(outside_lengths(column="n"), [attempt("a")]) == {"a": "no_length"}


def test_levels() -> None:
    traces = [attempt(level or "none", level=level) for level in ("Level 1", "3", "Level 5", "Level ?", "")]
    assert dropped(outside_levels(["5", 3]), traces) == {
        "Level 1": "level",
        "Level ?": "level",
        "none": "no_level",
    }
    unknown = {"Level ?": "no_level", "none": "no_level"}
    assert dropped(outside_levels(low=3), traces) == {"Level 1": "level", **unknown}
    assert dropped(outside_levels(low=2, high=4), traces) == {
        "Level 1": "level",
        "Level 5": "level",
        **unknown,
    }
    named = [attempt("a", level="hard"), attempt("b", level="Easy")]
    assert dropped(outside_levels(["Hard"]), named) == {"b": "level"}
    column = [attempt("a", difficulty=4.5), attempt("b", difficulty="7.0")]
    assert dropped(outside_levels(low=5, column="difficulty"), column) == {"a": "level"}
    assert level_of(column[0].problem, "difficulty") == 4.5
    refused: list[dict[str, Any]] = [{}, {"levels": ["1"], "low": 1}, {"low": 3, "high": 2}]
    for wrong in refused:
        with pytest.raises(ValueError, match="levels: "):
            outside_levels(**wrong)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("Level 5", 5),
        ("5", 5),
        (" -2.5e1 ", -25),
        ("p5", None),
        ("5 of 6", None),
        (10**400, None),
        ("1e999", None),
    ],
)
def test_numbers_of_labels(value: Any, number: float | None) -> None:
    assert number_in(value) == number
