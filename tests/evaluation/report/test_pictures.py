"""Pictures of stage folders that are as stages write them, and of those that are not."""

from __future__ import annotations

import copy
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.audit import funnel
from data.figures import write_picture
from data.metric_log import write_row
from data.store import write_json
from evaluation.report.folder import FoundStage, find_stages
from evaluation.report.pictures import effects_picture, run_pictures, stage_pictures

SHARE = {"mean": 0.5, "low": 0.4, "high": 0.6, "problems": 20}
ESTIMATE = {"value": 0.5, "low": 0.4, "high": 0.6}
TOKENS = {"value": 80.0, "low": 70.0, "high": 90.0}
POINT = {"name": "Wait x 1", "thinking_tokens": TOKENS, "accuracy": ESTIMATE}
LOG = [{"step": step, "loss": 2 / step, "eval_loss": 1 / step} for step in range(1, 6)]
ROLLOUTS = {"rollouts/reward": 1.0, "rollouts/right": 0.5, "groups/all_right": 0.1, "groups/all_wrong": 0.2}
CHOICES = ("pass@1", "majority", "best_of_n", "weighted_best_of_n", "oracle")
GAIN = {"best_of_n_gain": SHARE, "weighted_best_of_n_gain": SHARE}
EFFECT = {"name": "sft_helps", "unit": "points", "verdict": "shown", "claim_is": "higher", "seeds": []}
EFFECT |= {"difference": {"mean": 5.0, "low": 2.0, "high": 8.0}}
SAME = [{"name": name, "value": SHARE, "change": None} for name in "ab"]
CURATED = {
    "rows_in": 100,
    "rows_out": 40,
    "funnel": funnel(100, {"too_hard": 50, "tags": 0, "not_drawn": 10}),
}
BIN = {"mean_score": 0.6, "right": 0.5, "steps": 9}

METRICS: dict[str, dict[str, Any]] = {
    "01_collect": {"rows_in": 100, "rows_out": 100, "funnel": []},
    "02_sample": {"attempts": 100},
    "03_curate": CURATED,
    "04_mix": {"parts": {"talk": {"in": 30, "out": 10}}},
    "05_sft": {"rows": 38},
    "06_grpo": {"questions": 100},
    "07_evaluate": {"benchmarks": {"chains": {"accuracy": SHARE, "pass@4": SHARE, "language_share": None}}},
    "08_compare": {},
    "09_test_time": {"benchmarks": {"chains": [{"method": "budget forcing", "points": [POINT]}]}},
    "10_label_steps": {"first_errors": {"-1": 30, "0": 10, "1": 5}},
    "11_evaluate_prm": {
        "sets": {"prm800k": {"calibration_error": 0.1, "reliability": [BIN]}},
        "attempts": {
            "best_of_n": [{"n": n, **dict.fromkeys(CHOICES, SHARE), **GAIN} for n in (1, 2, 4)],
        },
    },
}
FILES = {
    "05_sft": {"log_history.json": LOG},
    "08_compare": {
        "comparison.json": {
            "against": "first",
            "benchmarks": {"chains": {"metrics": {"accuracy": SAME, "formatted": SAME}}},
        }
    },
}
INPUTS = {"02_sample": ["01_collect"], "03_curate": ["02_sample"], "05_sft": ["03_curate"]}
NAMES = [
    "03-curate-funnel",
    "04-mix-parts",
    "05-sft-loss",
    "06-grpo-learning",
    "07-evaluate-shares",
    "08-compare-comparison",
    "09-test-time-scaling-chains",
    "10-label-steps-first-errors",
    "11-evaluate-prm-best-of-n",
    "11-evaluate-prm-reliability",
]


@pytest.fixture
def stages(tmp_path: Path) -> list[FoundStage]:
    """A run as its folders hold it."""
    for name, metrics in METRICS.items():
        folder = tmp_path / name
        manifest = {
            "stage": re.sub(r"^\d+_", "", name),
            "status": "finished",
            "seconds": 61.0,
            "tokens": 1_500,
        }
        inputs = {f"run:{each}": {} for each in INPUTS.get(name, [])}
        write_json(folder / "manifest.json", manifest | {"inputs": inputs})
        write_json(folder / "metrics.json", metrics)
        for file, content in FILES.get(name, {}).items():
            write_json(folder / file, content)
    for step in range(1, 4):
        write_row(
            tmp_path / "06_grpo", {"step": step, **{f"train/{key}": value for key, value in ROLLOUTS.items()}}
        )
    return find_stages(tmp_path)


@pytest.mark.filterwarnings("error::UserWarning")  # of a layout without room
def test_a_run_in_pictures(stages: list[FoundStage], tmp_path: Path) -> None:
    across = run_pictures(stages)
    assert [picture.name for picture in across] == ["run-accuracy", "run-funnel", "run-costs"]
    own = [picture for found in stages for picture in stage_pictures(found)]
    assert [picture.name for picture in own] == NAMES
    for picture in (*across, *own):
        svg = write_picture(picture, tmp_path / "pictures")
        bare = re.sub(r"var\(--\w+,#[0-9a-f]{6}\)", "", svg)
        assert re.findall(r"(?:fill|stroke): #\w+", bare) == [], picture.name
        assert json.loads((tmp_path / "pictures" / f"{picture.name}.json").read_text())
    funnel_rows = [(row["name"], row["value"]) for row in across[1].data["rows"]]
    assert funnel_rows == [
        ("problems collected", 100),
        ("completions sampled", 100),
        ("\u2212 too hard", 50),
        ("\u2212 not drawn", 40),
        ("rows trained on", 38),
    ]
    assert across[0].data == {"chains": [{"name": "evaluate", "mean": 50, "low": 40, "high": 60}]}


def test_effects_of_several_seeds() -> None:
    seeds = [{"difference": {"mean": mean, "low": 0.0, "high": 9.0}} for mean in (4.0, 6.0)]
    row = {**EFFECT, "seeds": seeds, "mean": 5.0, "low": -7.7, "high": 17.7}
    (drawn,) = effects_picture([row]).data["points"]
    assert (drawn["mean"], drawn["low"], drawn["high"], drawn["seeds"]) == (5.0, -7.7, 17.7, [4.0, 6.0])
    alone = {**row, "seeds": seeds[:1], "low": None, "high": None}
    (drawn,) = effects_picture([alone]).data["points"]
    assert (drawn["low"], drawn["high"]) == (0.0, 9.0)
    with pytest.raises(ValueError, match="none to draw"):
        effects_picture([])


ODD: tuple[Any, ...] = (None, "x\x00\ud800$_{", float("nan"), 10**400, [], {}, [1], {"a": 1}, True, -1, 0)


def mutants(value: Any) -> Iterator[Any]:
    """The value with each of its parts replaced by each odd one, or left out."""
    parts = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, part in parts:
        for odd in ODD:
            changed = copy.copy(value)
            changed[key] = odd
            yield changed
        if isinstance(value, dict):
            yield {other: kept for other, kept in value.items() if other != key}
        if isinstance(part, dict | list):
            for inner in mutants(part):
                changed = copy.copy(value)
                changed[key] = inner
                yield changed


def test_odd_content_gives_fewer_pictures(stages: list[FoundStage], tmp_path: Path) -> None:
    """Nothing raises, and whatever is given can be drawn (every 400th is)."""
    tried = drawn = 0
    for found in stages:
        for metrics in mutants(found.metrics):
            found.metrics.clear()
            found.metrics.update(metrics)
            pictures = stage_pictures(found)
            if tried % 400 == 0:
                pictures += run_pictures(stages)
                for picture in pictures:
                    write_picture(picture, tmp_path / "pictures")
                    drawn += 1
            tried += 1
        found.metrics.clear()
        found.metrics.update(METRICS[found.name])
    assert tried > 1_500
    assert drawn > 10


def test_odd_files_give_fewer_pictures(
    stages: list[FoundStage], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    by_name = {found.name: found for found in stages}
    (tmp_path / "05_sft" / "log_history.json").write_text("{" * 5_000)
    (tmp_path / "06_grpo" / "metrics.jsonl").write_bytes(b'\xff\x00\n[1]\n{"step": 1}\n{"step": 2, "tra')
    (tmp_path / "08_compare" / "comparison.json").unlink()
    with caplog.at_level(logging.INFO):
        for name in ("05_sft", "06_grpo", "08_compare"):
            assert stage_pictures(by_name[name]) == []
    assert "08_compare: a picture is left out (FileNotFoundError" in caplog.text


def test_import_is_light() -> None:
    code = "import sys, evaluation.report.pictures; print({'torch', 'matplotlib', 'trl'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_names_that_differ_stay_different(stages: list[FoundStage], tmp_path: Path) -> None:
    names = []
    for folder in ("03_curate", "03-curate", "03_Curate", "03 curate é"):
        write_json(tmp_path / folder / "manifest.json", {"stage": "curate", "status": "finished"})
        write_json(tmp_path / folder / "metrics.json", CURATED)
    for found in find_stages(tmp_path):
        names += [picture.name for picture in stage_pictures(found) if found.stage == "curate"]
    methods = METRICS["09_test_time"]["benchmarks"]["chains"]
    write_json(
        tmp_path / "09_test_time" / "metrics.json", {"benchmarks": dict.fromkeys(("a b", "a-b"), methods)}
    )
    (found,) = find_stages(tmp_path / "09_test_time")
    names += [picture.name for picture in stage_pictures(found)]
    assert len(names) == len(set(names)) == 6
