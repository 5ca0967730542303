"""Rows of metrics: appended, cut by a kill, gone on with, of several processes, and reported."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.heartbeat import FOLDER, PHASES, beat, phase, start_heartbeat, stop_heartbeat
from data.metric_log import FILE, mend, read_metrics, write_row
from data.progress import Progress
from data.store import fingerprint
from tests.data.wandb_runs import wandb_history

ROOT = Path(__file__).resolve().parents[2]


def test_a_line_that_a_kill_has_cut_is_skipped_and_taken_out(tmp_path: Path):
    for step in (1, 2, 3):
        write_row(tmp_path, {"step": step, "train/loss": math.nan, "train/reward": 0.5})
    path = tmp_path / FILE
    path.write_text(path.read_text()[:-9])
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    mend(tmp_path)
    write_row(tmp_path, {"step": 3})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["train/loss"] is None
    assert rows[0]["time"] > 1.7e9


def test_steps_that_are_done_again_are_not_told_twice(tmp_path: Path):
    write_row(tmp_path, {"done": 4, "unit": "solution"})
    for step in (1, 2, 3, 4):
        write_row(tmp_path, {"step": step})
    mend(tmp_path, last_step=2)
    assert [row.get("step") for row in read_metrics(tmp_path)] == [None, 1, 2]
    before = (tmp_path / FILE).stat()
    mend(tmp_path, last_step=2)
    assert (tmp_path / FILE).stat().st_ino == before.st_ino
    mend(tmp_path / "none")


def test_only_the_end_is_read_where_that_is_asked(tmp_path: Path):
    for step in range(1000):
        write_row(tmp_path, {"step": step})
    rows = read_metrics(tmp_path, last_bytes=1000)
    assert 5 < len(rows) < 50
    assert rows[-1]["step"] == 999


def test_rows_are_no_part_of_a_result(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    before = fingerprint(tmp_path)
    write_row(tmp_path, {"step": 1})
    start_heartbeat(tmp_path, None)
    stop_heartbeat()
    assert fingerprint(tmp_path) == before


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Path]:
    start_heartbeat(tmp_path, None)
    yield tmp_path
    stop_heartbeat()


def test_a_row_sums_over_processes_and_its_phases_are_all_of_the_time(stage: Path):
    other = {"rank": 1, "done": 30, "total": 50, "tokens": 600, "rss_gib": 1000.0}
    (stage / FOLDER / "1.json").write_text(json.dumps(other))
    with Progress(total=50, initial=10, unit="completion") as bar, phase("generate"):
        bar.update(5, tokens=100, right=0.25)
        bar._tell()
        (stage / FOLDER / "1.json").unlink()  # it has finished its part
        bar.update(1, tokens=7)
    row, last = read_metrics(stage)
    assert (last["done"], last["perf/tokens"]) == (46, 7)
    assert (row["done"], row["total"], row["unit"], row["right"]) == (45, 100, "completion", 0.25)
    assert row["memory/rss_gib"] == 1000.0
    seconds = {name: row[f"time/{name}"] for name in PHASES}
    assert row["perf/tokens"] == 700
    assert row["perf/tokens_per_second"] * sum(seconds.values()) >= 700 * 0.99  # load came before the bar
    assert row.keys() >= {f"time/{name}" for name in PHASES}


def test_a_stage_that_goes_on_writes_behind_a_line_that_was_cut(stage: Path):
    (stage / FILE).write_text('{"done": 1}\n{"done": 2, "to')
    with Progress(total=4, initial=2, unit="row") as bar:
        bar.update(2)
    assert [row["done"] for row in read_metrics(stage)] == [1, 4]


def test_other_processes_write_no_rows(stage: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    with Progress(total=2, unit="row") as bar:
        bar.update(2)
    assert read_metrics(stage) == []


def test_a_bar_outside_of_a_stage_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert list(Progress([1, 2, 3], unit="row")) == [1, 2, 3]
    beat()
    assert list(tmp_path.iterdir()) == []


def test_wandb_gets_the_rows_of_a_stage_that_does_not_train(tmp_path: Path):
    pytest.importorskip("wandb")
    questions = [{"question": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(20)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    recipe = tmp_path / "sums" / "01_collect.yaml"
    recipe.parent.mkdir()
    recipe.write_text(
        "stage: collect\nenv: {SLOWTHINK_REPORT_TO: wandb}\n"
        f"sources:\n  - {{path: {tmp_path / 'sums.jsonl'}, role: train, licence: MIT}}\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment = {**kept, "SLOWTHINK_RUNS": str(tmp_path / "runs"), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "data.collect", "--config", str(recipe)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
    folder = tmp_path / "runs" / "sums" / "01_collect"
    rows = read_metrics(folder)
    run, reported = wandb_history(folder)
    assert (run.display_name, run.run_group, run.project) == ("sums/01_collect", "sums", "slowthink-sums")
    assert rows
    assert len(reported) == len(rows)
    for row, sent in zip(rows, reported, strict=True):
        assert sent.items() >= {k: v for k, v in row.items() if k != "time" and v is not None}.items()
