from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.store import fingerprint
from evaluation.report import page
from evaluation.report.build import build_report
from evaluation.report.folder import find_stages
from tests.evaluation.report.browser import Browser
from tests.evaluation.report.report_pages import edit, problems, read, section
from tests.evaluation.report.run_folders import STAGES, make_run
from tests.evaluation.report.test_hostile_runs import ATTACKS


def test_a_whole_run(whole: Path) -> None:
    path = build_report([whole], about={"grpo": "learns <by> itself"})
    assert path == whole / "report" / "index.html"
    root = read(path)
    assert problems(root) == []
    titles = [heading.text for heading in root.all("h2")]
    assert titles == [
        "Claims",
        "Results",
        "Stages",
        "Rollouts",
        "Completions",
        "Search trees",
        "Environment",
    ]
    tiles = root.all("header")[0].facts()
    assert tiles["stages"] == "5 of 5"
    assert tiles["time"] == "5m25s"
    assert tiles["claims shown"] == "1 of 1"
    stages = root.all("details", "stage")
    assert [stage.all("span", "name")[0].text.strip() for stage in stages] == list(STAGES)
    assert "open" not in stages[0].attributes
    assert "learns <by> itself" in stages[1].text
    assert "length (step 7)" in stages[1].text
    assert "slowthink grpo --config recipes/mine/02_grpo.yaml" in stages[1].text
    assert "thinking_format: think_tags" in stages[1].text
    assert "0.625 [0.500, 0.750]" in stages[2].text
    assert "too_long" in stages[0].text
    assert "of it" in stages[0].text
    again = section(root, "again").text
    assert "git checkout 0123abcd" in again
    assert "slowthink run recipes/mine" in again
    assert "2.13.0" in again
    assert "OMP_NUM_THREADS" in again


def test_completions_groups_and_trees_are_those_that_tell(whole: Path) -> None:
    root = read(build_report([whole]))
    cards = section(root, "completions").all("article", "card")
    assert [card.kinds[2] for card in cards] == ["is-right", "is-wrong", "is-wrong"] * 2
    groups = section(root, "rollouts").all("section", "group")
    assert [heading.text for heading in section(root, "rollouts").all("h4")] == [
        f"after {step} steps" for step in (0, 1, 2)
    ]
    shown = [[badge.text for badge in card.all("span", "badge")] for card in groups[0].all("article", "card")]
    assert shown[:3] == [["right"], ["wrong"], ["wrong", "truncated", "unformatted"]]
    assert len(shown) == 4  # of 6
    trees = section(root, "trees").all("section", "search")
    assert [tree.all("h5")[0].text for tree in trees] == ["beam n=4", "dvts n=4"]


def test_links_and_ids_hold_together(whole: Path) -> None:
    path = build_report([whole])
    text = path.read_text(encoding="utf-8")
    ids = re.findall(r'\bid=["\']([^"\']+)', text)
    assert len(ids) == len(set(ids))
    links = [link for link in re.findall(r'\bhref=["\']([^"\']+)', text) if not link.startswith("#")]
    assert {link[1:] for link in re.findall(r'\bhref=["\'](#[^"\']+)', text)} <= set(ids)
    assert links
    assert all((path.parent / link).is_file() for link in links)
    for file in (path.parent / "figures").glob("*.json"):
        assert json.loads(file.read_text(encoding="utf-8"))
        assert file.with_suffix(".svg").stat().st_size > 0
        assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_equal_runs_have_equal_pages(whole: Path, tmp_path: Path) -> None:
    made = [build_report([whole], tmp_path / name).read_text(encoding="utf-8") for name in ("a", "b")]
    first, second = ([line for line in text.split("\n") if "Made " not in line] for text in made)
    assert first == second
    for file in (tmp_path / "a" / "figures").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / "figures" / file.name).read_bytes()


def test_several_runs(whole: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "mine.seed1", difference=20.0)
    edit(other / "03_evaluate" / "metrics.json", **{"sums pass@1": 0.425})
    (other / "04_search" / "metrics.json").write_text("{", encoding="utf-8")
    root = read(build_report([whole, other], tmp_path / "page"))
    (row,) = section(root, "claims").all("table", "effects")[0].all("tr")[1:]
    assert "+30.0 [+25.0, +35.0]" in row.text
    assert "+20.0 [+15.0, +25.0]" in row.text
    assert "+25.0 [-38.5, +88.5]" in row.text  # 25 +- 12.71 * 7.07 / sqrt(2)
    assert "shown on each of 2 seeds, but the interval over seeds holds 0" in row.text
    (_, numbers) = section(root, "runs").all("tr")
    assert [cell.text for cell in numbers.all("td")][1:] == ["0.525 [-0.746, 1.796]", "0.625", "0.425"]
    assert [where.startswith("mine.seed1/04_search") for where in problems(root)] == [True]
    assert "slowthink run recipes/mine --seeds 2" in section(root, "again").text
    assert "SLOWTHINK_SEED=1 slowthink evaluate --config" in section(root, "again").text


def test_stages_side_by_side_took_less_than_all_together(whole: Path) -> None:
    """Times that are none are passed over."""
    edit(whole / "05_effects" / "manifest.json", ended="2026-01-01T01:02:00+01:00")
    edit(whole / "02_grpo" / "manifest.json", started="yesterday", ended=7)
    note = "of all stages together; 2m00s from the first start to the last end"
    assert note in read(build_report([whole])).all("header")[0].text


def test_a_stage_alone_stays_as_it_was(whole: Path) -> None:
    stage = whole / "03_evaluate"
    before = fingerprint(stage)
    path = build_report([stage])
    assert path == whole / "03_evaluate.report" / "index.html"
    assert len(read(path).all("details", "stage")) == 1
    assert fingerprint(stage) == before
    assert [found.name for found in find_stages(whole)] == list(STAGES)


def test_a_section_that_is_too_large_is_cut(whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(page, "MOST_BYTES", 3_000)
    root = read(build_report([whole], tmp_path))
    assert "more stages are left out" in section(root, "stages").text
    assert len(root.all("details", "stage")) < len(STAGES)


def test_a_run_that_did_not_end(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "mine"
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("report", "01_sample"))
    edit(run / "03_evaluate" / "manifest.json", status="running")  # and nothing runs
    edit(run / "04_search" / "manifest.json", status="failed", error="out of memory")
    for name in ("03_evaluate", "04_search"):
        (run / name / "metrics.json").unlink()
    root = read(build_report([run]))
    assert problems(root) == []
    (lead,) = root.all("p", "lead")
    assert lead.text == "Not whole: 03_evaluate is unfinished, 04_search is failed, 01_sample is not there."
    assert root.all("header")[0].facts()["stages"] == "2 of 5"
    opened = [stage.text for stage in root.all("details", "stage") if "open" in stage.attributes]
    assert len(opened) == 2
    assert "out of memory" in opened[1]


def test_an_empty_folder_has_a_page_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    root = read(build_report([tmp_path / "mine"]))
    assert "Nothing is here yet." in root.text
    assert problems(root) == ["mine no stage has written anything here"]


def test_what_is_refused(tmp_path: Path, whole: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="name at least one"):
        build_report([])
    for wrong in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(ValueError, match="is no folder"):
            build_report([whole, wrong])
    with pytest.raises(ValueError, match="cannot be written"):
        build_report([whole], tmp_path / "file" / "report")


# ------------------------------------------------------------------ in a browser


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["", ATTACKS[0] + ATTACKS[1]], ids=("plain", "attacked"))
def test_in_a_browser(tmp_path: Path, browser: Browser, attack: str) -> None:
    path = build_report([make_run(tmp_path / "run", attack)])
    backgrounds = []
    for width, scheme in ((1200, "light"), (1200, "dark"), (390, "light")):
        browser.open(path, width, scheme)
        browser.value("for (const part of document.querySelectorAll('details')) part.open = true")
        assert browser.value("document.documentElement.scrollWidth") <= width
        sizes = browser.value(
            "[...document.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect())"
            ".map(box => Math.min(box.width, box.height))"
        )
        assert len(sizes) >= 4
        assert min(sizes) > 50
        backgrounds.append(browser.value("getComputedStyle(document.body).backgroundColor"))
        ink = browser.value("getComputedStyle(document.querySelector('figure svg')).color")
        assert ink != backgrounds[-1]
        assert browser.complaints() == []
        assert browser.requests() == [path.as_uri()]
    assert backgrounds[0] == backgrounds[2] != backgrounds[1]
    browser.value("document.querySelector('#stage-0').open = false")
    browser.value("location.hash = '#stage-0'; dispatchEvent(new HashChangeEvent('hashchange'))")
    assert browser.value("document.querySelector('#stage-0 .inside').checkVisibility()")
