from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.decontaminate import DROPPED_COMMANDS, SAME_COMMANDS, BenchmarkIndex, normalised_words
from data.load_source import load_problems
from data.schema import Problem, problem_id
from data.sources import parse_source
from data.suspects import cut, suspects

PIECES = st.one_of(
    st.sampled_from(["a", "bc", "If", "x", "2", "12", "1,000", "1,00", "3.5", "7!", "frac", "le"]),
    st.sampled_from([*SAME_COMMANDS, *(f"\\{name}" for name in DROPPED_COMMANDS[:16]), r"\sqrt", r"\Le"]),
    st.sampled_from(
        [*"{}()^_$-+=,.!°πα²½①é\xd7≤∞Ⅱſ中", "{,}", ",\\!", "\\,", "\\\\", "![", "](", ")", "**", "e\u0301"]
    ),
    st.sampled_from(["[asy]", "draw", "[/asy]", "\u200b", "\u00ad", " ", "\n", "-", "٣", "\\"]),
)
QUESTIONS = st.lists(PIECES, max_size=14).flatmap(
    lambda pieces: st.sampled_from(["", " "]).map(lambda space: space.join(pieces))
)


def problems(questions: list[str]) -> list[Problem]:
    return [Problem(id=problem_id(question), question=question, answer="1") for question in questions]


@settings(max_examples=1000, deadline=None)
@given(st.lists(QUESTIONS, max_size=6), st.lists(QUESTIONS, max_size=3), st.integers(0, 4), st.integers(0, 1))
@example([r"\alphaπ b c"], [r"\alpha π b c"], 2, 0)
@example(["x^{10}3 a b"], ["x^103 a b"], 2, 0)
@example([r"\frac12 a"], [r"\frac1 2 a"], 3, 0)
def test_no_match_is_missed(pool: list[str], benchmark: list[str], words: int, characters: int) -> None:
    index = BenchmarkIndex(problems(benchmark), words, characters)
    pool = pool + [f"What is {question} then" for question in benchmark] + [q.upper() for q in benchmark]
    suspected = list(suspects(index, pool))
    assert suspected == sorted(set(suspected))
    assert {i for i, question in enumerate(pool) if index.match(question)} <= set(suspected)


@given(QUESTIONS)
def test_normalised_words_have_the_runs_of_the_question(question: str) -> None:
    raw, normal = cut([question], raw=True), cut([" ".join(normalised_words(question))])
    assert raw.odd[0] or raw.hashes.tolist() == normal.hashes.tolist()


def test_upper_and_lower_case_and_order() -> None:
    one, two, three = (cut([text]).hashes.tolist() for text in ("ab 12 Cd", "AB, 12cD", "ab cd 12"))
    assert one == two != three


def test_every_match_among_real_questions_is_suspected(shared_data: Callable[[str], Path]) -> None:
    shared_data("math")
    pool = [p.question for p in load_problems(parse_source({"id": "math", "split": "train"}, "s"))[0]]
    index = BenchmarkIndex(load_problems(parse_source({"id": "math500", "split": "test"}, "b"))[0])
    suspected = set(suspects(index, pool))
    matched = {i for i, question in enumerate(pool) if index.match(question)}
    assert matched
    assert matched <= suspected
    assert len(suspected) < 0.15 * len(pool), "a search that suspects most questions is no use"


@pytest.mark.parametrize("words", [0, 1, 8])
def test_empty_sides(words: int) -> None:
    assert not list(suspects(BenchmarkIndex([], words), ["a b c d e f g h i"]))
    assert not list(suspects(BenchmarkIndex(problems(["one two three"]), words), []))


def test_a_chinese_benchmark_suspects_only_what_may_be_chinese() -> None:
    index = BenchmarkIndex(problems(["求方程的所有整数解的和是多少呢"]))
    pool = [
        "What is the sum of all integers that are larger than ten?",
        "我问:求方程的所有整数解的和是多少呢",
    ]
    assert list(suspects(index, pool)) == [1]
    assert index.match(pool[1])
