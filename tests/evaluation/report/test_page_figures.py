"""Which figures the page of a run has, where, and what lies beside it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from data.store import read_json, write_json
from evaluation.report.build import build_report
from tests.evaluation.report.report_pages import problems, read, section
from tests.evaluation.report.run_folders import effect, make_run, stage, write_log


def test_results_are_in_the_order_of_a_reader(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    write_log(stage(run, "06_grpo"))
    for name in ("04_search", "05_effects"):
        shutil.rmtree(run / name)
    path = build_report([run])
    names = [figure.attributes["id"] for figure in section(read(path), "results").all("figure")]
    assert names == ["figure-run-accuracy", "figure-02-grpo-learning", "figure-run-costs"]
    assert 'id="figure-06-grpo-learning"' in path.read_text(encoding="utf-8")  # in its stage


def test_figures_of_a_former_page_are_removed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine")
    figures = build_report([run]).parent / "figures"
    before = {file.name for file in figures.iterdir()}
    gone = {f"02-grpo-learning.{kind}" for kind in ("svg", "png", "json")}
    assert gone < before
    (figures / "own.svg").write_text("of no page", encoding="utf-8")
    shutil.rmtree(run / "02_grpo")
    text = build_report([run]).read_text(encoding="utf-8")
    assert {file.name for file in figures.iterdir()} == before - gone | {"own.svg"}
    assert set(re.findall(r"'figures/([^']+)'", text)) == before - gone


def test_claims_that_not_every_run_measured_are_told(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    path = runs[1] / "05_effects" / "effects.json"
    more = {**effect("", 1.0), "name": "another"}
    write_json(path, {"effects": [*read_json(path)["effects"], more]})
    root = read(build_report(runs))
    assert len(section(root, "claims").all("table", "effects")[0].all("tr")) == 2
    assert [text for text in problems(root) if "another" in text] == [
        "claims not measured alike in every run: another"
    ]


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    run = tmp_path / "empty"
    (run / "report" / "index.html").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"cannot be written .* with --output FOLDER"):
        build_report([run])
