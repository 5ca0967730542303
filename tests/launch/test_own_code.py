"""Code of one's own that a recipe names: the examples of the docs, found beside the recipe."""

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

from data.load_source import load
from data.own_code import own_code_file
from data.sources import parse_source
from data.store import read_problems

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


def test_code_beside_a_recipe_is_found_and_is_an_input(tmp_path: Path) -> None:
    """Rewards, scorers and strategies of one's own run in tests/docs/test_tutorial.py."""
    shutil.copy(EXAMPLES / "my_questions.py", tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "01_collect.yaml").write_text(yaml.safe_dump({"stage": "collect", **COLLECT}))
    table = tmp_path / "runs" / "mine" / "01_collect"
    for changed in (False, True):
        if changed:
            with (tmp_path / "my_questions.py").open("a") as file:
                file.write("\nTHINGS = ('boat',)\n")
        done = slowthink(tmp_path, "run", "mine", "--no-report")
        assert done.returncode == 0, done.stderr[-3000:]
        problems = read_problems(table)
        assert 20 < len(problems) <= 40
        for problem in problems:
            one, other = map(int, re.findall(r"\d+", problem.question))
            assert int(problem.answer) == one * other
            assert (problem.licence, problem.domain, problem.role) == ("mine", "shopping", "train")
        assert all("boat" in problem.question for problem in problems) == changed


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
