"""Rules on traces made by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import filters
from data.schema import Attempt, Completion, Problem
from data.thinking import S1, THINK_TAGS


def trace(id: str = "p", tokens: int = 10, domain: str = "", index: int = 0, **more: Any) -> Attempt:
    question = more.pop("question", "What?")
    verdict = more.pop("verdict", "correct")
    values = {"thinking": "Some thought.", "response": "1", "finish_reason": "stop", **more}
    completion = Completion(
        text="",
        prompt_tokens=0,
        thinking_tokens=tokens,
        completion_tokens=tokens,
        model="m",
        seed=0,
        **values,
    )
    problem = Problem(id=id, question=question, answer="1", domain=domain)
    return Attempt(problem=problem, index=index, completion=completion, verdict=verdict, extracted="1")


@pytest.mark.parametrize(
    ("rule", "bad", "evidence"),
    [
        (filters.not_correct, trace(verdict="wrong"), "verdict wrong"),
        (filters.not_correct, trace(verdict="unverifiable"), "verdict unverifiable"),
        (filters.truncated, trace(finish_reason="length"), "after 10 tokens"),
        (filters.empty_thinking, trace(thinking=" \n"), "no thinking"),
        (filters.empty_response, trace(response=""), "no response"),
        (filters.contains_tags(THINK_TAGS), trace(thinking="a </think> b"), "</think>"),
        (filters.contains_tags(S1), trace(response="<|im_end|>"), "response contains"),
        (filters.shorter_than(6), trace(tokens=5), "5 < 6"),
        (filters.longer_than(10), trace(tokens=11), "11 > 10"),
        (filters.repetitive(2, 0.5), trace(thinking="wait no " * 10), "'wait no'"),
    ],
)
def test_a_rule_drops_what_it_names_and_passes_a_good_trace(
    rule: filters.Rule, bad: Attempt, evidence: str
) -> None:
    assert evidence in (rule(bad) or "")
    assert rule(trace()) is None


def test_length_falls_back_to_words() -> None:
    assert filters.trace_length(trace(tokens=7, thinking="one two")) == 7
    assert filters.trace_length(trace(tokens=0, thinking="one two")) == 2


def test_repeated_share() -> None:
    assert filters.repeated_share("a b c d", 2) == (0.0, "a b")
    assert filters.repeated_share("a b a b a b", 2) == (pytest.approx(3 / 5), "a b")
    assert filters.repeated_share("a", 2) == (0.0, "")


def test_the_first_rule_that_drops_a_trace_is_recorded() -> None:
    rules = {"wrong": filters.not_correct, "short": filters.shorter_than(5), "never": lambda t: None}
    traces = [trace("a"), trace("b", tokens=1), trace("c", tokens=1, verdict="wrong")]
    kept, dropped, counts = filters.apply_rules(rules, traces)
    assert [t.problem.id for t in kept] == ["a"]
    assert [(r.trace.problem.id, r.rule) for r in dropped] == [("b", "short"), ("c", "wrong")]
    assert counts == {"wrong": 1, "short": 1, "never": 0}


@given(st.text("ab ", max_size=60), st.integers(1, 4), st.floats(0, 1))
def test_repetition_is_dropped_above_the_share(text: str, words: int, limit: float) -> None:
    share, _ = filters.repeated_share(text, words)
    evidence = filters.repetitive(words, limit)(trace(thinking=text))
    assert (evidence is not None) == (share > limit + 1e-9) or share == pytest.approx(limit)
    assert evidence is None or f"{share:.2f} of the {words}-grams" in evidence
