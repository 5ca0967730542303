from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.schema import Attempt, Completion, Outcome, Problem
from data.store import read_attempts
from evaluation.evaluate import EvaluateConfig, benchmark_metrics, evaluate


def group(problem: str, verdicts: list[tuple[Outcome, str]]) -> list[Attempt]:
    """Attempts of one problem with these (verdict, extracted answer)."""
    completion = Completion(
        text="",
        thinking="",
        response="",
        finish_reason="stop",
        prompt_tokens=1,
        thinking_tokens=2,
        completion_tokens=3,
        model="m",
        seed=0,
    )
    owner = Problem(id=problem, question=problem, answer="1")
    return [
        Attempt(problem=owner, index=i, completion=completion, verdict=verdict, extracted=extracted)
        for i, (verdict, extracted) in enumerate(verdicts)
    ]


def test_metrics_of_groups_worked_by_hand() -> None:
    groups = [
        group("a", [("correct", "1"), ("wrong", "2"), ("wrong", "2.0"), ("wrong", "2")]),
        group("b", [("correct", "1"), ("correct", "1.0"), ("wrong", "3"), ("unverifiable", "x+y")]),
        [],
    ]
    metrics = benchmark_metrics(groups, [1, 2, 4], seed=0)
    assert metrics["problems"] == 3
    assert metrics["pass@1"]["mean"] == pytest.approx((1 / 4 + 1 / 2 + 0) / 3)
    assert metrics["pass@2"]["mean"] == pytest.approx((1 / 2 + 5 / 6 + 0) / 3)
    assert metrics["pass@4"]["mean"] == pytest.approx(2 / 3)
    assert metrics["maj@4"]["mean"] == pytest.approx((0 + 1 + 0) / 3)
    assert metrics["unverifiable"] == pytest.approx(1 / 8)
    assert "maj@1" not in metrics
    assert metrics["pass@1"]["low"] <= metrics["pass@1"]["mean"] <= metrics["pass@1"]["high"]


def configure(tiny_model: Path, benchmarks: list[dict], **options: Any) -> EvaluateConfig:
    return EvaluateConfig(
        model_name_or_path=str(tiny_model), benchmarks=benchmarks, max_tokens=5, batch_size=8, **options
    )


@pytest.fixture
def source(tmp_path: Path) -> dict:
    rows = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(6)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"path": str(tmp_path / "sums.jsonl"), "role": "eval", "licence": "MIT"}


def test_evaluate_keeps_every_completion_and_reports_each_benchmark(
    tiny_model: Path, source: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks = [{**source, "name": "all"}, {**source, "name": "few", "limit": 2}]
    config = configure(tiny_model, benchmarks, num_completions=3, k=[1, 3])
    metrics = evaluate(config, tmp_path / "out")
    attempts = read_attempts(tmp_path / "out")
    assert len(attempts) == 6 * 3  # problems of both benchmarks are put to the model once
    assert metrics["benchmarks"]["all"]["problems"] == 6
    assert metrics["benchmarks"]["few"]["problems"] == 2
    assert metrics["tokens"] == sum(a.completion.completion_tokens for a in attempts)
    assert "pass@3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_completions": 2, "k": [1, 4]}, "k: 4 is not between 1 and num_completions=2"),
        ({"k": [0]}, "k: 0"),
        ({"temperature": 0, "num_completions": 4}, "greedy completions"),
    ],
)
def test_k_beyond_what_was_drawn_is_refused(
    tiny_model: Path, source: dict, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        configure(tiny_model, [source], **options)


def test_benchmarks_must_be_given_and_named_apart(tiny_model: Path, source: dict) -> None:
    with pytest.raises(ValueError, match="benchmarks: give at least one"):
        configure(tiny_model, [])
    with pytest.raises(ValueError, match="names repeat"):
        configure(tiny_model, [source, source])
    with pytest.raises(ValueError, match=r"benchmarks\[0\]"):
        configure(tiny_model, [{"id": "math5000"}])


def test_a_benchmark_with_bad_rows_is_refused(tiny_model: Path, source: dict, tmp_path: Path) -> None:
    with open(source["path"], "a") as file:
        file.write('{"question": "no answer"}\n')
    with pytest.raises(ValueError, match="1 bad rows, the first: missing_answer"):
        evaluate(configure(tiny_model, [source]), tmp_path / "out")
