from __future__ import annotations

import base64
import hashlib
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.schema import Problem
from data.store import write_rows
from evaluation.report.tree_drawing import LONGEST_ON_PATH
from evaluation.report.tree_page import LONGEST_ASIDE, MOST_NODES, tree_page
from evaluation.report.tree_shape import fair_share
from evaluation.report.trees import TreeChoice, select_trees
from inference.search.results import Cost, SearchResult, result_row
from tests.evaluation.report.browser import Browser
from tests.evaluation.report.page_elements import Element, Reader

Row = dict[str, Any]
VOID = {"meta", "input", "br"}
COST = Cost(
    prompt_tokens=20,
    generated_tokens=1234,
    forced_tokens=2,
    scorer_tokens=56.7,
    policy_flops=2e12,
    scorer_flops=1e12,
    seconds=1.5,
    latency_seconds=90.0,
    rounds=4,
)
SEARCH = SearchResult(
    problem=Problem(id="p0", question="What is 6 * 7?", answer="42"),
    setting="beam n=4",
    strategy="beam",
    n=4,
    width=2,
    classes=(0, 1, 0),
    scores=(0.9, 0.4, 0.25),
    correct=(True, False, True),
    tokens=(9, 9, 9),
    nodes=(6, 7, 11),
    chosen={"majority": 0, "best_of_n": 0, "weighted_best_of_n": 0},
    cost=COST,
)


def row(number: int, parent: int, text: str, score: float = math.nan, end: str = "", **more: Any) -> Row:
    plain = {"node": number, "parent": parent, "text": text, "score": score, "end": end, "tokens": 5}
    return {**plain, "forced": False, "cut": False, **more}


ROOT = row(0, -1, "", tokens=0)
ROWS = [
    ROOT,
    row(1, 0, "<think>\nFirst.\n\n", 0.5),
    row(2, 0, "<think>\nOther.\n\n", 0.3),
    row(3, 0, "<think>\nOther.\n\n", 0.3),
    row(4, 1, "Wait, ", 0.5, forced=True),
    row(5, 4, "so it is", 0.6, cut=True),
    row(6, 5, "</think>\n\n\\boxed{42}", 0.9, "stop"),
    row(7, 5, "</think>\n\n\\boxed{17}", 0.4, "stop"),
    row(8, 1, "on and on", 0.2, "length"),
    row(9, 0, "<think>\nThird.\n\n", 0.45),
    row(10, 9, "hence\n\n", 0.35),
    row(11, 10, "</think>\n\n\\boxed{42}", 0.25, "stop"),
]
"""The winner's path is 1 4 5 6; candidate 2 is at the end of 9 10 11."""


def write(folder: Path, *searches: tuple[SearchResult, Sequence[Row]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "searches.parquet", [result_row(result) for result, _ in searches], "searches")
    rows = [{**r, "id": s.problem.id, "setting": s.setting} for s, rows in searches for r in rows]
    write_rows(folder / "nodes.parquet", rows, "nodes")
    return folder


def read(folder: Path, **choice: Any) -> Element:
    return Reader(tree_page(select_trees(folder, TreeChoice(**choice))), VOID).root


def drawn(root: Element) -> Element:
    """The outermost list of the first tree."""
    return root.all("div", "tree")[0].all("ol", deep=False)[0]


def text_of(step: Element) -> str:
    return "".join(pre.text for pre in step.all("pre", deep=False))


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return write(tmp_path / "x" / "18_search", (SEARCH, ROWS))


def test_the_winners_path_is_flat_and_marked(stage: Path) -> None:
    steps = drawn(read(stage)).all("li", deep=False)
    assert [text_of(step) for step in steps] == [
        "<think>\nFirst.",
        "Wait,",
        "so it is",
        "</think>\n\n\\boxed{42}",
    ]
    assert all("wins" in step.kinds for step in steps)
    assert [step.badges() for step in steps] == [
        [],
        ["forced text"],
        ["cut at its token limit"],
        [
            "candidate #0",
            "42 right",
            "taken by majority",
            "taken by best of N",
            "taken by weighted best of N",
        ],
    ]
    assert [step.all("span", "score")[0].text for step in steps] == ["0.500", "0.500", "0.600", "0.900"]
    assert [step.all("i", "bar")[0].kinds[1] for step in steps] == ["s10", "s10", "s12", "s18"]


def test_what_branches_off_is_folded_beside_its_step(stage: Path) -> None:
    first, forced, _, last = drawn(read(stage)).all("li", deep=False)
    (others,) = first.all("details", "others", deep=False)
    assert "open" not in others.attributes
    assert others.all("summary")[0].text.strip() == "3 siblings: 1 went on, 2 pruned"
    assert others.all("span", "strip")[0].attributes["title"] == "scores 0.450, 0.300"
    third, other = others.all("ul")[0].all("li", deep=False)
    assert other.badges() == ["2 times the same", "pruned"]
    assert {"pruned", "step"} == set(other.kinds)
    (more,) = third.all("details", "more", deep=False)
    assert more.all("summary")[0].text == "goes on: 2 more nodes, 1 candidate"
    assert [text_of(s) for s in more.all("li")] == ["hence", "</think>\n\n\\boxed{42}"]
    assert more.all("li")[-1].badges() == ["candidate #2", "42 right"]
    assert [s.badges() for s in forced.all("ul")[0].all("li")] == [["out of tokens"]]
    assert [s.badges() for s in last.all("ul")[0].all("li")] == [["candidate #1", "17 wrong"]]


def test_equal_siblings_are_one_and_counted_by_what_became_of_each(tmp_path: Path) -> None:
    same = {9: ROWS[1]["text"], 7: ROWS[6]["text"]}
    rows = [replace_text(r, same.get(r["node"], r["text"])) for r in ROWS]
    rows += [row(12, 0, ROWS[1]["text"], 0.5), row(13, 5, ROWS[6]["text"], 0.9, "stop")]
    search = replace(SEARCH, classes=(0, 0, 0), correct=(True,) * 3)
    first, *_, last = drawn(read(write(tmp_path, (search, rows)))).all("li", deep=False)
    assert first.badges() == ["2 times the same"]
    assert last.badges()[:3] == ["3 times the same", "candidates #0, #1", "42 right"]
    assert not last.all("details")
    (others,) = first.all("details", "others", deep=False)
    assert others.all("summary")[0].text.strip() == "3 siblings: 1 went on, 2 pruned"


def test_thinking_goes_on_over_nodes(stage: Path) -> None:
    root = read(stage)
    first, forced, cut, last = drawn(root).all("li", deep=False)
    for step in (first, forced, cut):
        pre = step.all("pre", deep=False)[0]
        assert pre.all("span", "thinking")
        assert not pre.all("span", "response")
    assert [tag.text for tag in last.all("pre")[0].all("span", "tag")] == ["</think>"]
    assert last.all("pre")[0].all("span", "response")[0].text == "\n\n\\boxed{42}"
    plain = [replace_text(r, r["text"].replace("<think>\n", "").replace("</think>\n\n", "")) for r in ROWS]
    write(stage, (SEARCH, plain))
    assert not drawn(read(stage)).all("span", "thinking")


def replace_text(node: Row, text: str) -> Row:
    return {**node, "text": text}


def test_numbers_and_answers(stage: Path) -> None:
    root = read(stage)
    (section,) = root.all("section", "search")
    assert "is-right" in section.kinds
    tiles = {
        tile.all("dt")[0].text: [dd.text for dd in tile.all("dd")] for tile in section.all("div", "tile")
    }
    assert tiles == {
        "tokens of the tree": ["1,234", "prompt 20, forced 2"],
        "scorer tokens": ["57", "forwarded"],
        "FLOPs": ["3 T", "policy 2 T, scorer 1 T"],
        "time": ["1.5 s", "1.5 min from start to end"],
        "candidates": ["3", "n = 4, width 2"],
        "nodes": ["11", "depth 4, 4 rounds"],
    }
    table = [[cell.text for cell in line.all("td")] for line in section.all("table")[0].all("tr")[1:]]
    assert table == [
        ["42 right", "2", "0.900", "1.150", "majority #0, best of N #0, weighted best of N #0"],
        ["17 wrong", "1", "0.400", "0.400", ""],
    ]
    assert {link.attributes["href"] for link in section.all("a")} == {"#t0n6"}
    assert [dd.text for dd in root.all("dl", "ask")[0].all("dd")] == ["What is 6 * 7?", "42"]


def test_without_scores_the_majority_wins(tmp_path: Path) -> None:
    search = replace(
        SEARCH,
        scores=(math.nan,) * 3,
        chosen={"majority": 2, "best_of_n": -1, "weighted_best_of_n": -1},
    )
    root = read(write(tmp_path, (search, [{**r, "score": math.nan} for r in ROWS])))
    assert not drawn(root).all("i")
    assert [text_of(step) for step in drawn(root).all("li", "wins")][-1] == "</think>\n\n\\boxed{42}"
    assert len(drawn(root).all("li", "wins")) == 3
    assert "no answer by best of N, weighted best of N" in root.text
    assert "nan" not in root.text


def test_without_an_answer_nobody_wins(tmp_path: Path) -> None:
    chosen = {"majority": -1, "best_of_n": -1, "weighted_best_of_n": -1}
    search = replace(SEARCH, classes=(-1,) * 3, correct=(False,) * 3, chosen=chosen)
    root = read(write(tmp_path, (search, ROWS)))
    assert "is-none" in root.all("section", "search")[0].kinds
    assert "no candidate has an answer" in root.text
    assert not root.all("li", "wins")
    assert len(root.all("li")) == 10
    assert read(write(tmp_path, (replace(search, nodes=(), classes=(), scores=()), [ROOT]))).all("ol")


def test_bars_reach_from_the_lowest_to_the_highest_score_beyond_0_and_1(tmp_path: Path) -> None:
    scores = {5: -3.0, 6: 7.0}
    root = read(write(tmp_path, (SEARCH, [{**r, "score": scores.get(r["node"], 2.0)} for r in ROWS])))
    assert [bar.kinds[1] for bar in drawn(root).all("i", "bar") if "s10" not in bar.kinds] == ["s0", "s20"]
    assert "from -3 to 7" in root.text


def test_several_trees_have_an_index(tmp_path: Path) -> None:
    other = replace(SEARCH.problem, id="p1", question="And 1 + 1?")
    searches = [replace(SEARCH, setting="best_of_n"), SEARCH, replace(SEARCH, problem=other)]
    write(tmp_path, *((search, ROWS) for search in searches))
    root = read(tmp_path)
    (index,) = root.all("header")[0].all("table")
    assert [link.attributes["href"] for link in index.all("a")] == ["#t0", "#t1"]
    assert [s.attributes["id"] for s in root.all("section", "search")] == ["t0", "t1"]
    assert len(root.all("section", "problem")) == 1
    assert "And 1 + 1?" not in root.text
    everything = read(tmp_path, problem="all")
    assert len(everything.all("section", "problem")) == 2
    assert "And 1 + 1?" in everything.all("header")[0].text
    assert "here: 2 trees of 3; --limit 3 shows all" in read(tmp_path, problem="all", limit=2).text
    ids = [
        e.attributes["id"] for tag in ("li", "section") for e in everything.all(tag) if "id" in e.attributes
    ]
    assert len(ids) == len(set(ids))


ATTACKS = (
    "<script>alert(1)</script>",
    "</style></pre></li></ol></div></section></main><img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)' x=\"",
    "<!-- --> <![CDATA[ ]]> &lt;b&gt; &amp;#60; </title><svg/onload=alert(1)>",
    "{{constructor}} ${alert(1)} `x` %s {0}",
    "<plaintext><textarea><template><iframe srcdoc='x'>",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_a_model_wrote_is_text(tmp_path: Path, attack: str) -> None:
    problem = Problem(id=attack, question=attack, answer=attack)
    rows = [replace_text(r, attack + "\\boxed{" + attack + "}") if r["node"] else r for r in ROWS]
    search = replace(SEARCH, problem=problem, setting=attack)
    written = tree_page(select_trees(write(tmp_path, (search, rows)), TreeChoice(problem=attack)))
    root = Reader(written, VOID).root
    shown = attack + "\\boxed{" + attack + "}"
    assert all(text_of(step) == shown for step in root.all("li"))
    assert [dd.text for dd in root.all("dl", "ask")[0].all("dd")] == [attack, attack]
    assert root.all("h3")[0].text == attack
    assert (len(root.all("script")), len(root.all("style"))) == (1, 1)
    tags = set(re.findall(r"<([a-zA-Z][a-zA-Z0-9]*)", written.split("<script>")[0]))
    assert not tags & {"img", "svg", "iframe", "template", "textarea", "plaintext"}
    every = re.findall(r"<[a-z][^>]*>", written.replace(root.all("style")[0].text, "").split("<script>")[0])
    assert not [tag for tag in every if re.search(r"\s(on[a-z]+|style)\s*=", tag)]


def test_the_page_needs_nothing_else(stage: Path) -> None:
    text = tree_page(select_trees(stage, TreeChoice()))
    root = Reader(text, VOID).root
    assert not re.search(r"https?:|//[a-z]|url\(|@import| src=", text)
    policy = next(m.attributes["content"] for m in root.all("meta") if "http-equiv" in m.attributes)
    assert policy.startswith("default-src 'none';")
    for name in ("style", "script"):
        (element,) = root.all(name)
        digest = base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "prefers-color-scheme:dark" in root.all("style")[0].text


def test_what_is_not_seen_is_spelled_out(tmp_path: Path) -> None:
    text = "a\x00b\x1b[31mc\u200bd\u202ee\x85g\rh\ufeff\ud800z"
    root = read(write(tmp_path, (SEARCH, [replace_text(r, text) if r["node"] else r for r in ROWS])))
    assert text_of(root.all("li")[0]) == "a␀b␛[31mc⟨U+200B⟩d⟨U+202E⟩e⟨U+0085⟩g␍h⟨U+FEFF⟩?z"
    assert not [c for c in root.text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t"]


def test_huge_steps_are_cut_and_less_so_on_the_winners_path(tmp_path: Path) -> None:
    text = "<b>&" * 25_000
    root = read(
        write(tmp_path, (SEARCH, [replace_text(r, text) if r["node"] in (1, 8) else r for r in ROWS]))
    )
    on_path, aside = (text_of(step) for step in root.all("li") if "left out" in text_of(step))
    assert f"{100_000 - LONGEST_ON_PATH:,} characters left out" in on_path
    assert f"{100_000 - LONGEST_ASIDE:,} characters left out" in aside


def large(beams: int, depth: int) -> tuple[SearchResult, list[Row]]:
    """A beam search: of every four children one goes on, all in the last round are candidates."""
    rows, front = [ROOT], [0] * (beams // 4)
    for round_ in range(depth):
        new = []
        for parent in front:
            for place in range(4):
                number = len(rows)
                end = "stop" if round_ == depth - 1 else ""
                text = f"Step {number} has {'some ' * 30}words, \\boxed{{{number % 5}}}.\n\n"
                rows.append(row(number, parent, text, (number * 37 % 101) / 101, end))
                new += [number] if place == 2 or end else []
        front = new
    count = len(front)
    result = replace(
        SEARCH,
        n=beams,
        width=4,
        classes=tuple(number % 5 for number in front),
        scores=tuple(rows[number]["score"] for number in front),
        correct=tuple(number % 5 == 2 for number in front),
        tokens=(9,) * count,
        nodes=tuple(front),
    )
    return result, rows


def test_a_tree_of_ten_thousand_nodes_is_shown_in_part(tmp_path: Path) -> None:
    result, rows = large(256, 40)
    assert len(rows) == 10_241
    folder = write(tmp_path, (result, rows))
    text = tree_page(select_trees(folder, TreeChoice()))
    assert len(text) < 3_000_000
    root = Reader(text, VOID).root
    assert len(root.all("li")) == MOST_NODES - 1
    sentence = f"{10_241 - MOST_NODES:,} nodes of 10,241 (equal siblings counted once) left out: a page shows"
    assert f"{sentence} {MOST_NODES:,}, first what is on" in root.text
    said = sum(int(n.replace(",", "")) for n in re.findall(r"([\d,]+) more nodes? here, left out", root.text))
    assert said == 10_241 - MOST_NODES
    path = drawn(root).all("li", deep=False)
    assert len(path) == 40
    assert all(len(step.all("details", "others", deep=False)) == 1 for step in path)
    assert max(depth(step) for step in path) <= 4


def depth(element: Element) -> int:
    """Lists inside one another."""
    below = [depth(part) for part in element.parts if isinstance(part, Element)]
    return max(below, default=0) + (element.tag in ("ol", "ul"))


def test_a_chain_is_never_nested(tmp_path: Path) -> None:
    rows = [ROOT, *(row(i + 1, i, f"Step {i}.\n\n", 0.5, "stop" if i == 2999 else "") for i in range(3000))]
    search = replace(SEARCH, classes=(0,), scores=(0.5,), correct=(True,), nodes=(3000,))
    steps = drawn(read(write(tmp_path, (search, rows)))).all("li", deep=False)
    assert [len(steps), max(map(depth, steps))] == [3000, 0]


@pytest.mark.parametrize(
    ("sizes", "total", "share"), [([], 5, 0), ([3, 4], 9, 4), ([3, 4, 100], 20, 13), ([10, 10], 7, 3)]
)
def test_fair_share(sizes: list[int], total: int, share: int) -> None:
    assert fair_share(sizes, total) == share


def saved(folder: Path, *searches: tuple[SearchResult, Sequence[Row]]) -> Path:
    view = select_trees(write(folder, *searches), TreeChoice())
    (folder / "page.html").write_text(tree_page(view), encoding="utf-8")
    return folder / "page.html"


def test_in_a_browser_the_controls_work_and_nothing_is_asked_for(tmp_path: Path, browser: Browser) -> None:
    page = saved(tmp_path, (SEARCH, ROWS))
    browser.open(page, 1200)
    details = "document.querySelectorAll('.tree details[open]').length"
    assert browser.value(details) == 0
    browser.value("document.querySelector('[name=open]').click()")
    assert browser.value(details) == len(read(tmp_path).all("details"))
    browser.value("document.querySelector('[name=close]').click()")
    assert browser.value(details) == 0
    seen = "[...document.querySelectorAll('.others')].filter(d => d.checkVisibility()).length"
    assert browser.value(seen) == 3
    browser.value("document.querySelector('[name=only]').click()")
    assert browser.value(seen) == 0
    browser.value("location.hash = '#t0n11'; dispatchEvent(new HashChangeEvent('hashchange'))")
    assert browser.value("document.getElementById('t0n11').checkVisibility()")
    assert browser.complaints() == []
    assert {url.partition("#")[0] for url in browser.requests()} == {page.as_uri()}


@pytest.mark.parametrize("attack", ATTACKS)
def test_in_a_browser_nothing_that_a_model_wrote_runs(tmp_path: Path, browser: Browser, attack: str) -> None:
    problem = Problem(id="p0", question=attack, answer=attack)
    rows = [replace_text(r, attack) if r["node"] else r for r in ROWS]
    page = saved(tmp_path, (replace(SEARCH, problem=problem, setting=attack), rows))
    browser.open(page, 1200)
    assert browser.value("document.querySelectorAll('li > pre').length") == len(read(tmp_path).all("li"))
    assert browser.value("document.querySelector('li > pre').textContent") == attack
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


def test_in_a_browser_a_phone_scrolls_only_down(tmp_path: Path, browser: Browser) -> None:
    result, rows = large(32, 12)
    long = replace(result, setting="x" * 150, problem=replace(SEARCH.problem, question="word" * 100))
    browser.open(saved(tmp_path, (long, rows), (SEARCH, ROWS)), 360)
    browser.value("document.querySelector('[name=open]').click()")
    assert browser.value("document.documentElement.scrollWidth") <= 360
    assert browser.complaints() == []


def test_in_a_browser_dark_is_dark(tmp_path: Path, browser: Browser) -> None:
    page, grey = saved(tmp_path, (SEARCH, ROWS)), []
    for scheme in ("light", "dark"):
        browser.open(page, 800, scheme)
        grey.append(
            int(browser.value("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
        )
    assert grey[0] > 200
    assert grey[1] < 60
