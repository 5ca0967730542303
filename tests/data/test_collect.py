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


def test_near_duplicates_name_the_kept_question_whatever_the_order(tmp_path: Path) -> None:
    long = "Ann has 3 pens in a box that she found on the way to the house of her aunt. How many has she?"
    one = [{"q": long, "a": 3}, {"q": long + " Explain.", "a": 3}, {"q": long.replace("3", "4"), "a": 4}]
    two = [{"q": long.replace("house", "flat"), "a": 3}, {"q": long + " Explain!", "a": 5}]

    def run(rows: list[dict[str, Any]], name: str) -> set[str]:
        first = entry(tmp_path / "one.jsonl", rows)
        sources = [first, entry(tmp_path / "two.jsonl", two)]
        metrics = collect(CollectConfig(sources=sources, near_duplicates=0.6), tmp_path / name)
        assert metrics["rules"] == {"near_duplicate": 2}
        bad = read_rows(tmp_path / name / "rejected" / "rows.parquet", "rejected")
        kept = read_problems(tmp_path / name)
        for row in (row for row in bad if row["rule"] == "near_duplicate"):
            assert row["evidence"].startswith("similarity 0.")
            assert any(p.id in row["evidence"] and p.source == first["path"] for p in kept)
        return {p.id for p in kept}

    assert len(run(one, "a")) == 3
    assert run(one, "a") == run(one[::-1], "b")


def test_odd_rows_do_not_stop_the_others(tmp_path: Path) -> None:
    leak = sums(7)[0]["q"]
    rows = [
        *sums(1, 2),
        {"q": "a much longer text " * 500_000 + leak, "a": 1},
        {"q": "\ud800 What is \u202e 5 plus 6 \u0000 then?", "a": 11},
        {"q": ["not", "text"], "a": 1},
        {"q": "Which list is this?", "a": [1]},
    ]
    bench = entry(tmp_path / "bench.jsonl", sums(7), role="eval")
    source = entry(tmp_path / "rows.jsonl", rows)
    config = CollectConfig(sources=[source], benchmarks=[bench], ngram_words=13, near_duplicates=0.7)
    metrics = collect(config, tmp_path / "out")
    assert metrics["rules"] == {"contaminated": 1, "question_not_text": 1, "answer_not_text": 1}
    assert [p.answer for p in read_problems(tmp_path / "out")] == ["2", "4", "11"]


def test_a_benchmark_without_questions_is_an_error(tmp_path: Path) -> None:
    source = entry(tmp_path / "train.jsonl", sums(1))
    bench = entry(tmp_path / "bench.jsonl", [{"q": "", "a": 1}], role="eval")
    with pytest.raises(ValueError, match=r"benchmarks\[0\].*bench\.jsonl"):
        collect(CollectConfig(sources=[source], benchmarks=[bench]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
