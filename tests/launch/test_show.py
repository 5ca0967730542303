from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.report.summary import duration, picked
from launch.cli import main


def accuracy(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "problems": 100}


def stage(folder: Path, status: str = "finished", metrics: Any = None, **manifest: Any) -> None:
    """A stage's folder as it is left behind."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"status": status, **manifest}))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))


def shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["show", str(folder)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("metrics", "counts", "numbers"),
    [
        (
            {"rows_in": 4000, "rows_out": 500, "problems_in": 9, "rejected": 0},
            ["4,000 -> 500 rows"],
            [],
        ),
        (
            {"rows": 500, "rejected": 3, "steps": 40, "loss_first": 2.3, "loss_last": None, "tokens": 98765},
            ["500 rows", "40 steps", "3 rejected", "98.8 k tokens"],
            ["loss 2.300 -> -"],
        ),
        (
            {
                "questions": 900,
                "left_out": {},
                "steps": 100,
                "reward_first": 0.25,
                "reward_last": 1.5,
                "length_first": 80.25,
                "length_last": 1234.5,
                "train_seconds": 9.0,
                "completion_tokens": 4_200_000,
                "warnings": {},
            },
            ["900 questions", "100 steps", "4.2 M completion tokens"],
            ["reward 0.250 -> 1.500, length 80.25 -> 1234"],
        ),
        (
            {"loss_before": 0.7, "auc_before": 0.5, "loss": 0.3, "auc": 0.9, "train_seconds": 3.0},
            [],
            ["loss 0.700 -> 0.300, auc 0.500 -> 0.900"],
        ),
        (
            {
                "sums pass@1": 0.2,
                "tokens": 500,
                "benchmarks": {
                    "sums": {
                        "problems": 100,
                        "accuracy": accuracy(0.2),
                        "maj@16": accuracy(0.3),
                        "maj@4": {},
                    },
                    "chains": {"pass@1": accuracy(0.5)},
                },
            },
            ["500 tokens"],
            ["sums 0.200 [0.150, 0.250], maj@16 0.300", "chains 0.500 [0.450, 0.550]"],
        ),
        (
            {"evaluations": ["R1", "small R1"], "sums accuracy R1": 0.1, "sums accuracy small R1": 0.25},
            [],
            ["sums accuracy 0.100 -> 0.250"],
        ),
        ({"problems": 9, "correct": 0.5, "seconds": 3, "flag": True}, ["9 problems"], ["correct 0.500"]),
        ({"benchmarks": ["x"], "evaluations": "x", "rows_in": "x", "rows_out": None}, [], []),
        ({}, [], []),
    ],
)
def test_what_a_line_shows(metrics: dict[str, Any], counts: list[str], numbers: list[str]) -> None:
    assert picked(metrics) == (counts, numbers)


def test_a_pipeline_fits_into_120_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    root = tmp_path / "r1"
    for number in range(1, 31):
        inputs = {f"run:{number - 1:02}_evaluate_cold_start": {}} if number > 1 else {"/x/data/q.jsonl": {}}
        metrics = {"tokens": 12345, "benchmarks": {"sums": {"accuracy": accuracy(number / 40)}}}
        stage(
            root / f"{number:02}_evaluate_cold_start",
            pipeline="r1",
            name="x",
            seconds=100 * number,
            inputs=inputs,
            metrics=metrics,
        )
    lines = shown(root, capsys).splitlines()
    assert lines[0] == f"{root}: 30 stages (30 finished), 12h55m"
    assert max(len(line) for line in lines[1:]) <= 120
    rows = [line.split() for line in lines if "_evaluate_cold_start" in line]
    assert len(rows) == 30
    assert rows[0][1:4] == ["finished", "1m40s", "q.jsonl"]
    assert rows[29][1:4] == ["finished", "50m00s", "29"]  # an input by its number
    assert rows[29][4:] == ["12.3", "k", "tokens", "sums", "0.750", "[0.700,", "0.800]"]


def test_stages_that_did_not_end_well_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "r1"
    stage(root / "01_running", "running", inputs={"run:00_gone": {}})
    stage(root / "02_failed", "failed", error="ValueError: dataset: [/b] holds no trace\nmore", inputs={})
    stage(root / "03_stopped", "interrupted", error="interrupted", inputs={})
    stage(root / "04_odd", inputs=["x"], seconds="x", metrics=[1])
    stage(root / "05_half")
    (root / "05_half" / "manifest.json").write_text('{"status": "fin')
    stage(root / "06_no_status")
    (root / "06_no_status" / "manifest.json").write_text("[]")
    stage(root / "07_new_kind", "paused", metrics={"accuracy": 0.5})
    text = shown(root, capsys)
    assert "7 stages (1 running, 1 failed, 1 interrupted, 3 unreadable, 1 paused)" in text
    assert "00_gone" in text
    assert "02_failed: ValueError: dataset: [/b] holds no trace\n" in text
    assert "03_stopped: " not in text
    for name, why in (
        ("04_odd", "metrics.json holds no metrics of a stage; delete it"),
        ("05_half", "manifest.json is not valid JSON"),
        ("06_no_status", "manifest.json is no manifest of a stage; delete it"),
    ):
        assert f"{name}: {root / name}/{why}" in text
    assert "accuracy 0.500" in text


def test_a_stage_without_most_of_its_manifest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage(tmp_path / "01_a", "failed", error="not a [/closing] tag", inputs={"run:00": {"stat": ""}})
    text = shown(tmp_path / "01_a", capsys)
    assert "not a [/closing] tag" in text
    assert '"run:00": null' in text
    (tmp_path / "01_a" / "manifest.json").write_text("{")
    assert main(["show", str(tmp_path / "01_a")]) == 2
    assert "manifest.json is not valid JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2s"), (48.4, "48s"), (59.7, "1m00s"), (725, "12m05s"), (3599.6, "1h00m"), (11_250, "3h07m")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
