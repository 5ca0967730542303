from __future__ import annotations

import io
import math
import re
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data.schema import Problem, table_features
from data.store import write_json, write_rows
from evaluation.report.trees import TreeChoice, select_trees
from inference.search.results import Cost, SearchResult, result_row
from launch.cli import main
from launch.tree_terminal import TREES, print_trees

ROOT = Path(__file__).resolve().parents[3]
COST = Cost(
    prompt_tokens=20,
    generated_tokens=1234,
    forced_tokens=0,
    scorer_tokens=5600.0,
    policy_flops=2e12,
    scorer_flops=1e12,
    seconds=1.5,
    latency_seconds=90.0,
    rounds=2,
)
SEARCH = SearchResult(
    problem=Problem(id="p0", question="What is 6 * 7?", answer="42"),
    setting="beam n=2",
    strategy="beam",
    n=2,
    width=2,
    classes=(0, 1),
    scores=(0.75, 0.25),
    correct=(True, False),
    tokens=(9, 9),
    nodes=(4, 5),
    chosen={"majority": 1, "best_of_n": 0, "weighted_best_of_n": 0},
    cost=COST,
)
IDS = ("12ab", "12ac", "7f00", "p0")


def row(number: int, parent: int, text: str, score: float, end: str = "") -> dict[str, Any]:
    plain = {"node": number, "parent": parent, "text": text, "score": score, "end": end}
    return {**plain, "tokens": 5, "forced": False, "cut": False}


ROWS = [
    row(0, -1, "", math.nan),
    row(1, 0, "<think>\nFirst.\n\n", 0.5),
    row(2, 0, "<think>\nOther.\n\n", 0.3),
    row(3, 0, "<think>\nOther.\n\n", 0.3),
    row(4, 1, "</think>\n\n\\boxed{42}", 0.75, "stop"),
    row(5, 1, "</think>\n\n\\boxed{17}", 0.25, "stop"),
]


def write(folder: Path, searches: Sequence[SearchResult], rows: Sequence[dict[str, Any]] = ROWS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "searches.parquet", [result_row(search) for search in searches], "searches")
    nodes = [{**r, "id": search.problem.id, "setting": search.setting} for search in searches for r in rows]
    write_rows(folder / "nodes.parquet", nodes, "nodes")
    return folder


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Four problems in three settings; the last problem only in the first one."""
    searches = [
        replace(SEARCH, problem=replace(SEARCH.problem, id=name), setting=setting)
        for name in IDS
        for setting in ("beam n=2", "beam n=4", "best_of_n n=2")
        if name != "p0" or setting == "beam n=2"
    ]
    return write(tmp_path / "x" / "18_search", searches)


def printed(folder: Path, choice: TreeChoice | None = None, width: int = 200, **console: Any) -> str:
    output = io.StringIO()
    view = select_trees(folder, choice or TreeChoice())
    print_trees(view, folder / "page.html", Console(file=output, width=width, **console))
    return output.getvalue()


@pytest.mark.parametrize(
    ("choice", "trees"),
    [
        (TreeChoice(), ["12ab beam n=2", "12ab beam n=4", "12ab best_of_n n=2"]),
        (TreeChoice(limit=1), ["12ab beam n=2"]),
        (TreeChoice(problem="2"), ["7f00 beam n=2", "7f00 beam n=4", "7f00 best_of_n n=2"]),
        (TreeChoice(problem="7f", setting="beam n=4"), ["7f00 beam n=4"]),
        (TreeChoice(problem="12ac", setting="beam"), ["12ac beam n=2", "12ac beam n=4"]),
        (TreeChoice(problem="3"), ["p0 beam n=2"]),
        (TreeChoice(problem="all", setting="best"), [f"{i} best_of_n n=2" for i in IDS[:3]]),
    ],
    ids=str,
)
def test_choices(stage: Path, choice: TreeChoice, trees: list[str]) -> None:
    view = select_trees(stage, choice)
    assert [f"{tree.result.problem.id} {tree.result.setting}" for tree in view.trees] == trees
    assert view.problems == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--problem", "9"],
            r"'9' is neither all, nor a number from 0 to 3, nor the begin of an id; ids are 12ab",
        ),
        (["--problem", "12"], r"'12' begins 2 ids: 12ab, 12ac$"),
        (["--problem", ""], r"'' is neither all"),
        (["--setting", "dvts"], r"there is no 'dvts'; settings are beam n=2, beam n=4, best_of_n n=2$"),
        (
            ["--problem", "p", "--setting", "best"],
            r"the chosen problem was not searched with the chosen setting$",
        ),
        (["--limit", "0"], r"--limit: 0 must be at least 1$"),
        (["--html", "/dev/null/page.html"], r"--html: /dev/null/page.html cannot be written"),
        (["--step", "1"], r"--step is for rollouts; add --rollouts$"),
        (["--only", "right"], r"--only is for rollouts; add --rollouts$"),
    ],
)
def test_mistakes_name_what_there_is(
    stage: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["show", str(stage), "--tree", *arguments]) == 2
    shown = capsys.readouterr()
    assert re.search(message, shown.err.strip()), shown.err
    assert shown.out == ""
    assert not list(stage.parent.glob("*.html"))


@pytest.mark.parametrize("arguments", [["--problem", "1"], ["--setting", "x"]])
def test_tree_options_need_tree(
    stage: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    for more in ([], ["--rollouts"]):
        assert main(["show", str(stage), *arguments, *more]) == 2
        assert f"{arguments[0]} is for trees; add --tree" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["show", str(stage), "--tree", "--rollouts"])


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("absent", r"absent does not exist; name the folder of a search"),
        (".", r"no search trees here; stages with trees in it: 18_search$"),
        ("18_search/rejected", r"no search trees here; only stage search writes them$"),
    ],
)
def test_folders_without_trees(stage: Path, folder: str, message: str) -> None:
    (stage / "rejected").mkdir()
    with pytest.raises(ValueError, match=message):
        select_trees(stage.parent / folder, TreeChoice())


def test_damaged_tables_are_named(tmp_path: Path) -> None:
    for rows, message in (
        (
            [*ROWS[:3], row(4, 3, "x", 0.5)],
            "problem p0, beam n=2: node 4 has parent 3, which is not before it",
        ),
        (ROWS[:5], "problem p0, beam n=2: the tree is not whole"),
        ([], "the tree is not whole"),
    ):
        with pytest.raises(ValueError, match=message):
            select_trees(write(tmp_path, [SEARCH], rows), TreeChoice())
    write(tmp_path, [SEARCH])
    (tmp_path / "nodes.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"nodes.parquet is not readable as parquet .*; run the stage again"):
        select_trees(tmp_path, TreeChoice())
    (tmp_path / "nodes.parquet").unlink()
    with pytest.raises(ValueError, match=r"nodes.parquet does not exist; run the stage again"):
        select_trees(tmp_path, TreeChoice())


def test_a_table_without_a_column_or_without_rows(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write(tmp_path, [SEARCH])
    table = pq.read_table(tmp_path / "nodes.parquet")
    assert set(table.column_names) == set(table_features("nodes"))
    pq.write_table(table.drop_columns(["cut"]), tmp_path / "nodes.parquet")
    with pytest.raises(ValueError, match=r"its tables lack column 'cut'; run the stage again"):
        select_trees(tmp_path, TreeChoice())
    with pytest.raises(ValueError, match=r"searches.parquet holds no searches; run the stage again"):
        select_trees(write(tmp_path, []), TreeChoice())


def test_the_command_prints_the_paths_and_writes_the_page_beside_the_stage(
    stage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(stage), "--tree"]) == 0
    page = stage.parent / "18_search.trees.html"
    assert capsys.readouterr().out.splitlines()[-1] == f"3 trees of 3 -> {page}"
    assert page.read_text(encoding="utf-8").count('<section class="search') == 3
    assert {path.name for path in stage.iterdir()} == {"searches.parquet", "nodes.parquet"}
    other = tmp_path / "new" / "one.html"
    arguments = ["--problem", "all", "--setting", "beam n=2", "--limit", "2", "--html", str(other)]
    assert main(["show", str(stage), "--tree", *arguments]) == 0
    assert f"2 trees of 4; --limit 4 shows all -> {other}" in capsys.readouterr().out
    assert other.read_text(encoding="utf-8").count('<section class="search') == 2


def test_show_tree_loads_what_reads_tables_and_no_more(stage: Path) -> None:
    heavy = ("torch", "transformers", "trl", "datasets", "pyarrow", "numpy", "sympy")
    code = f"""import sys; from launch.cli import main
assert main(["show", {str(stage)!r}, "--tree"]) == 0
print("LOADED", *[m for m in {heavy!r} if m in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()[-1].split()) <= {"LOADED", "pyarrow", "numpy"}


def test_what_is_printed_of_a_tree(tmp_path: Path) -> None:
    shown = printed(write(tmp_path, [SEARCH]))
    for part in (
        "beam n=2  problem p0",
        "What is 6 * 7?",
        "gold 42  majority 17 wrong  best of N 42 right  weighted best of N 42 right",
        "1,234 tokens, 5.6 k scorer tokens, 3 TFLOP, 1.5 s, 5 nodes, 2 candidates",
        "path of candidate #0, which weighted best of N takes",
        "├──  1  ████░░░░ 0.500  5 tokens  +2 siblings: 2 pruned",
        "│       <think>⏎First.",
        "└──  2  ██████░░ 0.750  5 tokens  +1 sibling: 1 candidate",
        "1 tree of 1 -> ",
    ):
        assert part in shown


def test_without_scores_or_answers(tmp_path: Path) -> None:
    nobody = {"majority": -1, "best_of_n": -1, "weighted_best_of_n": -1}
    unscored = replace(SEARCH, scores=(math.nan,) * 2, chosen={**nobody, "majority": 1})
    rows = [{**r, "score": None} for r in ROWS]
    shown = printed(write(tmp_path, [unscored], rows))
    assert "majority 17 wrong  best of N no answer  weighted best of N no answer" in shown
    assert "└──  2  5 tokens  +1 sibling: 1 candidate" in shown
    none = replace(SEARCH, classes=(-1, -1), correct=(False,) * 2, chosen=nobody)
    assert "no candidate has an answer" in printed(write(tmp_path, [none]))


def test_the_terminal_gets_three_trees(tmp_path: Path) -> None:
    write(tmp_path, [replace(SEARCH, setting=f"beam n={n}") for n in range(20)])
    shown = printed(tmp_path)
    assert shown.count("  problem p0") == TREES == 3
    assert "12 trees of 20; --limit 20 shows all -> " in shown


def test_nothing_that_a_model_wrote_steers_the_terminal(tmp_path: Path) -> None:
    text = "[bold]x[/bold] [/] [link=file:///etc] :smile: \x1b]0;t\x07 \x1b[31m \x9b1m \u202e \r\b\x00"
    problem = Problem(id="p0", question=text, answer=text)
    rows = [{**r, "text": text} if r["node"] else r for r in ROWS]
    write(tmp_path, [replace(SEARCH, problem=problem, setting=text)], rows)
    coloured = printed(tmp_path, width=2000, force_terminal=True, color_system="truecolor")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert plain != coloured
    assert {c for c in plain if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"} == set()
    assert plain.count("[bold]x[/bold] [/] [link=file:///etc] :smile: ␛]0;t␇ ␛[31m") >= 4


def test_tags_are_those_of_the_stages_thinking_format(tmp_path: Path) -> None:
    write(tmp_path, [SEARCH])
    write_json(tmp_path / "manifest.json", {"recipe": {"thinking_format": "s1"}})
    assert select_trees(tmp_path, TreeChoice()).form.name == "s1"
    write_json(tmp_path / "manifest.json", {"recipe": {"thinking_format": "s2"}})
    with pytest.raises(ValueError, match="thinking_format: 's2' is not one of think_tags"):
        select_trees(tmp_path, TreeChoice())
