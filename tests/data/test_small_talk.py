"""Small talk: requests, best and careless replies, their quality, and choices between them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from data.schema import problem_id
from data.small_talk import (
    NAMES,
    OCCASIONS,
    RUDE_ENDINGS,
    generate_preferences,
    generate_talk,
    read_request,
    reply_quality,
    talk_problems,
    write_reply,
)
from data.small_world import build_tokenizer

QUESTION = "say hello to Anna"


def test_there_are_enough_requests_and_the_splits_share_none():
    train, held_out = ({p.question for p in talk_problems(split)} for split in ("train", "eval"))
    assert len(NAMES) == len(set(NAMES)) >= 30
    assert len(train) >= 600
    assert len(held_out) >= 60
    assert not train & held_out
    assert len(train | held_out) == len(NAMES) * len(OCCASIONS)


def test_generated_requests_repeat_themselves_and_are_labelled():
    problems = generate_talk(60, 1, "eval")
    assert problems == generate_talk(60, 1, "eval") != generate_talk(60, 2, "eval")
    assert len({p.question for p in problems}) == 60
    for problem in problems:
        assert (problem.domain, problem.source, problem.role) == ("talk", "small_talk", "eval")
        assert (problem.licence, problem.id) == ("Apache-2.0", problem_id(problem.question))
        assert problem.answer == problem.solution
        assert reply_quality(problem.question, problem.answer) == 1.0


def test_more_requests_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"small_talk has only \d+ different eval requests, not 99; lower"):
        generate_talk(99, 0, "eval")


@pytest.mark.parametrize(
    ("response", "quality"),
    [
        ("Hello, Anna! How are you today?", 1.0),
        (" Hello, Anna! How are you today?\n", 1.0),
        ("Hello, Boris! How are you today?", 0.75),
        ("Hello, Anna!", 0.75),
        ("Hello, Anna! See you again soon.", 0.75),
        ("Hello, Anna! Now go away.", 0.5),
        ("Goodbye, Anna! See you again soon.", 0.5),
        ("Goodbye, Boris!", 0.25),
        ("Goodbye, Boris! Leave me alone.", 0.0),
        ("Hello, Anna! How are you today? How are you today?", 0.0),
        ("Hello Anna", 0.0),
        ("\\boxed{34}", 0.0),
        ("", 0.0),
    ],
)
def test_quality_is_the_share_of_criteria(response, quality):
    assert reply_quality(QUESTION, response) == quality


def test_another_text_is_no_request():
    for question in ("47; A+8", "say hello to Nobody", "Say hello to Anna", "wish Anna", ""):
        with pytest.raises(ValueError, match=r"not a request of small talk.*say hello to Anna"):
            read_request(question)


def test_careless_replies_have_all_faults_at_their_shares():
    rng = random.Random(0)
    replies = [write_reply(rng, QUESTION) for _ in range(4000)]
    shares = {
        "name": sum(", Anna!" not in reply for reply in replies) / 4000,
        "occasion": sum(not reply.startswith("Hello,") for reply in replies) / 4000,
        "curt": sum(reply.endswith("!") for reply in replies) / 4000,
        "rude": sum(reply.endswith(RUDE_ENDINGS) for reply in replies) / 4000,
        "none": sum(reply_quality(QUESTION, reply) == 1.0 for reply in replies) / 4000,
    }
    expected = {"name": 0.25, "occasion": 0.2, "curt": 0.3, "rude": 0.15, "none": 0.75 * 0.8 * 0.55}
    assert shares == pytest.approx(expected, abs=0.03)


def test_the_better_reply_is_chosen_but_for_a_few_errors():
    triples = generate_preferences(2000, 0, "train")
    train = {problem.question for problem in talk_problems("train")}
    better = Counter(reply_quality(q, chosen) > reply_quality(q, other) for q, chosen, other in triples)
    assert all(reply_quality(q, chosen) != reply_quality(q, other) for q, chosen, other in triples)
    assert better[False] / 2000 == pytest.approx(0.05, abs=0.02)
    assert {question for question, _, _ in triples} <= train
    assert generate_preferences(20, 0, "train") == triples[:20] != generate_preferences(20, 1, "train")


def test_every_word_is_one_token_and_decodes_back():
    tokenizer = build_tokenizer(talkative=True)
    rng = random.Random(0)
    for problem in (*talk_problems("train"), *talk_problems("eval")):
        for text in (problem.question, problem.answer, write_reply(rng, problem.question)):
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
            assert len(ids) == len(text.split()) + sum(text.count(mark) for mark in ",!.?")
