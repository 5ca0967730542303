"""`benchmarks.prm_learning`: its labels are what they say, and a turn trains and measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.prm_learning import (
    Data,
    Way,
    against_truth,
    make_data,
    take_turn,
    until_first_error,
    whole_prefix,
)
from data.small_world import generate_problems, solve
from data.steps import LabelledSolution
from training.pretrain import PretrainConfig, pretrain


def test_labels() -> None:
    lines = [True, True, False, True, False]
    assert until_first_error(lines) == [1, 1, 0, None, None]
    assert whole_prefix(lines) == [1, 1, 0, 0, 0]
    assert until_first_error([True]) == whole_prefix([True]) == [1]


def test_scores_against_the_truth() -> None:
    question, box = "10; A+5; B+3", "\\boxed{18}"
    rows: list[dict[str, Any]] = [
        {"steps": ["A10+5=15", "B15+3=18", box], "scores": [0.9, 0.9, 0.9], "right": True},
        {"steps": ["A10+5=16", "B16+3=19", box], "scores": [0.2, 0.95, 0.9], "right": False},
        {"steps": ["A10+5=15", "B15+3=17", box], "scores": [0.8, 0.85, 0.9], "right": False},
        {"steps": ["A10+5=15", box], "scores": None, "right": False},
    ]
    made = against_truth({"question": question, **row} for row in rows)
    # right lines 0.9 0.9 0.8, wrong ones 0.2 and 0.85; what stands behind the first error does not count
    assert made == pytest.approx({"step_auc": 5 / 6, "flawless_auc": 1.0})


def solutions(count: int, split: Any) -> list[LabelledSolution]:
    """Flawless ones, and as many whose last line is of another problem."""
    made = []
    for i, problem in enumerate(generate_problems(count, 1, split, 4, 5)):
        lines = solve(problem).split("\n")
        lines[-1] = lines[-1] if i % 2 else "H11+1=12"
        labels = (*[1.0] * (len(lines) - 1), float(i % 2))
        made.append(LabelledSolution(problem=problem, steps=tuple(lines), labels=labels, right=bool(i % 2)))
    return made


@pytest.mark.slow
def test_a_turn(tmp_path: Path) -> None:
    pretrain(PretrainConfig(drill_steps=2, flawless_steps=2, mixture_steps=2), tmp_path / "base")
    data = Data(solutions(64, "train"), solutions(16, "train"), solutions(16, "eval"))
    for way in (Way("reference", steps=10), Way("a third layer", layers=1, few=True)):
        made = take_turn(way, data, str(tmp_path / "base"), quick=True)
        assert made["labels"] == sum(len(s.steps) for s in (data.few if way.few else data.many))
        if not way.few:
            assert made["step_auc"] > 0.9
            assert made["solution_auc"] > 0.7


@pytest.mark.slow
def test_data_are_solutions_of_the_policy(tmp_path: Path) -> None:
    pretrain(PretrainConfig(drill_steps=2, flawless_steps=60, mixture_steps=2), tmp_path / "base")
    data = make_data(str(tmp_path / "base"), quick=True)
    assert len({solution.problem.id for solution in data.few}) <= 4
    assert {solution.problem.role for solution in data.held_out} == {"eval"}
    assert all(len(s.steps) == len(s.labels) for s in data.many)
