"""Near-duplicates: which pairs count, which are other questions; order and processes do not matter."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.decontaminate import normalised_words
from data.load_source import load_problems
from data.near_duplicates import near_duplicates
from data.sources import parse_source
from data.word_hashes import hash_words

QUESTION = (
    "Ann has $5$ red pens and 3 blue pens in her box, and gives the smallest share of all these pens to her "
    "brother Tom who lives in the old house by the river with his friends. How many pens has Ann in the end?"
)


def dropped(questions: list[str], answers: list[str] | None = None, threshold: float = 0.7) -> dict[int, int]:
    found = near_duplicates(
        hash_words(questions), hash_words(answers or ["1"] * len(questions)), range(len(questions)), threshold
    )
    return {question: kept for question, (kept, _) in found.items()}


@pytest.mark.parametrize(
    "variant",
    [
        QUESTION.replace("$5$", r"\(5\)").upper(),
        QUESTION.replace("old house", "large house"),
        QUESTION + " Explain.",
        QUESTION.replace("How many", "So how many"),
    ],
)
def test_almost_the_same_words_are_dropped(variant: str) -> None:
    assert dropped([QUESTION, "What is the area of a circle of radius 2?", variant]) == {2: 0}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("$5$", "$6$"),
        ("smallest", "largest"),
        ("3 blue", "-3 blue"),
        ("5$ red pens and 3", "3$ red pens and 5"),
    ],
)
def test_another_number_or_sense_is_another_question(one: str, other: str) -> None:
    assert one in QUESTION
    assert dropped([QUESTION, QUESTION.replace(one, other)], threshold=0.5) == {}


def test_another_answer_is_another_question() -> None:
    variant = QUESTION.replace("river", "lake")
    assert dropped([QUESTION, variant], ["7", "7.0"]) == {}
    assert dropped([QUESTION, variant], [r"\dfrac{1}{2}", r"$\frac12$"]) == {1: 0}


def test_threshold_is_the_exact_similarity() -> None:
    variant = QUESTION.replace("river", "lake")
    one, other = (
        {tuple(words[i : i + 3]) for i in range(len(words) - 2)}
        for words in map(normalised_words, (QUESTION, variant))
    )
    similarity = len(one & other) / len(one | other)
    words, answers = hash_words([QUESTION, variant]), hash_words(["1", "1"])
    assert near_duplicates(words, answers, [1, 0], similarity) == {0: (1, similarity)}
    assert near_duplicates(words, answers, [1, 0], similarity + 1e-9) == {}
    for bad in (0, 1.5):
        with pytest.raises(ValueError, match="near_duplicates"):
            near_duplicates(words, answers, [0, 1], bad)


@given(st.permutations(range(6)))
def test_what_is_kept_follows_the_preference_and_not_the_rows(rows: list[int]) -> None:
    pool = [QUESTION + end for end in ("", " Explain.", " Explain it.", " Explain it to me.")] + ["", "Hi 1"]
    words, answers = hash_words([pool[i] for i in rows]), hash_words(["1"] * 6)
    order = sorted(range(6), key=lambda row: rows[row])
    found = near_duplicates(words, answers, order, 0.7)
    assert {rows[question]: rows[kept] for question, (kept, _) in found.items()} == {1: 0, 2: 0, 3: 0}


def test_the_number_of_processes_does_not_matter() -> None:
    questions = [f"{QUESTION} {i}" for i in range(4_500)]
    one, two = hash_words(questions, 1), hash_words(questions, 2)
    assert np.array_equal(one.hashes, two.hashes)
    assert np.array_equal(one.starts, two.starts)


def test_word_problems_that_differ_in_numbers_stay(shared_data: Callable[[str], Path]) -> None:
    """GSM-Hard is GSM8K test with other numbers; GSM8K train has hardly two of a kind."""
    shared_data("gsm8k/gsm_hard_test.jsonl")
    path = shared_data("gsm8k/test.jsonl")
    test, _ = load_problems(parse_source({"id": "gsm8k", "split": "test"}, "s"))
    rng = random.Random(0)
    changed = ["".join(str(int(c) + 1) if c.isdigit() and c != "9" else c for c in p.question) for p in test]
    texts = [p.question for p in test] + changed
    found = dropped(texts, [p.answer for p in test] * 2)
    numbered = {i for i, text in enumerate(changed, len(test)) if text != texts[i - len(test)]}
    assert len(numbered) > 1_200, path
    assert not numbered & found.keys()
    spaced = [rng.choice(["Please solve: ", ""]) + p.question.replace("$", r"\$") for p in test]
    again = dropped([p.question for p in test] + spaced, [p.answer for p in test] * 2)
    assert len(again) > 0.95 * len(test)
