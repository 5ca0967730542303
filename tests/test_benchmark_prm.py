"""`benchmarks.prm`: the work is what it says, the reference scores the same, the last line is JSON."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import prm
from inference.scorers.step_scorer import StepScorer


def test_search_grows_by_a_step_and_forks() -> None:
    search = prm.make_search(prm.FULL)
    assert [len(branches) for branches in search] == [32] * 20
    for before, after in pairwise(search):
        parents = Counter((question, tuple(steps[:-1])) for question, steps in after)
        known = {(question, tuple(steps)) for question, steps in before}
        assert set(parents) <= known
        forks = len(after[0][1]) % prm.FORK_EVERY == 1
        assert set(parents.values()) == ({2} if forks else {1})


def test_both_ways_give_the_same_scores() -> None:
    reward = prm.small_model(32, 2)
    search = prm.make_search(prm.QUICK)
    ours = prm.timed(StepScorer.of(reward).score, search)
    theirs = prm.timed(lambda questions, solutions: prm.reencode(reward, questions, solutions), search)
    assert prm.largest_difference(ours, theirs) < 1e-5
    assert len(set(prm.flat(theirs))) > 10


def test_a_way_that_scores_less_is_found() -> None:
    with pytest.raises(AssertionError):
        prm.timed(lambda questions, solutions: [[0.5]] * len(solutions), prm.make_search(prm.QUICK))


def test_unique_tokens_count_what_is_shared_once() -> None:
    reward = prm.small_model(32, 2)
    long, short = ("q", ["1 + 2", "3"]), ("q", ["1 + 2"])
    assert prm.unique_tokens(reward, [[long, short], [short]]) == len(reward.step_format.encode(*long).ids)


def test_last_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["prm", "--quick"])
    prm.main()
    *table, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert any(line.startswith("| ours |") for line in table)
    assert result["speedup_vs_reencode"] > 0
    assert result["forwarded_per_unique_token"] == 1
    assert result["largest_score_difference"] < 1e-4


def test_without_smollm2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLOWTHINK_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="run `slowthink fetch-model smollm2`"):
        prm.smollm2()
