"""Stage `search` with a real model: tables, restarts, processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.schema import Problem, problem_id
from data.step_sources import load_steps, parse_step_sources
from data.store import iterate_rows, journal_rows, read_attempts, read_problems, table_path, write_problems
from inference.search.journals import JOURNAL
from inference.search.results import SearchResult, result_from_row
from inference.search.settings import parse_strategies
from inference.search.stage import SearchConfig, check_logprobs, run_search
from tests.inference.search.digits import DigitPolicy, chance

ROOT = Path(__file__).resolve().parents[3]
STRATEGIES = [
    {"strategy": "majority", "n": 3},
    {"strategy": "best_of_n", "n": 3},
    {"strategy": "beam", "n": 4, "width": 2, "max_steps": 3},
    {"strategy": "mcts", "n": 3, "width": 2, "max_steps": 3},
]


class TextScorer:
    """Scores by the text alone; dies at a call where it is told to.

    Args:
        calls: after which the server behind it is gone.
    """

    def __init__(self, model: str, calls: int = 1 << 30) -> None:
        self.name = model
        self.calls = calls
        self.forwarded_tokens = 0

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        if self.calls == 0:
            raise ConnectionError("the scorer is gone")
        self.calls -= 1
        self.forwarded_tokens += sum(len(step) for steps in solutions for step in steps)
        return [
            [chance(question, *steps[:end]) for end in range(1, len(steps) + 1)]
            for question, steps in zip(questions, solutions, strict=True)
        ]


def fields(folder: Path, tiny_model: Path, **changes: Any) -> dict[str, Any]:
    questions = [f"What is {i} + {i}?" for i in range(9)]
    problems = [Problem(id=problem_id(q), question=q, answer=str(2 * i)) for i, q in enumerate(questions)]
    write_problems(folder / "p", problems)
    return {
        "problems": str(folder / "p"),
        "model_name_or_path": str(tiny_model),
        "dtype": "float32",
        "scorer_model": "text",
        "scorer": "tests.inference.search.test_stage:TextScorer",
        "strategies": STRATEGIES,
        "batch_size": 4,
        "max_tokens": 16,
        "max_step_tokens": 5,
        "temperature": 1.0,
        **changes,
    }


def results(folder: Path) -> list[SearchResult]:
    return [result_from_row(row) for row in iterate_rows(table_path(folder, "searches"), "searches")]


def stable(folder: Path) -> Any:
    """What does not depend on time."""
    rows = [
        (r.setting, r.problem.id, r.scores, r.nodes, r.chosen, r.cost.generated_tokens)
        for r in results(folder)
    ]
    nodes = [
        (row["id"], row["setting"], row["node"], row["text"])
        for row in iterate_rows(table_path(folder, "nodes"), "nodes")
    ]
    return repr(rows), nodes  # of nan too


def test_the_tables_agree(tiny_model: Path, tmp_path: Path) -> None:
    metrics = run_search(SearchConfig(**fields(tmp_path, tiny_model)), tmp_path)
    json.dumps(metrics, allow_nan=False)  # the FLOPs of a scorer of one's own are not known
    found = results(tmp_path)
    assert metrics["searches"] == len(found) == 9 * 4
    assert len({(r.setting, r.problem.id) for r in found}) == 36
    attempts = read_attempts(tmp_path)
    assert len(attempts) == sum(len(r.scores) for r in found)
    assert len({(a.problem.id, a.index) for a in attempts}) == len(attempts)
    nodes = list(iterate_rows(table_path(tmp_path, "nodes"), "nodes"))
    for r in found:
        own = [row for row in nodes if row["id"] == r.problem.id and row["setting"] == r.setting]
        assert [row["node"] for row in own] == list(range(len(own)))
        tokens = sum(row["tokens"] for row in own)
        whole = not any(row["cut"] for row in own)  # a cut step may lose part of a character
        assert tokens == r.cost.generated_tokens if whole else tokens <= r.cost.generated_tokens
        assert all(own[place]["end"] for place in r.nodes)
        assert r.cost.policy_flops > 0
        if r.strategy == "majority":
            assert r.cost.scorer_tokens == 0
            assert all(score != score for score in r.scores)
    assert sum(r.cost.generated_tokens for r in found) == metrics["tokens"]
    assert metrics["counts"]["generated_tokens"] == metrics["tokens"]
    assert not list(tmp_path.glob(f"{JOURNAL}*"))
    assert set(metrics["settings"]) == {
        "majority n=3",
        "best_of_n n=3",
        "beam n=4 width=2 max_steps=3",
        "mcts n=3 width=2 max_steps=3",
    }


def journaled(folder: Path) -> int:
    return sum(len(journal_rows(path)) for path in folder.glob(f"{JOURNAL}*"))


def test_a_dead_scorer_loses_nothing(tiny_model: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_search(SearchConfig(**fields(whole, tiny_model)), whole)
    calls = 5
    while True:  # dies again and again, later each time
        options = {"calls": calls}
        config = SearchConfig(**fields(broken, tiny_model, scorer_options=options))
        before = journaled(broken)
        try:
            run_search(config, broken)
        except ConnectionError:
            assert journaled(broken) >= before
            calls += 3
            continue
        break
    assert calls > 8
    assert stable(broken) == stable(whole)


def test_a_problem_that_is_there_twice_is_searched_once(tiny_model: Path, tmp_path: Path) -> None:
    config = SearchConfig(**fields(tmp_path, tiny_model, strategies=STRATEGIES[:1]))
    once = read_problems(tmp_path / "p")[:2]
    write_problems(tmp_path / "p", [*once, once[0]])
    assert run_search(config, tmp_path)["searches"] == 2
    assert [r.problem.id for r in results(tmp_path)] == [problem.id for problem in once]


def test_puct_needs_an_engine_with_logprobs(tokenizer: Any) -> None:
    settings = parse_strategies([{"strategy": "mcts", "n": 4}], "strategies")
    check_logprobs(settings, DigitPolicy(tokenizer))
    settings += parse_strategies([{"strategy": "mcts", "n": 4, "rule": "puct"}], "strategies")
    with pytest.raises(ValueError, match=r"mcts n=4 width=4 rule=puct needs log-probabilities.*digits gives"):
        check_logprobs(settings, DigitPolicy(tokenizer))


def test_labels_of_trees_can_be_trained_on(tiny_model: Path, tmp_path: Path) -> None:
    run_search(SearchConfig(**fields(tmp_path, tiny_model, step_separator=" ")), tmp_path)
    entry = {"path": str(tmp_path)}
    [source] = parse_step_sources([entry], "dataset")
    loaded = load_steps(source)
    assert loaded.solutions
    for solution in loaded.solutions:
        assert len(solution.labels) == len(solution.steps)
        assert solution.labels[-1] == float(solution.right or 0)


@pytest.mark.slow
def test_two_processes_find_what_one_does(tiny_model: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        path = folder / "01_search.yaml"
        recipe = {"stage": "search", **fields(folder, tiny_model)}
        path.write_text(yaml.safe_dump(recipe))
        config = ROOT / "launch/accelerate/ddp_cpu.yaml"
        launcher = ["-m", "launch.accelerated", "--config_file", str(config), "--num_processes", "2"]
        done = subprocess.run(
            [
                sys.executable,
                *(launcher if processes > 1 else []),
                "-m",
                "inference.search.stage",
                "--config",
                str(path),
            ],
            cwd=ROOT,
            env={**os.environ, "SLOWTHINK_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(stable(next((folder / "runs").rglob("searches.parquet")).parent))
    assert found[0] == found[1]
