"""The tutorial as a reader follows it: its recipes are the files of docs/examples, its small twin runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from data.recipe import load_pipeline, references
from data.rollouts import read_rollouts
from data.store import iterate_rows, read_json, table_path
from data.thinking import THINK_TAGS
from launch.cli import main
from launch.pipeline import check_stage
from tests.docs.pages import PAGES, ROOT, Command, commands

PAGE = ROOT / "docs" / "tutorial.md"
EXAMPLES = ROOT / "docs" / "examples"
BASE = "00_pretrain"
"""What the small twin has in the place of a model of the hub."""
SHORTER = {
    "00_pretrain": {"flawless_steps": 200, "mixture_steps": 150, "batch_tokens": 1536},
    "05_grpo": {"max_steps": 6},
}
"""For the test alone: half of the training."""


def test_recipes_on_the_page_are_the_files() -> None:
    files = {path.read_text(): path.name for path in (EXAMPLES / "mine").glob("*.yaml")}
    shown = re.findall(r"(?m)^```yaml\n([\s\S]*?)^```$", PAGE.read_text())
    assert len(shown) >= 7
    assert [text for text in shown if text not in files] == []


def test_both_recipes_have_one_shape() -> None:
    large, small = (load_pipeline(EXAMPLES / name) for name in ("mine", "mine_small"))
    assert small[0].name == BASE
    for one, other in zip(large, small[1:], strict=True):
        assert (one.name, one.stage) == (other.name, other.stage)
        assert [name for name in references(other) if name != BASE] == references(one)
        check_stage(one)
        check_stage(other)


@pytest.mark.slow
def test_the_small_twin_runs_as_written(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shorten(checkout / "docs")
    part = PAGE.read_text().partition("## On a CPU")[2].partition("\n## ")[0]
    script = "".join(re.findall(r"(?m)^```bash\n([\s\S]*?)^```$", part))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    run = checkout / "runs" / "mine"
    stages = [path.stem for path in sorted((checkout / "recipes" / "mine").glob("*.yaml"))]
    for stage in stages:
        assert read_json(run / stage / "manifest.json")["status"] == "finished"
        assert stage in done.stdout
    page = (run / "report" / "index.html").read_text()
    assert all(stage in page for stage in stages)
    assert (run / "10_search.trees.html").is_file()
    metrics = {stage: read_json(run / stage / "metrics.json") for stage in stages}
    assert metrics["01_collect"]["rows_out"] == 320
    assert metrics["03_curate"]["rows_out"] > 0
    assert metrics["04_sft"]["steps"] > 0
    check_search(run / "10_search")
    check_rewards(run / "05_grpo")

    seen: set[tuple[str, ...]] = set()
    for command in (command for page_name in PAGES for command in commands(page_name)):
        if command.words[:2] in (("slowthink", "show"), ("slowthink", "report")):
            arguments = on_this_run(command)
            capsys.readouterr()
            assert tuple(arguments) in seen or main(arguments) == 0, f"{command.where}: `{command}`"
            assert tuple(arguments) in seen or capsys.readouterr().out.strip(), f"{command.where} is silent"
            seen.add(tuple(arguments))
    assert len(seen) > 5


def shorten(docs: Path) -> None:
    """A copy of the docs, whose small recipe trains less."""
    docs.unlink()
    shutil.copytree(ROOT / "docs", docs)
    for name, values in SHORTER.items():
        path = docs / "examples" / "mine_small" / f"{name}.yaml"
        text = path.read_text()
        for key, value in values.items():
            text, count = re.subn(rf"(?m)^{key}: .*", f"{key}: {value}", text)
            assert count == 1, f"{name}: {key}"
        path.write_text(text)


def on_this_run(command: Command) -> list[str]:
    """A command of any page with the folders of this run, and with a step that it has."""
    words = list(command.words[1:])
    stage = "10_search" if "--tree" in words else "05_grpo"
    for place, word in enumerate(words):
        if word.startswith("runs/"):
            words[place] = f"runs/mine/{stage}" if word.count("/") > 1 else "runs/mine"
    if "--step" in words and words[words.index("--step") + 1].isdigit():
        words[words.index("--step") + 1] = "last"
    return list(dict.fromkeys(words)) if words[0] == "report" else words


def check_search(folder: Path) -> None:
    """The scorer and the strategy of docs/examples: the best four of eight beginnings are completed."""
    settings = read_json(folder / "metrics.json")["settings"]
    assert set(settings) == {"majority n=8", "best_of_n n=8", "dvts n=8 width=4", "beginnings"}
    searches = iterate_rows(table_path(folder, "searches"), "searches")
    assert {r["strategy"] for r in searches if r["setting"] == "beginnings"} == {
        "docs.examples.my_search:Beginnings"
    }
    trees: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in iterate_rows(table_path(folder, "nodes"), "nodes"):
        if row["setting"] == "beginnings":
            trees[row["id"]].append(row)
    assert len(trees) == 80
    for rows in trees.values():
        beginnings = [row for row in rows if row["parent"] == 0]
        going_on = [rows[row["parent"]]["score"] for row in rows if row["parent"] > 0]
        scores = sorted((row["score"] for row in beginnings if not row["end"]), reverse=True)
        assert len(beginnings) == 8
        assert sorted(going_on, reverse=True) == scores[:4]
        for row in beginnings:
            sums = re.fullmatch(r"(?:<think>)?\n?[A-L](\d\d)([-+*])(\d)=(\d\d)\n", row["text"])
            if sums:
                right = eval(f"{sums[1]}{sums[2]}{sums[3]}") == int(sums[4])
                assert row["score"] == pytest.approx(0.9 if right else 0.1)
    assert {round(row["score"], 3) for rows in trees.values() for row in rows} > {0.1, 0.9}


def check_rewards(folder: Path) -> None:
    """The reward of docs/examples, told again from the texts of the first generation."""
    values: Counter[float | None] = Counter()
    for row in read_rollouts(folder, 0):
        split = THINK_TAGS.split(row.text)
        numbers = re.findall(r"\d+", split.response)
        paid = None if not numbers else float(numbers[-1] in re.findall(r"\d+", split.thinking))
        assert row.rewards["Grounded"] == paid
        values[paid] += 1
    assert values[0.0] > 0 < values[1.0]
