"""Sources of labelled solutions: entries, files with every kind of bad row, real sets with exact counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data.known_steps import KNOWN_STEPS
from data.schema import problem_id
from data.sources import refuse_eval_rows
from data.step_sources import load_steps, parse_step_source
from data.step_statistics import statistics
from data.step_tables import write_labelled

ROW = {"prompt": "What is 1+1?", "completions": ["It is 2.", "Done."], "labels": [True, True]}


def file_entry(path: Path, *rows: object, **more: Any) -> dict[str, Any]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"path": str(path), "form": "stepwise", "role": "train", **more}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("processbench/gsm8k", "not a mapping"),
        ({"id": "processbench/gsm8k", "rol": "eval"}, r"sets\[1\]\.rol: unknown key.*'role'"),
        ({"id": "processbench/gsm8k", "limit": "many"}, r"sets\[1\]\.limit"),
        ({"id": "processbench/gsm8k", "limit": 0}, r"sets\[1\]\.limit: 0 is less than 1"),
        ({"id": "processbench/gsm8k", "role": "train"}, "is a benchmark"),
        ({"id": "processbench/gsm8k", "form": "stepwise"}, "is a known set; drop form"),
        ({"id": "mathshepherd"}, r"sets\[1\]\.id: .*did you mean 'math_shepherd'"),
        ({"id": "processbench/gsm8", "role": "eval"}, r"form.*did you mean 'processbench/gsm8k'"),
        ({"id": "a/b", "form": "step_labels"}, "give its folder with `path:`"),
        ({"id": "a/b", "form": "stepwise"}, r"sets\[1\]\.role"),
        ({"path": "x.jsonl"}, r"sets\[1\]\.form: say the format of x\.jsonl: one of step_labels, stepwise"),
        ({"path": "x.jsonl", "form": "stepvise"}, "did you mean 'stepwise'"),
        ({"path": "x.jsonl", "form": "stepwise", "role": "eval", "split": "test"}, "only split held_out"),
        ({"id": "processbench/math", "path": "x"}, "either `id` or `path`"),
        ({"id": "prm800k/train", "neutral": "good"}, r"neutral: 'good' is not one of 'right'"),
        ({}, "either `id` or `path`"),
    ],
)
def test_bad_entries_are_named(entry: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_step_source(entry, "sets[1]")


def test_known_sets_fill_in_what_they_know() -> None:
    source = parse_step_source({"id": "processbench/gsm8k"}, "sets[0]")
    assert (source.form, source.role, source.labeller) == ("processbench", "eval", "human")
    assert source.name == "processbench/gsm8k"
    roles = {id: known.split.role for id, known in KNOWN_STEPS.items()}
    benchmarks = ("processbench", "bigbench_mistake", "mr_ben")
    assert all(role == "eval" for id, role in roles.items() if id.startswith(benchmarks))
    assert {id for id, role in roles.items() if role == "train"} == {
        "math_shepherd",
        "prm800k/train",
        "prm800k/validation_decoded",
    }


def test_bad_rows_are_counted_by_rule(tmp_path: Path) -> None:
    rows = [
        ROW,
        {**ROW, "completions": ["It is 2.", " "]},
        {**ROW, "completions": ["It is\n\n2.", "Done."]},
        {**ROW, "labels": [True]},
        {**ROW, "labels": [True, 1.5]},
        {**ROW, "labels": [None, None]},
        {**ROW, "labels": [True, None]},
        {**ROW, "labels": [0.25, 1]},
        {**ROW, "completions": []},
        {**ROW, "completions": "It is 2."},
        {**ROW, "completions": ["It is 2.", 3]},
        {**ROW, "prompt": " "},
        {"prompt": "q", "labels": [True]},
        ["no", "mapping"],
    ]
    source = parse_step_source(file_entry(tmp_path / "x.jsonl", *rows), "sources[0]")
    loaded = load_steps(source)
    assert loaded.rows_in == len(rows)
    assert Counter(row.rule for row in loaded.rejected) == {
        "blank_step": 1,
        "separator_in_step": 1,
        "labels_mismatch": 1,
        "bad_label": 1,
        "no_label": 1,
        "no_step": 1,
        "not_a_list": 1,
        "step_not_text": 1,
        "missing_question": 1,
        "malformed": 1,
        "not_an_object": 1,
    }
    assert [s.labels for s in loaded.solutions] == [(1.0, 1.0), (1.0, None), (0.25, 1)]
    blank = next(row for row in loaded.rejected if row.rule == "blank_step")
    assert blank.id == problem_id(ROW["prompt"])
    assert "It is 2." in blank.row
    assert len(load_steps(source, separator="is").rejected) == len(rows)
    assert [s.labels for s in load_steps(source, separator="\n").solutions] == [
        (1.0, 1.0),
        (1.0, None),
        (0.25, 1),
    ]


def test_a_missing_column_an_empty_file_and_a_limit(tmp_path: Path) -> None:
    entry = file_entry(tmp_path / "x.jsonl", {"prompt": "q", "completions": ["a"], "label": [True]})
    with pytest.raises(ValueError, match=r"sources\[0\].*'labels'; form stepwise needs it; there are comp"):
        load_steps(parse_step_source(entry, "sources[0]"))
    with pytest.raises(ValueError, match=r"sources\[0\].*has no rows"):
        load_steps(parse_step_source(file_entry(tmp_path / "y.jsonl"), "sources[0]"))
    rows = [{**ROW, "prompt": f"What is {n}+1?"} for n in range(20)]
    first = load_steps(parse_step_source(file_entry(tmp_path / "z.jsonl", *rows, limit=3), "s"))
    assert [s.problem.question for s in first.solutions] == [row["prompt"] for row in rows[:3]]
    drawn = [
        load_steps(
            parse_step_source(file_entry(tmp_path / "z.jsonl", *rows, limit=3, seed=seed), "s")
        ).solutions
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_sets_that_are_nowhere_say_where_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLOWTHINK_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"not on the hub; put step_labels/mr_ben_math.jsonl \(github.com"):
        load_steps(parse_step_source({"id": "mr_ben/math"}, "sets[0]"))


def test_our_own_tables_are_read_back(tmp_path: Path) -> None:
    loaded = load_steps(parse_step_source(file_entry(tmp_path / "x.jsonl", ROW), "s"))
    write_labelled(tmp_path / "stage", loaded.solutions)
    write_labelled(tmp_path / "stage", loaded.solutions * 2, "held_out")
    source = parse_step_source({"path": str(tmp_path / "stage")}, "s")
    assert (source.form, source.role) == ("step_labels", None)
    assert load_steps(source).solutions == loaded.solutions
    held_out = parse_step_source({"path": str(tmp_path / "stage"), "split": "held_out", "role": "eval"}, "s")
    assert [s.problem.role for s in load_steps(held_out).solutions] == ["eval", "eval"]


REAL = {
    "processbench/gsm8k": (400, 400, 375, 2082, 1361, 207),
    "processbench/math": (1000, 1000, 955, 6505, 3772, 594),
    "bigbench_mistake/multistep_arithmetic": (300, 300, 300, 1506, 855, 238),
    "bigbench_mistake/tracking_shuffled_objects": (300, 300, 300, 1617, 891, 260),
    "mr_ben/math": (918, 918, 308, 7148, 2596, 769),
    "prm800k/validation_decoded": (1339, 1339, 216, 9377, 8267, 1110),
}
"""Rows, solutions, problems, steps, right steps, wrong steps of the sets in the data folder."""


@pytest.mark.parametrize("id", REAL)
def test_real_sets_are_read_whole(shared_data: Callable[[str], Path], id: str) -> None:
    shared_data(KNOWN_STEPS[id].split.file)
    loaded = load_steps(parse_step_source({"id": id}, "sets[0]"))
    labels = [label for solution in loaded.solutions for label in solution.labels]
    numbers = statistics(loaded.solutions)
    assert not loaded.rejected
    assert REAL[id] == (
        loaded.rows_in,
        numbers["solutions"],
        numbers["problems"],
        numbers["steps"],
        labels.count(1.0),
        labels.count(0.0),
    )


def test_first_errors_of_real_sets_are_those_of_their_files(shared_data: Callable[[str], Path]) -> None:
    rows = json.loads(shared_data("processbench/math.json").read_text(encoding="utf-8"))
    solutions = load_steps(parse_step_source({"id": "processbench/math"}, "s")).solutions
    assert [s.first_error for s in solutions] == [row["label"] for row in rows]
    assert [s.right for s in solutions] == [row["final_answer_correct"] for row in rows]
    lines = (
        shared_data("step_labels/prm800k_validation_decoded.jsonl").read_text(encoding="utf-8").splitlines()
    )
    solutions = load_steps(parse_step_source({"id": "prm800k/validation_decoded"}, "s")).solutions
    assert [s.first_error for s in solutions] == [json.loads(line)["first_error"] for line in lines]
    neutral = parse_step_source({"id": "prm800k/validation_decoded", "neutral": "unlabelled"}, "s")
    loaded = load_steps(neutral)
    labels = [label for s in loaded.solutions for label in s.labels]
    assert Counter(labels) == {1.0: 7661, 0.0: 1110, None: 597}
    assert Counter(row.rule for row in loaded.rejected) == {"no_label": 1}


def test_benchmarks_are_refused_by_training(shared_data: Callable[[str], Path]) -> None:
    shared_data("processbench/gsm8k.json")
    solutions = load_steps(parse_step_source({"id": "processbench/gsm8k"}, "s")).solutions
    with pytest.raises(ValueError, match=r"train_dataset: .*role eval.*processbench/gsm8k \(400 rows\)"):
        refuse_eval_rows((solution.problem for solution in solutions), "train_dataset")
