"""Labelled solutions as training rows: ids, judged columns, targets, and what is left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from data.step_formats import MarkerFormat, StepFormatOptions
from data.steps import LabelledSolution
from tests.training.prm_runs import problem
from training.preflight import check_rejected
from training.prm import split_by_problem
from training.step_rows import (
    IGNORED,
    Rows,
    StepRow,
    StepRows,
    class_weights,
    collate,
    step_rows,
    steps_shown,
)

SOLUTION = LabelledSolution(
    problem=problem(1),
    steps=("1 + 2 = 3", "3 + 4 = 8", "so 8", "and 8"),
    labels=(1.0, 0.25, 0.75, None),
    right=False,
)


@pytest.fixture
def marked(tokenizer: Any) -> MarkerFormat:
    return MarkerFormat(tokenizer, StepFormatOptions())


def rows_of(marked: MarkerFormat, *solutions: LabelledSolution, **options: Any) -> StepRows:
    return step_rows(solutions, marked, **{"separator": "\n\n", "max_length": 2048, **options})


@pytest.mark.parametrize(
    ("options", "judged", "targets"),
    [
        ({}, [0, 1, 2], [1, 0, 1]),
        ({"soft": True}, [0, 1, 2], [1, 0.25, 0.75]),
        ({"until_first_error": True}, [0, 1], [1, 0]),
        ({"until_first_error": True, "soft": True}, [0, 1], [1, 0.25]),
        ({"mode": "orm"}, [3], [0]),
    ],
)
def test_which_steps_are_judged_and_by_what(
    marked: MarkerFormat, options: dict[str, Any], judged: list[int], targets: list[float]
) -> None:
    encoded = marked.encode(SOLUTION.problem.question, SOLUTION.steps)
    [row] = rows_of(marked, SOLUTION, **options).rows
    assert row.targets == targets
    assert row.ends == [encoded.ends[step] for step in judged]
    assert list(row.ids) == encoded.ids[: row.ends[-1] + 1]
    assert {row.ids[end] for end in row.ends} == {marked.marker_ids[-1]}


def test_unlabelled_steps_are_read_and_not_judged(marked: MarkerFormat) -> None:
    gap = replace(SOLUTION, labels=(None, 1.0, None, 0.0))
    [row] = rows_of(marked, gap).rows
    whole = marked.encode(gap.problem.question, gap.steps)
    assert (row.ends, list(row.ids)) == ([whole.ends[1], whole.ends[3]], whole.ids)


def test_a_row_is_the_prompt_and_each_step_with_the_marker_behind_it(
    marked: MarkerFormat, tokenizer: Any
) -> None:
    [row] = rows_of(marked, replace(SOLUTION, labels=(1.0, 0.0, 1.0, 1.0))).rows
    text = tokenizer.decode(list(row.ids))
    assert text.endswith("assistant\n1 + 2 = 3\n\n3 + 4 = 8\n\nso 8\n\nand 8\n\n")
    assert steps_shown(tokenizer, row).count("\x1b[31m") == 1


@pytest.mark.parametrize(
    ("changed", "options", "rule", "evidence"),
    [
        ({"steps": (), "labels": ()}, {}, "no_step", "has no steps"),
        ({"steps": ("1", " \n", "2", "3")}, {}, "blank_step", "step 1"),
        ({"steps": ("1", "2", "a\n\nb", "3")}, {}, "separator_in_step", "step 2"),
        ({"labels": (1.0, 0.0)}, {}, "labels_mismatch", "2 labels for 4 steps"),
        ({"labels": (1.0, 2.0, 0.0, 0.0)}, {}, "bad_label", "label 1 is 2.0"),
        ({"labels": (None,) * 4}, {}, "no_label", "no step has a label"),
        ({"steps": ("1", "2", "<|im_end|>", "3")}, {}, "unencodable", "special token '<|im_end|>'"),
        ({"problem": replace(problem(1), question="<|im_start|>?")}, {}, "unencodable", "question contains"),
        ({}, {"max_length": 20}, "overlong", "> max_length 20"),
        ({"right": None}, {"mode": "orm"}, "unknown_outcome", "final answer"),
        ({"steps": ()}, {"mode": "orm"}, "no_step", "has no steps"),
        ({"steps": ("1", " ", "2", "3")}, {"mode": "orm"}, "blank_step", "step 1"),
        (
            {"steps": ("1", "2", "3", "4 " * 900)},
            {"mode": "orm", "max_length": 900},
            "overlong",
            "max_length",
        ),
    ],
)
def test_solutions_that_cannot_be_trained_on_are_kept_with_the_rule(
    marked: MarkerFormat, changed: dict[str, Any], options: dict[str, Any], rule: str, evidence: str
) -> None:
    made = rows_of(marked, SOLUTION, replace(SOLUTION, **changed), **options)
    bad = made.rejected[-1]
    assert bad.rule == rule
    assert evidence in bad.evidence
    assert len(made.rows) == (0 if "max_length" in options and not changed else 1)


def test_steps_behind_max_length_are_left_out(marked: MarkerFormat) -> None:
    encoded = marked.encode(SOLUTION.problem.question, SOLUTION.steps)
    for length, judged in ((encoded.ends[2] + 1, 3), (encoded.ends[2], 2), (encoded.ends[0] + 1, 1)):
        made = rows_of(marked, SOLUTION, max_length=length)
        [row] = made.rows
        assert (len(row.targets), len(row.ids)) == (judged, encoded.ends[judged - 1] + 1)
        assert made.shortened == (judged < 3)
    assert [bad.rule for bad in rows_of(marked, SOLUTION, max_length=encoded.ends[0]).rejected] == [
        "overlong"
    ]


def test_batches_have_the_targets_where_each_row_is_judged(marked: MarkerFormat) -> None:
    other = replace(SOLUTION, steps=("7", "8 + 9"), labels=(0.0, 1.0))
    rows = Rows(rows_of(marked, SOLUTION, other).rows)
    batch = collate([rows[0], rows[1]])
    columns = batch["columns"].tolist()
    assert columns == sorted({*rows[0]["ends"], *rows[1]["ends"]})
    for i in range(2):
        length = len(rows[i]["input_ids"])
        assert batch["input_ids"][i].tolist()[:length] == list(rows[i]["input_ids"])
        assert batch["attention_mask"][i].tolist() == [
            int(t < length) for t in range(batch["input_ids"].shape[1])
        ]
        labels = dict(zip(columns, batch["labels"][i].tolist(), strict=True))
        judged = dict(zip(rows[i]["ends"], rows[i]["targets"], strict=True))
        assert labels == {column: judged.get(column, IGNORED) for column in columns}


def some_rows(*targets: list[float]) -> list[StepRow]:
    from array import array

    return [
        StepRow(problem=f"p{i}", ids=array("i", range(9)), ends=list(range(len(t))), targets=t)
        for i, t in enumerate(targets)
    ]


def test_class_weights_make_both_classes_count_the_same() -> None:
    wrong, right = class_weights(some_rows([1, 1, 1, 0.5], [0]))
    assert (wrong * 1.5, right * 3.5) == pytest.approx((2.5, 2.5))
    for targets, name in (([1.0, 1.0], "right"), ([0.0], "wrong")):
        with pytest.raises(ValueError, match=f"all {len(targets)} labels are {name}"):
            class_weights(some_rows(targets))


def test_no_problem_is_both_trained_on_and_held_out() -> None:
    rows = some_rows(*[[1.0]] * 40)
    rows += [replace(row, targets=[0.0]) for row in rows]
    train, held_out = split_by_problem(rows, 0.1, seed=1)
    assert (len(train), len(held_out)) == (72, 8)
    assert not {row.problem for row in train} & {row.problem for row in held_out}
    assert split_by_problem(rows, 0.1, seed=1) == (train, held_out)
    assert split_by_problem(rows, 0.1, seed=2) != (train, held_out)
    assert len(split_by_problem(rows, 0.001, seed=1)[1]) == 2
    assert split_by_problem(rows, 0.0, seed=1) == (rows, [])
    with pytest.raises(ValueError, match=r"0\.05 of 1 problems leaves none to train on"):
        split_by_problem(rows[:1], 0.05, seed=1)


def test_too_many_unusable_solutions_are_refused(marked: MarkerFormat) -> None:
    blank = replace(SOLUTION, steps=("1", " ", "2", "3"))
    made = rows_of(marked, SOLUTION, SOLUTION, SOLUTION, blank)
    check_rejected("dataset", len(made.rows), made.rejected, 0.25)
    with pytest.raises(ValueError, match=r"dataset: 1 of 4 cannot be used.*\n.*blank_step: step 1"):
        check_rejected("dataset", len(made.rows), made.rejected, 0.2)
    none = rows_of(marked, blank)
    with pytest.raises(ValueError, match="1 of 1 cannot"):
        check_rejected("dataset", len(none.rows), none.rejected, 0.999)
    assert Counter(bad.rule for bad in made.rejected) == {"blank_step": 1}
