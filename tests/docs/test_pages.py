"""The pages hang together: links lead somewhere, the index has all of them, each says what it is about."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

LINK = re.compile(r"\[[^]\n]*\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for link in LINK.findall(re.sub(r"(?m)^(    .*|```[\s\S]*?^```)$", "", text)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{page}: {link}: no such heading"


def test_the_index_has_every_page_once() -> None:
    linked = LINK.findall((ROOT / "docs" / "README.md").read_text())
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    examples = {f"examples/{path.name}" for path in (ROOT / "docs" / "examples").glob("*.*")}
    assert pages | examples <= set(linked)
    assert len(linked) == len(set(linked))


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_a_page_begins_with_what_it_answers(page: str) -> None:
    title, blank, first = (ROOT / page).read_text().split("\n")[:3]
    assert title.startswith("# ")
    assert not blank
    assert page == "docs/README.md" or re.match(r"[A-Z][^|]{20,}", first), first


def test_words_of_files_in_pages_exist() -> None:
    """`data/schema.py`, `tests/faults` and the like in the text of a page."""
    folders = "benchmarks|data|docs|evaluation|inference|launch|recipes|rewards|tests|training"
    for page in PAGES:
        for name in re.findall(rf"`((?:{folders})/[\w/-]+(?:\.\w+)?)`", (ROOT / page).read_text()):
            found = [Path(name), Path(name).with_name(Path(name).name + ".yaml")]
            assert any((ROOT / path).exists() for path in found), f"{page}: {name}"
