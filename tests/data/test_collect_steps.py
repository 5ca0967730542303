"""Collected labelled solutions: dedup, decontamination, the split by problem, the same rows twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.collect_steps import CollectStepsConfig, collect_steps
from data.step_tables import read_labelled
from data.store import read_rows


def entry(path: Path, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"path": str(path), "form": "stepwise", "role": "train", **more}


def solved(*numbers: int, result: int | None = None) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Ann has {n} pens and buys {n} more. How many pens has she now?",
            "completions": [f"She had {n}.", f"Now {2 * n if result is None else result}."],
            "labels": [True, result is None],
        }
        for n in numbers
    ]


def test_the_funnel_adds_up(tmp_path: Path) -> None:
    conflict = {**solved(2)[0], "labels": [True, False]}
    blank = {**solved(9)[0], "completions": ["", "Now 18."]}
    one = entry(tmp_path / "one.jsonl", [*solved(1, 2, 3), *solved(1, result=3), blank])
    two = entry(tmp_path / "two.jsonl", [*solved(3, 4), conflict])
    bench = entry(tmp_path / "bench.jsonl", solved(4), role="eval")
    config = CollectStepsConfig(sources=[one, two], benchmarks=[bench], ngram_words=0)
    metrics = collect_steps(config, tmp_path / "out")
    kept = read_labelled(tmp_path / "out")
    assert [(s.problem.question.split()[2], s.labels) for s in kept] == [
        ("1", (1.0, 1.0)),
        ("2", (1.0, 1.0)),
        ("3", (1.0, 1.0)),
        ("1", (1.0, 0.0)),
    ]
    assert metrics["rules"] == {"duplicate": 2, "blank_step": 1, "contaminated": 1}
    assert (metrics["solutions_in"], metrics["solutions_out"], metrics["benchmark_rows"]) == (8, 4, 1)
    assert metrics["funnel"][-1]["out"] == 4
    assert metrics["sources"] == {
        one["path"]: {"rows_in": 5, "solutions_in": 4, "solutions_out": 4},
        two["path"]: {"rows_in": 3, "solutions_in": 3, "solutions_out": 0},
    }
    assert metrics["labels"]["wrong_steps"] == pytest.approx(1 / 8)
    bad = read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")
    assert len(bad) == 4
    assert any("with labels (1.0, 1.0)" in row["evidence"] for row in bad if row["rule"] == "duplicate")
    leak = next(row for row in bad if row["rule"] == "contaminated")
    assert bench["path"] in leak["evidence"]
    assert not (tmp_path / "out" / "held_out.parquet").exists()


def test_held_out_solutions_share_no_problem_with_the_rest(tmp_path: Path) -> None:
    rows = [*solved(*range(1, 21)), *solved(*range(1, 21), result=0)]
    sources = [entry(tmp_path / "one.jsonl", rows)]

    def run(name: str, **options: Any) -> tuple[set[str], set[str]]:
        config = CollectStepsConfig(sources=sources, held_out=0.2, stepwise="parquet", **options)
        metrics = collect_steps(config, tmp_path / name)
        train, held = read_labelled(tmp_path / name), read_labelled(tmp_path / name, "held_out")
        assert (len(train), len(held)) == (32, 8) == (metrics["solutions_out"], metrics["held_out"])
        assert metrics["stepwise_rows"] == 32
        assert {s.problem.role for s in train} == {"train"}
        assert {s.problem.role for s in held} == {"eval"}
        return {s.problem.id for s in train}, {s.problem.id for s in held}

    train, held = run("a")
    assert not train & held
    sources = [entry(tmp_path / "two.jsonl", rows[::-1])]
    assert run("b") == (train, held)
    assert run("c", seed=1) != (train, held)
    collect_steps(CollectStepsConfig(sources=sources), tmp_path / "a")
    assert not (tmp_path / "a" / "held_out.parquet").exists()
    assert not (tmp_path / "a" / "stepwise.parquet").exists()


def test_a_limit_draws_the_same_solutions_whatever_their_order(tmp_path: Path) -> None:
    def run(rows: list[dict[str, Any]], seed: int) -> set[str]:
        source = entry(tmp_path / "rows.jsonl", rows)
        metrics = collect_steps(CollectStepsConfig(sources=[source], limit=5, seed=seed), tmp_path / "out")
        assert metrics["rules"] == {"limit": 15}
        assert metrics["funnel"] == [{"rule": "limit", "in": 20, "dropped": 15, "out": 5}]
        return {s.problem.id for s in read_labelled(tmp_path / "out")}

    rows = solved(*range(1, 21))
    assert run(rows, 0) == run(rows[::-1], 0) != run(rows, 1)


def test_what_cannot_be_collected_is_refused(tmp_path: Path) -> None:
    train = entry(tmp_path / "train.jsonl", solved(1))
    test = entry(tmp_path / "test.jsonl", solved(2), role="eval")
    for options, message in [
        ({"sources": []}, "sources: is empty"),
        ({"sources": [train, test]}, r"train\.jsonl.*test\.jsonl"),
        ({"sources": [train], "benchmarks": [train]}, r"benchmarks\[0\].*role train"),
        ({"sources": [test], "held_out": 0.5}, "held_out: .*benchmarks"),
        ({"sources": [train], "held_out": 0.5}, "leaves none to train on"),
        ({"sources": [train], "held_out": 1.0}, "not a share"),
        ({"sources": [train], "limit": 0}, "less than 1"),
        ({"sources": [train], "benchmarks": [{**train, "role": "eval"}]}, "rule 'contaminated' took 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            collect_steps(CollectStepsConfig(**options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prm800k_without_what_shares_text_with_benchmarks(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    for file in (
        "math/math500.jsonl",
        "processbench/math.json",
        "step_labels/prm800k_validation_decoded.jsonl",
    ):
        shared_data(file)
    config = CollectStepsConfig(
        sources=[{"id": "prm800k/validation_decoded"}],
        benchmarks=[{"id": "math500"}, {"id": "processbench/math"}],
        held_out=0.1,
    )
    metrics = collect_steps(config, tmp_path)
    assert metrics["rules"] == {"contaminated": 299}
    assert (metrics["solutions_out"], metrics["held_out"]) == (908, 132)
