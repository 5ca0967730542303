"""Tables of labelled solutions: what is written is read back, by us and by datasets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.schema import Problem, problem_id
from data.step_sources import load_steps, parse_step_source
from data.step_statistics import statistics
from data.step_tables import read_labelled, write_labelled, write_stepwise
from data.steps import LabelledSolution, fault

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
LABEL = st.sampled_from([0.0, 1.0, 0.25, 0.5]) | st.none()


@st.composite
def solutions(draw: st.DrawFn) -> LabelledSolution:
    steps = draw(st.lists(TEXT.filter(lambda t: "\n\n" not in t.strip()), min_size=1, max_size=4))
    labels = draw(st.lists(LABEL, min_size=len(steps), max_size=len(steps)))
    question = draw(TEXT).strip()
    return LabelledSolution(
        problem=Problem(id=problem_id(question), question=question, answer=draw(st.sampled_from(["", "4"]))),
        steps=tuple(steps),
        labels=tuple(labels),
        right=draw(st.sampled_from([None, True, False])),
        model="m",
        labeller="human",
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(solutions(), min_size=1, max_size=5))
def test_tables_give_back_what_was_written(tmp_path: Path, rows: list[LabelledSolution]) -> None:
    write_labelled(tmp_path, rows)
    assert read_labelled(tmp_path) == rows
    loaded = load_steps(parse_step_source({"path": str(tmp_path)}, "s"))
    assert loaded.solutions == [row for row in rows if fault(row.steps, row.labels, "\n\n") is None]
    assert len(loaded.solutions) + len(loaded.rejected) == len(rows)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(rows=st.lists(solutions(), min_size=1, max_size=5), kind=st.sampled_from(["jsonl", "parquet"]))
def test_stepwise_files_give_back_the_labels_before_the_first_unknown_one(
    tmp_path: Path, rows: list[LabelledSolution], kind: str
) -> None:
    path = tmp_path / f"stepwise.{kind}"
    labelled = [row for row in rows if row.labels[0] is not None]
    assert write_stepwise(path, rows) == len(labelled)
    if not labelled:
        return
    source = parse_step_source({"path": str(path), "form": "stepwise", "role": "train"}, "s")
    for read, row in zip(load_steps(source).solutions, labelled, strict=True):
        known = row.labels.index(None) if None in row.labels else len(row.labels)
        assert read.problem.id == row.problem.id
        assert read.steps == row.steps[:known]
        assert read.labels == tuple(float(label >= 0.5) for label in row.labels[:known] if label is not None)


def test_stepwise_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stepwise\.csv.*\.jsonl or \.parquet"):
        write_stepwise(tmp_path / "stepwise.csv", [])
    assert not list(tmp_path.iterdir())


def test_trl_reads_the_stepwise_file(tmp_path: Path) -> None:
    from datasets import load_dataset

    row = LabelledSolution(
        problem=Problem(id="a", question="q", answer=""),
        steps=("x", "y", "z"),
        labels=(1.0, 0.0, None),
        right=None,
    )
    for kind, builder in (("jsonl", "json"), ("parquet", "parquet")):
        path = tmp_path / f"stepwise.{kind}"
        write_stepwise(path, [row])
        dataset = load_dataset(builder, data_files=str(path), split="train", cache_dir=str(tmp_path / kind))
        assert list(dataset) == [{"prompt": "q", "completions": ["x", "y"], "labels": [True, False]}]
    assert json.loads((tmp_path / "stepwise.jsonl").read_text(encoding="utf-8"))["labels"] == [True, False]


def test_statistics_worked_by_hand() -> None:
    problem = Problem(id="a", question="q", answer="")
    rows = [
        LabelledSolution(problem=problem, steps=("ab", "c"), labels=(1.0, 1.0), right=True),
        LabelledSolution(problem=problem, steps=("a", "b", "c d"), labels=(0.75, 0.0, None), right=False),
        LabelledSolution(problem=problem, steps=("x",), labels=(0.0,), right=None),
    ]
    numbers = statistics(rows, count_tokens=lambda text: len(text.split()))
    assert {k: v for k, v in numbers.items() if isinstance(v, int)} == {
        "solutions": 3,
        "problems": 1,
        "steps": 6,
    }
    assert numbers["right_steps"] == pytest.approx(3 / 6)
    assert numbers["wrong_steps"] == pytest.approx(2 / 6)
    assert numbers["unlabelled_steps"] == pytest.approx(1 / 6)
    assert numbers["soft_labels"] == pytest.approx(1 / 5)
    assert (
        numbers["right_answers"]
        == numbers["wrong_answers"]
        == numbers["unknown_answers"]
        == pytest.approx(1 / 3)
    )
    assert numbers["first_error"] == {"-1": 1, "0": 1, "1": 1}
    assert numbers["steps_per_solution"] == {"mean": 2.0, "median": 2.0, "max": 3}
    assert numbers["characters_per_solution"] == {"mean": pytest.approx(9 / 3), "median": 3.0, "max": 5}
    assert numbers["tokens_per_solution"] == {"mean": pytest.approx(7 / 3), "median": 2.0, "max": 4}
    assert statistics([])["right_steps"] == 0.0
