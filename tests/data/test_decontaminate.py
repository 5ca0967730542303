"""Decontamination: what counts as the same text, what does not, and against s1's n-grams on real data."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.decontaminate import BenchmarkIndex, normalised_words
from data.load_source import load_problems
from data.schema import Problem, problem_id
from data.sources import parse_source

QUESTION = r"Let $x^{2}+\dfrac{1}{2}y = 1,000$. Find the least well-known value of $y$ when $x=3$."


def problem(question: str) -> Problem:
    return Problem(id=problem_id(question), question=question, answer="1", source="bench", role="eval")


def index(*questions: str, ngram_words: int = 8) -> BenchmarkIndex:
    return BenchmarkIndex([problem(q) for q in questions], ngram_words)


@pytest.mark.parametrize(
    "variant",
    [
        "Let x² + \\frac{1}{2} y = 1000; find the least well known value of y, when x = 3.",
        r"LET \(x^2+\tfrac 1 2 y=1{,}000\). Find the \textbf{least} well-known value of \(y\) when \(x=3\)",
        "Let $\\displaystyle x^2 + \\frac12 y = 1,\\!000$. Find\u200b the least"
        " well\u2013known\nvalue of $y$ when $x=3$",
    ],
)
def test_variants_of_one_question_match(variant: str) -> None:
    assert normalised_words(variant) == normalised_words(QUESTION)
    match = index("Something else entirely.", QUESTION).match(variant)
    assert match is not None
    assert match.benchmark_id == problem_id(QUESTION)
    assert match.ngram in " ".join(normalised_words(QUESTION))
    assert match.benchmark_id in match.evidence


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 2 + 3?", "What is 2 - 3?"),
        ("What is 2 + 3?", "What is 2 + 4?"),
        ("What is 2^3?", "What is 23?"),
        ("What is 3.5?", "What is 35?"),
        ("What is 5 + -3?", "What is 5 - 3?"),
        ("What is 5! + 1?", "What is 5 + 1?"),
        ("What is $a_1 + 1$?", "What is $a^1 + 1$?"),
        ("What is 2 < 3?", "What is 2 > 3?"),
    ],
)
def test_numbers_and_operators_make_a_difference(one: str, other: str) -> None:
    assert index(one).match(one)
    assert index(one).match(other) is None


def test_eight_words_in_a_row_match_and_seven_do_not() -> None:
    benchmark = "the quick brown fox jumps over the lazy dog while birds sing"
    assert index(benchmark).match("why does the quick brown fox jumps over the bear") is None
    match = index(benchmark).match("why does the quick brown fox jumps over the lazy bear")
    assert match is not None
    assert match.ngram == "the quick brown fox jumps over the lazy"
    assert index(benchmark, ngram_words=7).match("why does the quick brown fox jumps over the bear")


def test_short_questions_are_compared_whole() -> None:
    benchmark = "Tom thinks for a while: what is 7 * 8? He then writes it down."
    assert index(benchmark).match("What is 7*8?")
    assert index("What is 7*8?").match(benchmark)
    assert index("What is 7*8?").match("what is $7 \\times 8$")
    assert index(benchmark).match("What is 7 * 80?") is None
    assert index("What is 17?").match("What is 1?") is None


def test_zero_compares_whole_questions_only() -> None:
    whole = index(QUESTION, ngram_words=0)
    assert whole.match(QUESTION.lower().replace("$", ""))
    assert whole.match(QUESTION + " Explain.") is None
    assert index("What is 7*8?", ngram_words=0).match("Say: what is 7*8?") is None
    with pytest.raises(ValueError, match="negative"):
        index(QUESTION, ngram_words=-1)


def test_questions_without_words_match_nothing() -> None:
    assert index("???", "").match("!!!") is None
    assert index("???", "").match("") is None


def test_drawings_are_not_text() -> None:
    drawing = "[asy] draw((0,0)--(1,0)--(1,1)--(0,1)--cycle); label(A, (0,0)); [/asy]"
    assert index(f"Find the area. {drawing}").match(f"How long is the side of this? {drawing}") is None


def test_characters_without_spaces_between_words() -> None:
    assert index("小明有三个苹果和五个梨一共有多少").match("请问小明有三个苹果和五个梨吗")
    assert index("小明有三个苹果和五个梨一共有多少").match("小红有四个橘子和六个桃子") is None


@given(st.text())
def test_every_question_with_words_matches_itself(question: str) -> None:
    for ngram_words in (0, 1, 8):
        assert (index(question, ngram_words=ngram_words).match(question) is not None) == bool(
            normalised_words(question)
        )


@given(
    st.lists(st.sampled_from("abc"), max_size=12),
    st.lists(st.sampled_from("abc"), max_size=12),
    st.integers(1, 5),
)
def test_a_match_is_a_common_run(one: list[str], other: list[str], n: int) -> None:
    def runs(words: list[str], length: int) -> set[str]:
        return {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}

    length = min(n, len(one), len(other))
    expected = bool(one and other and runs(one, length) & runs(other, length))
    assert bool(index(" ".join(one), ngram_words=n).match(" ".join(other))) == expected


def test_finds_all_that_s1_finds(shared_data: Callable[[str], Path]) -> None:
    """s1's own normalisation and 8-grams, on GSM8K train against GSM8K test."""
    shared_data("gsm8k/train.jsonl")
    train, _ = load_problems(parse_source({"id": "gsm8k"}, "s"))
    test, _ = load_problems(parse_source({"id": "gsm8k", "split": "test"}, "s"))

    def s1_ngrams(question: str) -> set[str]:
        words = re.sub(r"\s+", " ", question.lower().strip()).split()
        return {" ".join(words[i : i + 8]) for i in range(len(words) - 7)}

    theirs = set().union(*(s1_ngrams(p.question) for p in test))
    found_by_s1 = {p.id for p in train if s1_ngrams(p.question) & theirs}
    benchmark = BenchmarkIndex(test)
    found = {p.id for p in train if benchmark.match(p.question)}
    assert len(found_by_s1) == 70
    assert found_by_s1 <= found
    assert len(found) < 150


def test_characters_in_a_row_see_through_words() -> None:
    split = "Let x2+1 /2y = 1000 fi nd thele astwe ll known val ue of ywhen x = 3"
    characters = BenchmarkIndex([problem("Find the least well known value of that")], 8, 20)
    assert BenchmarkIndex([problem("Find the least well known value of that")]).match(split) is None
    match = characters.match(split)
    assert match is not None
    assert match.ngram in "findtheleastwellknownvalueof"
    assert BenchmarkIndex([problem("Find the least well known value of that")], 0, 20).match(split)
    with pytest.raises(ValueError, match="ngram_characters"):
        BenchmarkIndex([], 8, -1)


@pytest.mark.parametrize(
    ("train", "test", "same", "others"),
    [
        ("aime_1983_2023", "math500", 6, set()),
        ("math", "math", 10, {r"Compute $\tan 225^\circ$.", r"Compute $\cos 150^\circ$."}),
    ],
)
def test_known_contamination_is_found(
    train: str, test: str, same: int, others: set[str], shared_data: Callable[[str], Path]
) -> None:
    """Every question whose letters and digits are those of a benchmark's, but tan 22.5 and cos(-150)."""
    shared_data("math/train.jsonl")
    pool, _ = load_problems(parse_source({"id": train, "split": "train"}, "s"))
    benchmark, _ = load_problems(parse_source({"id": test, "split": "test"}, "s"))

    def letters(question: str) -> str:
        return re.sub(r"[\W_]", "", question.lower())

    tests = {letters(p.question) for p in benchmark}
    leaked = [p for p in pool if letters(p.question) in tests]
    assert len(leaked) == same
    index = BenchmarkIndex(benchmark)
    assert {p.question for p in leaked if not index.match(p.question)} == others
