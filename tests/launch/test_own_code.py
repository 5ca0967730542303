"""The examples of code of one's own, copied beside a recipe and run as a user runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.own_code import own_code_file
from data.rollouts import read_rollouts
from data.sources import load, parse_source
from data.store import iterate_rows, read_problems, table_path
from data.thinking import THINK_TAGS

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
PAGES = {
    "my_questions.py": "data.md",
    "my_reward.py": "rewards.md",
    "my_scorer.py": "prm.md",
    "my_search.py": "search.md",
}
COLLECT = {
    "sources": [{"id": "my_questions:shopping", "role": "train", "licence": "mine", "options": {"count": 40}}]
}
SEARCH = {
    "problems": "run:01_collect",
    "limit": 4,
    "scorer": "my_scorer:Recalculates",
    "scorer_model": "sums again",
    "scorer_options": {"doubt": 0.2},
    "strategies": [{"strategy": "my_search:Beginnings", "n": [3, 4], "keep": 2, "steps": 2}],
    "dtype": "float32",
    "step_separator": " ",
    "max_tokens": 48,
    "max_step_tokens": 8,
}
GRPO = {
    "problems": "run:01_collect",
    "rewards": ["format", {"function": "my_reward:Grounded", "from_nowhere": 0.25}],
    "num_generations": 4,
    "per_device_train_batch_size": 8,
    "max_completion_length": 24,
    "max_steps": 2,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
}


def slowthink(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command, given in `folder`."""
    command = Path(sys.executable).with_name("slowthink")
    return subprocess.run(
        [str(command), *arguments],
        cwd=folder,
        env={**os.environ, "SLOWTHINK_RUNS": str(folder / "runs")},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", PAGES)
def test_the_page_shows_the_example_as_it_is(name: str) -> None:
    page = (ROOT / "docs" / PAGES[name]).read_text()
    text = (EXAMPLES / name).read_text()
    assert f"(examples/{name})" in page
    assert f"```python\n{text}```\n" in page
    assert len(text.splitlines()) < 40


@pytest.mark.slow
def test_a_pipeline_of_ones_own_code(tiny_model: Path, tmp_path: Path) -> None:
    for name in PAGES:
        shutil.copy(EXAMPLES / name, tmp_path)
    recipes = tmp_path / "mine"
    recipes.mkdir()
    model = {"model_name_or_path": str(tiny_model), "seed": 0}
    for name, fields in {
        "collect": COLLECT,
        "search": {**SEARCH, **model},
        "grpo": {**GRPO, **model},
    }.items():
        number = 1 + len(list(recipes.iterdir()))
        (recipes / f"0{number}_{name}.yaml").write_text(yaml.safe_dump({"stage": name, **fields}))
    done = slowthink(tmp_path, "run", "mine")
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "runs" / "mine"

    problems = read_problems(run / "01_collect")
    assert 20 < len(problems) <= 40
    for problem in problems:
        one, other = map(int, re.findall(r"\d+", problem.question))
        assert int(problem.answer) == one * other
        assert (problem.licence, problem.domain, problem.role) == ("mine", "shopping", "train")

    check_search(run / "02_search")
    check_rewards(run / "03_grpo")
    check_that_changed_code_is_noticed(tmp_path)


def check_search(folder: Path) -> None:
    searches = list(iterate_rows(table_path(folder, "searches"), "searches"))
    assert {row["strategy"] for row in searches} == {"my_search:Beginnings"}
    assert len(searches) == 8
    nodes = list(iterate_rows(table_path(folder, "nodes"), "nodes"))
    for n in (3, 4):
        trees: dict[str, list[dict[str, Any]]] = {}
        for row in nodes:
            if f"n={n} " in row["setting"]:
                trees.setdefault(row["id"], []).append(row)
        assert len(trees) == 4
        for rows in trees.values():
            beginnings = [row for row in rows if row["parent"] == 0]
            opened = [row for row in beginnings if not row["end"]]
            finished = [row for row in rows if row["parent"] > 0]
            assert len(beginnings) == n
            assert len(finished) == min(2, len(opened))
            best = sorted((row["score"] for row in opened), reverse=True)[:2]
            gone_on = [rows[row["parent"]]["score"] for row in finished]
            assert sorted(gone_on, reverse=True) == best
    assert {round(row["score"], 6) for row in nodes if row["parent"] == 0} <= {0.2, 0.5, 0.8}


def check_rewards(folder: Path) -> None:
    rows = [row for step in (0, 1) for row in read_rollouts(folder, step)]
    assert len(rows) == 16
    for row in rows:
        split = THINK_TAGS.split(row.text)
        numbers = re.findall(r"\d+(?:\.\d+)?", split.response)
        thought = re.findall(r"\d+(?:\.\d+)?", split.thinking)
        paid = None if not numbers else 1.0 if numbers[-1] in thought else 0.25
        assert row.rewards["Grounded"] == paid


def check_that_changed_code_is_noticed(folder: Path) -> None:
    with (folder / "my_questions.py").open("a") as file:
        file.write("\nTHINGS = ('boat',)\n")
    assert slowthink(folder, "run", "mine", "--only", "01_collect").returncode == 0
    questions = {problem.question for problem in read_problems(folder / "runs" / "mine" / "01_collect")}
    assert questions
    assert all("boat" in question for question in questions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"id": "my_questions:shoping"},
            "sources[0].id: 'my_questions' has no 'shoping'; did you mean 'shop",
        ),
        ({"id": "my_question:shopping"}, "sources[0].id: cannot import 'my_question'"),
        ({"role": None}, "sources[0].role: "),
        ({"split": "train"}, "sources[0]: split, config and revision belong to hub datasets"),
        ({"options": {"number": 3}}, "sources[0]: my_questions:shopping: "),
        ({"id": "random:random"}, "sources[0]: random:random: "),
        (
            {"columns": {"question": "text"}},
            "sources[0].columns.question: my_questions:shopping has no column",
        ),
    ],
)
def test_mistakes_in_a_source_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    entry = {"id": "my_questions:shopping", "role": "train", **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        load(parse_source({key: value for key, value in entry.items() if value is not None}, "sources[0]"))


def test_only_what_is_a_module_here_is_taken_for_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "code.py").touch()
    assert own_code_file("own.code:Thing") == Path("own/code.py")
    for text in (
        "own.code",
        "own.code:",
        "own/code:Thing",
        "run:01_collect",
        "Answer: own",
        "x" * 5000 + ":y",
    ):
        assert own_code_file(text) is None
