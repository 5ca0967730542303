"""`benchmarks.curation`: s1's rule in our words, plants that are what they say, and a last line of JSON."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.curation_reference import inside, plants, respaced, rewritten, s1_as_run, s1_decontaminate
from data.decontaminate import normalised_words

QUESTION = (
    r"Let $\dfrac{a}{b} = \left(x^2 + 3\right) \cdot 4$ be a number. What is the least value of $x$ then?"
)


def test_s1_rule_is_eight_words_in_a_row() -> None:
    benchmark = ["The  quick brown fox\njumps over the lazy dog"]
    pool = [
        "see THE QUICK brown fox jumps over the lazy cat",
        "quick brown fox jumps over the lazy, cat",
        "Hi",
    ]
    assert s1_decontaminate(pool, benchmark) == {0}
    assert s1_as_run([pool[:1], pool[1:], ["so quick brown fox jumps over the lazy, cat or"]], benchmark) == 2


@pytest.mark.parametrize("seed", range(8))
def test_planted_leaks_keep_their_words(seed: int) -> None:
    rng = random.Random(seed)
    for kind in (respaced, rewritten):
        assert normalised_words(kind(QUESTION, rng)) == normalised_words(QUESTION)
    assert QUESTION in inside(QUESTION, rng)
    assert plants([QUESTION, "Is it 7?"], 3, seed) == plants([QUESTION, "Is it 7?"], 3, seed)


@pytest.mark.slow
def test_the_last_line_holds_the_keys(shared_data: Callable[[str], Path]) -> None:
    shared_data("difficulty/deepscaler_level1.json")
    command = [sys.executable, "-m", "benchmarks.curation", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    result = json.loads(done.stdout.splitlines()[-1])
    keys = {"decontamination_speedup", "seconds_59k", "gib_590k", "time_ratio_590k_to_59k", "leak_recall"}
    assert keys | {"clean_drop_rate"} <= result.keys()
    assert result["leak_recall"] > 0.95
    assert result["clean_drop_rate"] < 0.05
