"""The planner: which bin an estimate is in, what is planned within a budget, and its file."""

from __future__ import annotations

import json
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest

from inference.search.planner import Plan, Planner, estimate_difficulty


def plan(setting: str, tokens: float, accuracy: float, **more: Any) -> Plan:
    strategy, count, *_ = setting.split()
    n = int(count.removeprefix("n="))
    values = {
        "setting": setting,
        "searched": setting,
        "strategy": strategy,
        "n": n,
        "width": 1,
        "options": {"n": n},
        "choice": "majority",
        "mean_cost": {"generated_tokens": tokens, "flops": 2 * tokens},
        "accuracy": accuracy,
    }
    return Plan(**{**values, **more})


HARD = (plan("majority n=4", 100, 0.1), plan("beam n=4", 150, 0.5), plan("beam n=16", 600, 0.6))
EASY = (plan("majority n=4", 50, 0.9), plan("beam n=4", 40, 0.9), plan("beam n=16", 400, 0.8))
ALL = (plan("majority n=4", 75, 0.5), plan("beam n=4", 95, 0.7), plan("beam n=16", 500, 0.7))
PLANNER = Planner(
    probe=4,
    estimate="agreement",
    probe_cost={"generated_tokens": 40.0, "flops": 80.0},
    choice="majority",
    edges=(0.5,),
    bins=(HARD, EASY),
    shares=(0.5, 0.5),
    overall=ALL,
)


def test_agreement_and_score_of_a_probe() -> None:
    assert estimate_difficulty("agreement", [0, 1, 0, -1], []) == 0.5
    assert estimate_difficulty("agreement", [-1, -1], []) == 0
    assert estimate_difficulty("score", [0, 1], [0.5, nan]) == 0.25
    assert PLANNER.difficulty([0, 0, 0, 1], [nan] * 4) == 0.75
    with pytest.raises(ValueError, match="there are none"):
        estimate_difficulty("agreement", [], [])


@pytest.mark.parametrize(("estimate", "number"), [(-1, 0), (0.25, 0), (0.5, 1), (0.75, 1), (2, 1)])
def test_an_edge_belongs_to_the_bin_above_it(estimate: float, number: int) -> None:
    assert PLANNER.bin(estimate) == number


@pytest.mark.parametrize(
    ("estimate", "budget", "cost", "setting"),
    [
        (0.25, 149, "generated_tokens", "majority n=4"),
        (0.25, 150, "generated_tokens", "beam n=4"),
        (0.25, 10**9, "generated_tokens", "beam n=16"),
        (0.25, 299, "flops", "majority n=4"),
        (0.25, 0, "generated_tokens", "majority n=4"),  # nothing fits: the cheapest
        (1.0, 0, "generated_tokens", "beam n=4"),
        (1.0, 10**9, "generated_tokens", "beam n=4"),  # as good as majority, and cheaper
        (None, 10**9, "generated_tokens", "beam n=4"),
        (None, 80, "generated_tokens", "majority n=4"),
    ],
)
def test_the_best_plan_within_the_budget(
    estimate: float | None, budget: float, cost: str, setting: str
) -> None:
    assert PLANNER.plan(estimate, budget, cost).setting == setting


def test_another_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="knows generated_tokens, flops, not 'seconds'"):
        PLANNER.plan(0.5, 1, "seconds")


def test_the_file_gives_the_same_planner(tmp_path: Path) -> None:
    PLANNER.save(tmp_path / "planner.json")
    assert Planner.load(tmp_path / "planner.json") == Planner.load(str(tmp_path)) == PLANNER


def test_what_is_no_planner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; stage evaluate_search writes it"):
        Planner.load(tmp_path)
    path = tmp_path / "planner.json"
    PLANNER.save(path)
    whole = json.loads(path.read_text())
    broken: list[Any] = [
        [],
        {**whole, "edges": []},
        {**whole, "edges": 3},
        {**whole, "shares": [1.0]},
        {key: value for key, value in whole.items() if key != "bins"},
        {**whole, "bins": [[{"setting": "beam"}], []]},
        {**whole, "overall": []},
    ]
    for value in broken:
        path.write_text(json.dumps(value))
        with pytest.raises(ValueError, match=r"planner.json is not a planner"):
            Planner.load(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        Planner.load(path)


def test_bins_that_do_not_go_with_the_edges_are_refused() -> None:
    with pytest.raises(ValueError, match="2 bins do not go with edges"):
        replace(PLANNER, edges=(0.5, 0.7))
    with pytest.raises(ValueError, match="3 bins do not go with edges"):
        replace(PLANNER, bins=(HARD, EASY, EASY), shares=(0.5, 0.25, 0.25), edges=(0.7, 0.5))


@pytest.mark.parametrize(
    ("budget", "worth"),
    [
        (139, False),  # 99 are left, and the hard bin needs 100
        (140, False),  # 0.5 * 0.1 + 0.5 * 0.9, and beam n=4 has 0.7 without
        (190, False),  # 0.5 * 0.5 + 0.5 * 0.9: as good as without
        (640, True),
    ],
)
def test_a_probe_is_worth_it_where_the_bins_promise_more(budget: float, worth: bool) -> None:
    assert PLANNER.worth_probing(budget) is worth
    assert PLANNER.worth_probing(2 * budget, "flops") is worth
