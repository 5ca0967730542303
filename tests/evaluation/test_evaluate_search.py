"""Stage evaluate_search on tables of searches, end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from data.recipe import load_recipe
from data.stage import configure
from data.store import read_json
from evaluation import evaluate_search as stage
from evaluation.evaluate_search import EvaluateSearchConfig, _ranks, evaluate_search
from evaluation.report.folder import FoundStage
from evaluation.report.pictures import stage_pictures
from evaluation.search_plot import lines_of
from inference.search.planner import Planner
from launch.stages import find_stage
from tests.evaluation.search_rows import result, world, write


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("evaluate_search")
    source = write(folder / "search", world(40))
    config = EvaluateSearchConfig(searches=[source], bins=2, costs=["generated_tokens"])
    return folder / "out", evaluate_search(config, folder / "out")


def test_metrics(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = finished
    assert json.loads(json.dumps(metrics, allow_nan=False))
    assert (metrics["problems"], len(metrics["settings"]), len(metrics["options"])) == (40, 5, 13)
    assert metrics["difficulty"]["correlation"] > 0.3
    assert [row["problems"] for row in metrics["bins"]["oracle_bins"]] == [20, 20]
    assert sum(row["problems"] for row in metrics["bins"]["model_bins"]) == 40
    hard, easy = (
        {option["setting"]: option["mean"] for option in row["options"]}
        for row in metrics["bins"]["oracle_bins"]
    )
    assert hard["beam n=16 width=4"] > hard["majority n=16"] + 0.3
    assert easy["majority n=16"] > 0.9
    rows = metrics["compute_optimal"]["generated_tokens"]["budgets"]
    costs = [10, 20, 40, 48, 80, 96, 160, 192]
    assert [row["budget"] for row in rows] == pytest.approx([1.05 * cost for cost in costs])
    for row in rows:
        for name in ("fixed", "oracle_bins", "model_bins"):
            assert row["bound"]["mean"] >= row[name]["mean"] - 1e-12
            assert row[name]["mean_cost"] <= row["budget"]  # costs are the same for all problems here
    assert metrics["oracle bins"] == rows[-1]["oracle_bins"]["mean"]
    assert folder.is_dir()


def test_files(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = finished
    planner = Planner.load(folder)
    assert planner.probe == 4
    assert planner.probe_cost == {"generated_tokens": 40}
    assert sum(planner.shares) == pytest.approx(1)
    assert planner.plan(1.0, 0).strategy in ("majority", "best_of_n")
    names = {path.name for path in (folder / "plots").iterdir()}
    stems = (
        "accuracy-generated_tokens",
        "accuracy-flops",
        "accuracy-seconds",
        "oracle_bins-generated_tokens",
        "model_bins-generated_tokens",
        "compute-optimal-generated_tokens",
    )
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("png", "json")}
    assert imread(folder / "plots" / "accuracy-flops.png").shape[1] == 720
    found = FoundStage(
        folder=folder,
        name="19_search",
        stage="evaluate_search",
        manifest={},
        metrics=metrics,
        status="",
        problems=(),
    )
    assert [picture.name for picture in stage_pictures(found)] == [
        f"19-search-{stem.replace('_', '-')}" for stem in stems if "seconds" not in stem
    ]
    lines = read_json(folder / "plots" / "accuracy-generated_tokens.json")["lines"]
    assert [[point["n"] for point in points] for points in lines.values()] == [
        [1, 2, 4, 8, 16],
        [1, 2, 4, 8, 16],
        [4, 8, 16],
    ]
    page = (folder / "results.md").read_text()
    assert "| beam n=16 width=4 | weighted | best_of_n n=16 | weighted |" in page
    assert "## Compute-optimal by generated tokens" in page
    assert metrics["options"][0]["setting"] in page


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "write_plots", lambda folder, results: None)


def small(tmp_path: Path, **more: Any) -> EvaluateSearchConfig:
    rows = [result(i, "majority n=4", [0, 0, i % 3, i % 2]) for i in range(8)]
    rows += [result(i, "beam n=4 width=4", [0] * 4, scores=[0.5] * 4, width=4) for i in range(8)]
    source = write(tmp_path / "search", rows)
    return EvaluateSearchConfig(**{"searches": [source], "bins": 2, "costs": ["generated_tokens"], **more})


@pytest.mark.usefixtures("no_plots")
def test_oracle_has_no_planner(tmp_path: Path) -> None:
    metrics = evaluate_search(small(tmp_path, difficulty="oracle"), tmp_path / "out")
    assert not (tmp_path / "out" / "planner.json").exists()
    assert list(metrics["bins"]) == ["oracle_bins"]
    assert "model bins" not in metrics


def test_given_budgets_and_unknown_flops(tmp_path: Path) -> None:
    config = small(
        tmp_path, costs=["generated_tokens", "flops"], budgets={"generated_tokens": [10**6, 1, 40.0]}
    )
    rows = [result(i, "best_of_n n=4", [0, 1, 2, 3], scores=[0.1] * 4) for i in range(8)]
    rows = [replace(row, cost=replace(row.cost, policy_flops=nan)) for row in rows]
    config.searches.append(write(tmp_path / "unknown", rows))
    metrics = evaluate_search(config, tmp_path / "out")
    assert metrics["costs"] == list(metrics["compute_optimal"]) == ["generated_tokens"]
    assert [row["budget"] for row in metrics["compute_optimal"]["generated_tokens"]["budgets"]] == [40, 10**6]
    assert metrics["settings"][2]["cost"]["flops"] is None
    assert not (tmp_path / "out" / "plots" / "accuracy-flops.png").exists()
    config.costs = ["flops"]
    with pytest.raises(ValueError, match="not known for every setting; add generated_tokens"):
        evaluate_search(config, tmp_path / "none")


@pytest.mark.usefixtures("no_plots")
def test_an_auto_setting_is_shown_and_never_planned(tmp_path: Path) -> None:
    config = small(tmp_path)
    rows = [result(i, "auto generated_tokens=50", [0] * (i + 1), n=1) for i in range(8)]
    config.searches.append(write(tmp_path / "auto", rows))
    metrics = evaluate_search(config, tmp_path / "out")
    assert "auto generated_tokens=50" in [row["setting"] for row in metrics["options"]]
    planner = Planner.load(tmp_path / "out")
    assert "auto" not in {plan.strategy for plan in planner.overall}


@pytest.mark.usefixtures("no_plots")
def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need 10 problems, and there are 8"):
        evaluate_search(small(tmp_path, bins=5), tmp_path / "out")
    with pytest.raises(ValueError, match="no setting is within 3 generated tokens a problem; the cheapest"):
        evaluate_search(small(tmp_path, budgets={"generated_tokens": [3.0]}), tmp_path / "out")
    with pytest.raises(ValueError, match="set `probe: 4`"):
        evaluate_search(small(tmp_path, probe=9), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"searches": []}, "searches: give at least one"),
        ({"searches": ["a", "a"]}, "a folder repeats"),
        ({"bins": 0}, "bins: 0 must be at least 1"),
        ({"probe": 0}, "probe: 0 must be at least 1"),
        ({"costs": ["tokens"]}, "costs: 'tokens' is no unit"),
        ({"costs": []}, "must name at least one"),
        ({"budgets": {"tokens": [1]}}, "budgets: 'tokens' is no unit"),
        ({"budgets": {"seconds": [1]}}, "seconds is not among the costs"),
        ({"budgets": {"flops": [0]}}, "needs numbers above 0"),
    ],
)
def test_bad_fields_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluateSearchConfig(**{"searches": ["a"], **options})


def test_lines_are_by_strategy_or_by_width() -> None:
    def row(setting: str, n: int) -> dict[str, Any]:
        accuracy = {"mean": 0.5, "low": 0.4, "high": 0.6}
        cost = {"flops": 10.0 * n}
        return {
            "setting": setting,
            "strategy": setting.split()[0],
            "n": n,
            "accuracy": accuracy,
            "cost": cost,
        }

    rows = [row("beam n=8 width=2", 8), row("beam n=4 width=2", 4), row("beam n=4 width=4", 4)]
    rows += [row("dvts n=4 width=2", 4), row("dvts n=16 width=4", 16)]
    rows += [row("auto flops=2", 1), row("auto flops=4", 1)]
    lines = lines_of(rows, "flops")
    assert {label: [point["n"] for point in points] for label, points in lines.items()} == {
        "beam width=2": [4, 8],
        "beam width=4": [4],
        "dvts": [4, 16],
        "auto": [None, None],
    }


def test_ranks_of_ties() -> None:
    assert _ranks(np.array([0.5, 0.1, 0.5, 0.9])).tolist() == [2.5, 1, 2.5, 4]


def test_the_recipe_parses(tmp_path: Path) -> None:
    fields = {"stage": "evaluate_search", "searches": ["a"], "budgets": {"flops": [1.0e12]}, "bins": 3}
    (tmp_path / "01_x.yaml").write_text(yaml.safe_dump(fields))
    _, (made,) = configure(
        load_recipe(tmp_path / "01_x.yaml"), find_stage("evaluate_search").config_classes(), ["--probe", "2"]
    )
    assert (made.budgets, made.bins, made.probe) == ({"flops": [1e12]}, 3, 2)


def test_import_is_light() -> None:
    code = (
        "import sys, evaluation.evaluate_search;"
        "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
