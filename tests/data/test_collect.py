"""Collect: dedup, decontamination, roles, the funnel, and the same rows twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.collect import CollectConfig, collect
from data.store import read_attempts, read_problems, read_rows


def entry(path: Path, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = {"question": "q", "answer": "a", **more.pop("columns", {})}
    return {"path": str(path), "role": "train", "columns": columns, **more}


def sums(*numbers: int) -> list[dict[str, Any]]:
    return [
        {"q": f"Ann has {n} pens and buys {n} more. How many pens has she now?", "a": 2 * n} for n in numbers
    ]


def test_the_funnel_adds_up(tmp_path: Path) -> None:
    one = entry(tmp_path / "one.jsonl", [*sums(1, 2, 3), {"q": "No answer?"}])
    two = entry(tmp_path / "two.jsonl", [*sums(3, 4), {"q": sums(2)[0]["q"].upper(), "a": 5}])
    bench = entry(tmp_path / "bench.jsonl", sums(4), role="eval")
    config = CollectConfig(sources=[one, two], benchmarks=[bench], ngram_words=0)
    metrics = collect(config, tmp_path / "out")
    assert [p.answer for p in read_problems(tmp_path / "out")] == ["2", "4", "6"]
    assert metrics["rows_in"] == 7
    assert metrics["rows_out"] == 3
    assert metrics["benchmark_rows"] == 1
    assert metrics["rules"] == {"duplicate": 2, "contaminated": 1, "missing_answer": 1}
    assert metrics["sources"] == {
        one["path"]: {"rows_in": 4, "rows_out": 3},
        two["path"]: {"rows_in": 3, "rows_out": 0},
    }
    bad = read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")
    assert len(bad) == metrics["rows_in"] - metrics["rows_out"]
    conflict = next(r for r in bad if r["rule"] == "duplicate" and '"5"' in r["row"])
    assert "whose answer is '4'" in conflict["evidence"]
    leak = next(r for r in bad if r["rule"] == "contaminated")
    assert str(tmp_path / "bench.jsonl") in leak["evidence"]
    assert not (tmp_path / "out" / "traces.parquet").exists()


def test_traces_stay_with_the_question_that_is_kept(tmp_path: Path) -> None:
    (row,) = sums(1)
    rows = [
        {**row, "t": "a"},
        {**row, "t": "b"},
        {**row, "a": 9, "t": "other gold"},
        {**sums(2)[0], "t": "leak"},
    ]
    source = entry(tmp_path / "traces.jsonl", rows, columns={"thinking": "t"})
    bench = entry(tmp_path / "bench.jsonl", sums(2), role="eval")
    metrics = collect(CollectConfig(sources=[source], benchmarks=[bench], ngram_words=0), tmp_path / "out")
    traces = read_attempts(tmp_path / "out", "traces")
    assert [(t.index, t.completion.thinking) for t in traces] == [(0, "a"), (1, "b")]
    assert metrics["traces_out"] == 2
    collect(CollectConfig(sources=[entry(tmp_path / "plain.jsonl", sums(3))]), tmp_path / "out")
    assert not (tmp_path / "out" / "traces.parquet").exists()


def test_the_same_config_gives_the_same_rows(tmp_path: Path) -> None:
    def ids(seed: int, name: str) -> list[str]:
        source = {"id": "small_world", "limit": 30, "options": {"max_steps": 4}}
        collect(CollectConfig(sources=[source], seed=seed), tmp_path / name)
        return [p.id for p in read_problems(tmp_path / name)]

    assert ids(1, "a") == ids(1, "b")
    assert ids(1, "a") != ids(2, "c")


def test_mixed_roles_and_wrong_benchmarks_are_refused_before_loading(tmp_path: Path) -> None:
    train = entry(tmp_path / "train.jsonl", sums(1))
    test = entry(tmp_path / "test.jsonl", sums(2), role="eval")
    with pytest.raises(ValueError, match=r"train\.jsonl.*test\.jsonl"):
        collect(CollectConfig(sources=[train, test]), tmp_path / "out")
    with pytest.raises(ValueError, match=r"benchmarks\[0\].*role train"):
        collect(CollectConfig(sources=[train], benchmarks=[train]), tmp_path / "out")
    with pytest.raises(ValueError, match="sources"):
        collect(CollectConfig(sources=[]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    collect(CollectConfig(sources=[test]), tmp_path / "out")
    assert {p.role for p in read_problems(tmp_path / "out")} == {"eval"}


def test_nothing_left_names_the_rule(tmp_path: Path) -> None:
    train = entry(tmp_path / "train.jsonl", sums(10, 11))
    bench = entry(
        tmp_path / "bench.jsonl",
        [{"q": "Bob has 3 pens. How many pens has she now? And he?", "a": 1}],
        role="eval",
    )
    with pytest.raises(ValueError, match=r"2 rows; rule 'contaminated' took 2.*ngram_words: 0"):
        collect(CollectConfig(sources=[train], benchmarks=[bench], ngram_words=6), tmp_path / "out")
    assert not (tmp_path / "out").exists()
