from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.trainer.utils import RepeatSampler

from data.prompts import Prompt
from data.schema import Problem
from training.questions import Question, Questions


def make(count: int, **options: object) -> Questions:
    questions = [
        Question(
            problem=Problem(id=f"p{i}", question=f"{i}?", answer=str(i)),
            prompt=Prompt(text=f"{i}?", prefill="", ids=(1,) * (1 + i % 7)),
            columns={"prompt": f"{i}?"},
        )
        for i in range(count)
    ]
    return Questions(questions, **options)  # type: ignore[arg-type]


def test_the_first_epoch_is_in_the_order_of_trl() -> None:
    questions = make(12, seed=5)
    drawn = [index for _ in range(3) for index in questions.draw(4)]
    sampler = RepeatSampler(list(range(12)), mini_repeat_count=1, batch_size=4, seed=5)
    assert drawn == list(sampler)


@given(st.integers(1, 30), st.lists(st.integers(1, 30), max_size=20), st.integers(0, 5))
def test_every_question_comes_once_before_any_comes_again(size: int, counts: list[int], seed: int) -> None:
    questions = make(size, seed=seed)
    drawn: list[int] = []
    for count in counts:
        part = questions.draw(min(count, size))
        assert len(set(part)) == len(part)
        drawn += part
    times = Counter(drawn)
    fewest = min((times[index] for index in range(size)), default=0)
    # a question of the next round may stand in for one that the batch has already
    assert max(times.values(), default=0) <= fewest + 2
    assert len(set(drawn[:size])) == len(drawn[:size])


def test_one_epoch_after_the_other_is_whole() -> None:
    questions = make(10, seed=0)
    drawn = [index for _ in range(15) for index in questions.draw(4)]
    for epoch in range(6):
        assert sorted(drawn[epoch * 10 : (epoch + 1) * 10]) == list(range(10)), epoch


@pytest.mark.parametrize("curriculum", ["uniform", "pass_rate"])
def test_a_loaded_state_goes_on_as_the_run_would_have(curriculum: str) -> None:
    questions = make(20, seed=3, curriculum=curriculum, num_generations=4)
    for number in range(4):
        for index in questions.draw(6):
            questions.observe(index, number % 5, 4)
    kept = json.loads(json.dumps(questions.state()))
    resumed = make(20, seed=3, curriculum=curriculum, num_generations=4)
    resumed.load_state(kept)
    for _ in range(5):
        expected = questions.draw(6)
        assert resumed.draw(6) == expected
        for index in expected:
            questions.observe(index, 1, 4)
            resumed.observe(index, 1, 4)
    assert np.array_equal(questions.pass_rates(), resumed.pass_rates())


def test_a_state_of_other_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="other questions"):
        make(3).load_state(make(4).state())


def test_the_curriculum_prefers_questions_that_are_sometimes_right() -> None:
    questions = make(60, seed=0, curriculum="pass_rate", num_generations=8)
    rates = {index: (0.0, 0.5, 1.0)[index % 3] for index in range(60)}
    drawn: Counter[float] = Counter()
    for step in range(60):
        for index in questions.draw(10):
            questions.observe(index, round(8 * rates[index]), 8)
            drawn[rates[index]] += step >= 20
    assert drawn[0.5] > drawn[0.0] + drawn[1.0]
    assert min(drawn.values()) > 0, "no question is given up"


def test_what_was_seen_long_ago_counts_less() -> None:
    questions = make(10, seed=0, curriculum="pass_rate", num_generations=8)
    questions.observe(0, 0, 8)
    questions.observe(1, 8, 8)
    first = questions.pass_rates()
    assert first[0] < 0.2 < 0.8 < first[1]
    questions.draw(10)  # once over all questions: half of it counts
    later = questions.pass_rates()
    assert first[0] < later[0] < later[2] < later[1] < first[1]


def test_unseen_questions_have_the_mean_rate() -> None:
    questions = make(4, curriculum="pass_rate", num_generations=8)
    assert questions.pass_rates() == pytest.approx([0.5] * 4)
    questions.observe(0, 8, 8)
    assert questions.pass_rates()[1] == pytest.approx(0.9)
    assert questions.weights()[0] < questions.weights()[1]
    assert all(questions.weights() > 0)


def test_longest_prompt() -> None:
    assert make(20).longest_prompt == 7
