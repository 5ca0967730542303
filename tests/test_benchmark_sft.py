"""`benchmarks.sft`: both sides do the same work, and the reference's own mask is ours."""

from __future__ import annotations

import pytest

from benchmarks.sft import OURS, REFERENCE, measure, ways
from benchmarks.sft_reference import ROWS_PER_STEP, completion_only
from benchmarks.sft_rows import Work, make_work, padding
from data.chat import IGNORED, Example


@pytest.fixture(scope="module")
def job() -> Work:
    return make_work(None, rows=16, max_length=256, batch=ROWS_PER_STEP, seed=1)


def test_padding_factor_closed_form() -> None:
    rows = [Example(input_ids=[1] * length, labels=[1] * length) for length in (2, 4, 1, 5)]
    assert padding(rows, 2) == (2 * 4 + 2 * 5) / 12
    assert padding(rows, 1) == 1


def test_order_has_the_padding_factor_of_the_population() -> None:
    job = make_work(None, rows=24, max_length=4096, batch=ROWS_PER_STEP, seed=0)
    assert padding(job.rows, ROWS_PER_STEP) == pytest.approx(job.padding_factor, rel=0.05)


def test_the_references_mask_is_that_of_the_rows(job: Work) -> None:
    batch = completion_only(job.response_template)([{"input_ids": row.input_ids} for row in job.rows])
    longest = max(len(row.input_ids) for row in job.rows)
    assert batch["labels"].tolist() == [
        row.labels + [IGNORED] * (longest - len(row.input_ids)) for row in job.rows
    ]
    assert batch["attention_mask"].sum().item() == sum(len(row.input_ids) for row in job.rows)


@pytest.mark.slow
def test_both_sides_do_the_same_work(job: Work) -> None:
    checks, turns = measure(job, ways(None, quick=True), rounds=1, layers=1)
    assert checks[OURS].loss == pytest.approx(checks[REFERENCE].loss, rel=1e-6)
    assert checks[OURS].positions == sum(len(row.input_ids) for row in job.rows)
    assert checks[REFERENCE].positions > checks[OURS].positions
    assert turns[OURS][0].steps == turns[REFERENCE][0].steps == 2
    assert turns[OURS][0].train_loss == pytest.approx(turns[REFERENCE][0].train_loss, rel=1e-5)


@pytest.mark.slow
def test_other_work_is_refused(job: Work) -> None:
    tried = ways(None, quick=True)
    wrapped = {"packing": True, "packing_strategy": "wrapped", "per_device_train_batch_size": 1}
    tried[REFERENCE] = tried[OURS]._replace(options=wrapped)  # documents see each other
    with pytest.raises(ValueError, match="not the same work"):
        measure(job, tried, rounds=1, layers=1)
