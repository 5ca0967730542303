"""Strategy `auto`: what the planner says is what is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from inference.search.driver import Searched, search
from inference.search.planner import FILE, Plan, Planner
from inference.search.settings import parse_strategies
from tests.inference.search.digits import FORM, DigitPolicy, DigitScorer, oracle, search_budget, tasks


def plan(strategy: str, n: int, cost: float, accuracy: float, **options: Any) -> Plan:
    return Plan(
        setting=f"{strategy} n={n}",
        searched=f"{strategy} n={n}",
        strategy=strategy,
        n=n,
        width=options.get("width", 1),
        options={"n": n, **options},
        choice="weighted_best_of_n",
        mean_cost={"generated_tokens": cost},
        accuracy=accuracy,
    )


def planner(folder: Path, **changes: Any) -> str:
    """Hard questions get beam search, easy ones votes."""
    hard = (plan("best_of_n", 8, 100, 0.2), plan("beam", 8, 100, 0.8, width=4))
    easy = (plan("best_of_n", 8, 100, 0.9), plan("beam", 8, 100, 0.5, width=4), plan("best_of_n", 2, 10, 0.7))
    given: Mapping[str, Any] = {
        "probe": 4,
        "estimate": "agreement",
        "probe_cost": {"generated_tokens": 50},
        "choice": "weighted_best_of_n",
        "edges": (0.75,),
        "bins": (hard, easy),
        "shares": (0.5, 0.5),
        "overall": (plan("best_of_n", 8, 100, 0.6),),
        **changes,
    }
    Planner(**given).save(folder / FILE)
    return str(folder)


def run(tokenizer: Any, folder: str, budget: float, digits: int) -> list[Searched]:
    [auto] = parse_strategies([{"strategy": "auto", "planner": folder, "budget": budget}], "strategies")
    policy, scorer = DigitPolicy(tokenizer, depth=2, digits=digits), DigitScorer(oracle(2, digits))
    found = search(tasks(tokenizer, 6), policy, scorer, auto, search_budget(), FORM)
    return [one for batch in found for one in batch]


def test_agreement_decides(tokenizer: Any, tmp_path: Path) -> None:
    folder = planner(tmp_path)
    for one in run(
        tokenizer, folder, 200.0, digits=1
    ):  # all probes agree: votes, of which the probes are four
        assert len(one.candidates) == len(one.tree.root.children) == 8
        assert all(node.end == "stop" for node in one.tree.root.children)
    for one in run(tokenizer, folder, 200.0, digits=9):  # they do not: beam search beside the probes
        whole = [node for node in one.tree.root.children if node.end]
        assert len(whole) == 4
        assert len(one.tree.root.children) == 4 + 8
        assert set(whole) < set(one.candidates)


def test_a_small_budget_gets_a_cheap_plan(tokenizer: Any, tmp_path: Path) -> None:
    folder = planner(tmp_path, bins=((plan("best_of_n", 2, 10, 0.7),),) * 2)
    for one in run(tokenizer, folder, 70.0, digits=1):
        assert len(one.candidates) == 4  # the probes are more than the two that were planned


def test_no_probe_where_it_is_worth_nothing(tokenizer: Any, tmp_path: Path) -> None:
    folder = planner(tmp_path, overall=(plan("best_of_n", 3, 100, 0.99),))
    for one in run(tokenizer, folder, 200.0, digits=9):
        assert len(one.candidates) == len(one.tree.root.children) == 3


def test_a_missing_planner_is_named(tmp_path: Path) -> None:
    entry = {"strategy": "auto", "planner": str(tmp_path), "budget": 5.0}
    [auto] = parse_strategies([entry], "strategies")
    with pytest.raises(ValueError, match=r"planner: .*planner.json does not exist; stage evaluate_search"):
        _ = auto.rows
