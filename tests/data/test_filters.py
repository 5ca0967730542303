"""Rules and draws on traces made by hand."""

from __future__ import annotations

import random
from collections import Counter
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
        (filters.image_in_question, trace(question="See ![a](b.png)"), "b.png"),
        (filters.image_in_question, trace(question="[asy] draw(); [/asy]"), "asy"),
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


def test_pass_rates_are_inclusive_and_unmeasured_problems_pass() -> None:
    too_hard, too_easy = filters.outside_pass_rates({"a": 0.0, "b": 0.25, "c": 0.75, "d": 1.0}, 0.25, 0.75)
    assert [bool(too_hard(trace(id))) for id in "abcdx"] == [True, False, False, False, False]
    assert [bool(too_easy(trace(id))) for id in "abcdx"] == [False, False, False, True, False]


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
    assert [(r.id, r.rule) for r in dropped] == [("b", "short"), ("c", "wrong")]
    assert counts == {"wrong": 1, "short": 1, "never": 0}


def test_one_trace_a_problem() -> None:
    traces = [trace("a", tokens=n, index=i) for i, n in enumerate((5, 9, 2))] + [trace("b", tokens=1)]

    def lengths(choice: filters.TraceChoice) -> list[int]:
        return [filters.trace_length(t) for t in filters.one_per_problem(traces, choice, 0)]

    assert lengths("first") == [5, 1]
    assert lengths("shortest") == [2, 1]
    assert lengths("longest") == [9, 1]
    drawn = {filters.one_per_problem(traces, "random", seed)[0].index for seed in range(30)}
    assert drawn == {0, 1, 2}


POOL = [
    trace(f"{domain}{n}", tokens=n + 1, domain=domain)
    for domain, size in (("x", 50), ("y", 5))
    for n in range(size)
]


@pytest.mark.parametrize("diversity", ["s1", "uniform", "longest", "random"])
@given(st.permutations(POOL), st.integers(0, 3))
def test_a_draw_does_not_depend_on_the_order_of_the_rows(
    diversity: filters.Diversity, rows: list[Attempt], seed: int
) -> None:
    drawn = filters.draw(rows, 12, diversity, seed)
    assert drawn == filters.draw(POOL, 12, diversity, seed)
    assert len({t.problem.id for t in drawn}) == 12


def test_draws_have_the_declared_distribution() -> None:
    firsts = [filters.draw(POOL, 1, "s1", seed)[0] for seed in range(2000)]
    assert 0.45 < sum(t.problem.domain == "x" for t in firsts) / 2000 < 0.55
    ranks = Counter(49 - int(t.problem.id[1:]) for t in firsts if t.problem.domain == "x")
    total = ranks.total()
    assert 0.45 < ranks[0] / total < 0.55
    assert 0.2 < ranks[1] / total < 0.3
    assert 0.08 < ranks[2] / total < 0.17
    uniform = [filters.draw(POOL, 1, "uniform", seed)[0] for seed in range(2000)]
    assert 0.45 < sum(t.problem.domain == "x" for t in uniform) / 2000 < 0.55
    assert len({t.problem.id for t in uniform}) == len(POOL)
    assert [filters.trace_length(t) for t in filters.draw(POOL, 3, "longest", 0)] == [50, 49, 48]
    random_share = (
        sum(filters.draw(POOL, 1, "random", seed)[0].problem.domain == "x" for seed in range(2000)) / 2000
    )
    assert 0.87 < random_share < 0.95


def test_a_draw_takes_every_trace_when_there_are_no_more() -> None:
    shuffled = random.Random(0).sample(POOL, len(POOL))
    diversities: tuple[filters.Diversity, ...] = ("s1", "uniform", "longest", "random")
    for diversity in diversities:
        drawn = filters.draw(shuffled, len(POOL) + 10, diversity, 0)
        assert {t.problem.id for t in drawn} == {t.problem.id for t in POOL}
