"""Choices among real samples against what their sources recorded.

`traces/qwen_math_rm_maj8_math100.jsonl`: 100 MATH problems, 8 samples each with the scores of an outcome
reward model. The source (hkust-nlp/simpleRL-reason@cf1c785:examples/simplelr_math_eval/rm_maj_eval.py)
records of each sample whether it is right, and defines maj@8 (the most frequent string, the first of equal
ones) and rm@8 (the sample with the highest score). `traces/rg_llama3b_step400_*.json`: 70 problems, 50
samples each with their 0/1 score, and of each problem the mean and the best
(open-thought/reasoning-gym-eval@5f09fec).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from evaluation.best_of_n import best_of_n
from evaluation.metrics import majority_at_k, pass_at_k
from inference.search.choose import choose
from rewards.answer_classes import answer_classes
from rewards.compare import canonical_answer
from rewards.verify import compare_many

Rows = list[dict[str, Any]]
EQUATIONS = {9: "9 - 5 = 4", 22: "3+4=7", 24: "3^2+2^2 = 13", 33: "25+169 = 194"}
"""Samples of AMC that the source calls wrong and the verifier right: equations whose value is the gold."""


@pytest.fixture
def sampled(shared_data: Callable[[str], Path]) -> Rows:
    lines = shared_data("traces/qwen_math_rm_maj8_math100.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def gym(shared_data: Callable[[str], Path]) -> Callable[[str], Rows]:
    def read(name: str) -> Rows:
        text = shared_data(f"traces/rg_llama3b_step400_{name}.json").read_text(encoding="utf-8")
        return json.loads(text)["categories"][0]["datasets"][0]["results"]

    return read


def accuracy(rows: Rows, chosen: list[int]) -> float:
    return mean(row["score"][place] for row, place in zip(rows, chosen, strict=True))


def source_choices(row: dict[str, Any]) -> dict[str, int]:
    """maj@8 and rm@8 as the source defines them, and the weighted vote of equal strings."""
    scores = [score for (score,) in row["pred_score"]]
    sums: dict[str, float] = {}
    for answer, score in zip(row["pred"], scores, strict=True):
        sums[answer] = sums.get(answer, 0.0) + sigmoid(score)
    return {
        "majority": row["pred"].index(Counter(row["pred"]).most_common(1)[0][0]),
        "best_of_n": scores.index(max(scores)),
        "weighted_best_of_n": row["pred"].index(max(sums, key=lambda answer: sums[answer])),
    }


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def test_maj_8_and_rm_8_of_a_real_reward_model(sampled: Rows) -> None:
    """Our choices are those of the source on all 100 problems, right or wrong."""
    classes = answer_classes([row["pred"] for row in sampled])
    ours = [
        choose(own, [sigmoid(score) for (score,) in row["pred_score"]])
        for own, row in zip(classes, sampled, strict=True)
    ]
    theirs = [source_choices(row) for row in sampled]
    accuracies = {"majority": 0.93, "best_of_n": 0.94, "weighted_best_of_n": 0.94}
    for choice, recorded in accuracies.items():
        assert accuracy(sampled, [each[choice] for each in theirs]) == pytest.approx(recorded)
        assert accuracy(sampled, [each[choice] for each in ours]) == pytest.approx(recorded)
        answers = [
            [row["pred"][each[choice]] for row, each in zip(sampled, chosen, strict=True)]
            for chosen in (ours, theirs)
        ]
        assert answers[0] == answers[1]


def test_one_problem_of_a_hundred_has_a_class_that_strings_split(sampled: Rows) -> None:
    """The strings of the source are the classes but for one mixed number and its 16-digit decimal."""
    split = []
    for own, row in zip(answer_classes([row["pred"] for row in sampled]), sampled, strict=True):
        strings = list(dict.fromkeys(row["pred"]))
        by_string = [strings.index(answer) for answer in row["pred"]]
        if own != by_string:
            split.append(
                (row["idx"], [a for a, c in zip(row["pred"], own, strict=True) if own.count(c) == 2])
            )
    assert split == [(72, ["9999.857142857143", r"9999\frac{6}{7}"])]


def test_one_class_has_one_verdict(sampled: Rows) -> None:
    """No class holds right and wrong samples: choosing any member of it is the same."""
    for own, row in zip(answer_classes([row["pred"] for row in sampled]), sampled, strict=True):
        assert len({*zip(own, row["score"], strict=True)}) == len({*own})


@pytest.mark.parametrize(("name", "recorded"), [("aime2024", (0.024, 0.3)), ("amc23", (0.144, 0.675))])
def test_recorded_means_and_bests(
    name: str, recorded: tuple[float, float], gym: Callable[[str], Rows]
) -> None:
    """pass@1 is the mean score; pass@50, and the best of 50 by a score that knows, is the best score."""
    for row in (rows := gym(name)):
        scores = [sample["score"] for sample in row["completions"]]
        right = [score == 1 for score in scores]
        assert pass_at_k(50, sum(right), 1) == pytest.approx(row["mean_score"])
        assert pass_at_k(50, sum(right), 50) == best_of_n(scores, right, 50) == row["best_score"]
        chosen = choose(range(50), scores)
        assert right[chosen["best_of_n"]] == right[chosen["weighted_best_of_n"]] == row["best_score"]
    means = mean(row["mean_score"] for row in rows), mean(row["best_score"] for row in rows)
    assert means == pytest.approx(recorded)


@pytest.mark.parametrize(("name", "equations"), [("aime2024", {}), ("amc23", EQUATIONS)])
def test_the_verifier_gives_the_recorded_scores(
    name: str, equations: dict[int, str], gym: Callable[[str], Rows]
) -> None:
    """3,496 of 3,500 recorded scores; the other four are equations whose value is the gold answer."""
    rows = gym(name)
    samples = [(place, row, sample) for place, row in enumerate(rows) for sample in row["completions"]]
    verdicts = compare_many(
        [row["expected_answer"] for _, row, _ in samples],
        [sample["model_answer"] or "" for _, _, sample in samples],
    )
    differ = {
        place: sample["model_answer"]
        for (place, _, sample), verdict in zip(samples, verdicts, strict=True)
        if (verdict.outcome == "correct") != (sample["score"] == 1)
    }
    assert differ == equations
    right = sum(verdict.outcome == "correct" for verdict in verdicts)
    assert right == sum(sample["score"] for _, _, sample in samples) + len(equations)


def test_classes_of_fifty_samples(gym: Callable[[str], Rows]) -> None:
    """1,664 canonical strings are 1,651 answers, in 8 of 70 problems; maj@8 falls in two of them, where a
    wrong answer was written in several ways, and changes in no other."""
    rows = [*gym("aime2024"), *gym("amc23")]
    groups = [[sample["model_answer"] for sample in row["completions"]] for row in rows]
    strings = [[canonical_answer(answer) if answer else None for answer in group] for group in groups]
    classes = [[str(c) if c >= 0 else None for c in own] for own in answer_classes(groups)]
    counts = [
        (len({*own} - {None}), len({*by_string} - {None}))
        for own, by_string in zip(classes, strings, strict=True)
    ]
    assert tuple(map(sum, zip(*counts, strict=True))) == (1651, 1664)
    merged = [place for place, (fewer, more) in enumerate(counts) if fewer < more]
    assert len(merged) == 8
    votes = {}
    for place in merged:
        right = [sample["score"] == 1 for sample in rows[place]["completions"]]
        by_class, by_string = (majority_at_k(each[place], right, 8) for each in (classes, strings))
        if abs(by_class - by_string) > 1e-9:
            votes[place] = (by_class, by_string)
    assert list(votes) == [1, 59]
    assert votes[1] == pytest.approx((0.00933, 0.00957), abs=1e-5)
    assert votes[59] == pytest.approx((0.01025, 0.01303), abs=1e-5)
