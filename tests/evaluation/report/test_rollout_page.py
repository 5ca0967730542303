from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from data.rollouts import Rollout, write_rollouts
from data.store import write_json
from data.thinking import ANSWER_TAGS, THINK_TAGS
from evaluation.report.rollout_page import LONGEST_CHARACTERS, page
from evaluation.report.rollouts import Choice, select
from launch.cli import main
from tests.evaluation.report.page_elements import Element, Reader

RIGHT = Rollout(
    step=4,
    group=0,
    index=0,
    id="p0",
    question="What is 1 + 1?",
    answer="2",
    prompt="<|im_start|>user\nWhat is 1 + 1?",
    text=THINK_TAGS.render("One and one.", "\\boxed{2}"),
    tokens=1200,
    truncated=False,
    extracted="2",
    rule="string",
    verdict="correct",
    formatted=True,
    language_share=0.97,
    rewards={"accuracy": 1.0, "language": 0.25},
    reward=1.25,
    advantage=0.5,
    useful=True,
    trained=True,
)
WRONG = replace(
    RIGHT,
    extracted="3",
    verdict="wrong",
    rewards={"accuracy": 0.0, "language": 0.25},
    reward=0.25,
    advantage=-0.5,
)
UNDECIDED = replace(
    WRONG,
    extracted="",
    verdict="unverifiable",
    rewards={"accuracy": None, "language": None},
    reward=None,
    useful=False,
)
ALIKE = replace(WRONG, useful=False)
CUT_OFF = replace(WRONG, text="<think>\nHm", truncated=True, formatted=False)
REPLACED = replace(RIGHT, useful=False, trained=False, advantage=0.0)
VOID = {"meta", "input", "br", "img", "link", "hr"}
ALLOWED = (
    *(
        "html",
        "head",
        "meta",
        "title",
        "style",
        "script",
        "body",
        "header",
        "main",
        "footer",
        "form",
        "label",
    ),
    *(
        "input",
        "output",
        "section",
        "article",
        "details",
        "summary",
        "div",
        "span",
        "h1",
        "h2",
        "p",
        "b",
        "a",
    ),
    *("dl", "dt", "dd", "pre", "code", "bdi"),
)


def write(folder: Path, *groups: list[Rollout], **recipe: object) -> Path:
    rows = [
        replace(row, group=g, index=i, id=f"p{g}")
        for g, group in enumerate(groups)
        for i, row in enumerate(group)
    ]
    write_rollouts(folder, 4, rows)
    write_json(folder / "manifest.json", {"recipe": recipe})
    return folder


def tree(folder: Path, choice: Choice | None = None) -> Element:
    return Reader(page(select(folder, choice or Choice())), VOID).root


def cards(root: Element) -> list[Element]:
    return root.all("article", "card")


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    return write(tmp_path / "02_grpo", [RIGHT, WRONG, CUT_OFF], [REPLACED, REPLACED], [UNDECIDED, ALIKE])


def test_header_and_groups(stage: Path) -> None:
    root = tree(stage)
    (header,) = root.all("header")
    assert str(stage) in header.text
    assert "step 4" in header.text
    assert header.facts() == {
        "mean reward": "0.75",
        "right": "42.9%",
        "wrong": "3",
        "unverifiable": "1",
        "truncated": "1",
        "unformatted": "1",
        "mean tokens": "1,200.0",
        "groups": "3",
        "replaced": "1",
    }
    assert "Here:" not in header.text
    sections = root.all("section")
    assert [len(section.all("article")) for section in sections] == [3, 2, 2]
    for section, line, badges in zip(
        sections,
        ("1 of 3 right (33%), mean reward 0.5833", "2 of 2 right (100%)", "0 of 2 right (0%)"),
        (["useful"], ["replaced"], []),
        strict=True,
    ):
        (title,) = section.all("div", "title")
        assert line in title.text
        assert [badge.text for badge in title.all("span", "badge")] == badges
        (ask,) = section.all("dl", "ask")
        assert ask.facts() == {"question": "What is 1 + 1?", "gold answer": "2"}
        (details,) = section.all("details")
        assert details.all("pre")[0].text == RIGHT.prompt


def test_cards(stage: Path) -> None:
    root = tree(stage)
    right, wrong, cut_off, replaced, _, undecided, _ = cards(root)
    assert right.facts() == {
        "total": "1.25",
        "advantage": "+0.5",
        "tokens": "1,200",
        "accuracy": "1",
        "language": "0.25",
        "extracted": "2 gold 2",
        "rule": "string",
        "language share": "97%",
    }
    assert right.all("pre")[0].text == RIGHT.text
    assert wrong.facts()["extracted"] == "3 gold 2"
    assert undecided.facts()["total"] == undecided.facts()["accuracy"] == "-"
    assert undecided.facts()["extracted"] == "none gold 2"
    for card, classes, traits, badges in (
        (right, "card plus is-right", "right", ["right"]),
        (wrong, "card minus is-wrong", "wrong", ["wrong"]),
        (
            cut_off,
            "card minus is-wrong",
            "wrong truncated unformatted",
            ["wrong", "truncated", "unformatted"],
        ),
        (replaced, "card zero is-right", "right", ["right", "not trained on"]),
        (undecided, "card minus is-unverifiable", "unverifiable", ["unverifiable"]),
    ):
        assert card.attributes["class"] == classes
        assert card.attributes["data-traits"] == traits
        assert [badge.text for badge in card.all("span", "badge")] == badges


def test_tags_thinking_and_answer_are_coloured(tmp_path: Path) -> None:
    text = ANSWER_TAGS.render("One and one make 2.", "2")
    (card,) = cards(tree(write(tmp_path, [replace(RIGHT, text=text)], thinking_format="answer_tags")))
    (block,) = card.all("pre")
    assert [tag.text for tag in block.all("span", "tag")] == ["<think>", "</think>", "<answer>", "</answer>"]
    assert block.all("span", "thinking")[0].text.strip() == "One and one make 2."
    assert [answer.text for answer in block.all("span", "answer")] == ["2"]


def test_links_lead_to_the_cards_that_are_there(stage: Path) -> None:
    root = tree(stage, Choice(only="wrong"))
    ids = {card.attributes["id"] for card in cards(root)}
    targets = [link.attributes["href"] for link in root.all("a") if "href" in link.attributes]
    assert ids == {"g0c1", "g0c2", "g2c1"}
    assert {target.removeprefix("#") for target in targets} == ids
    assert len(root.all("a")) == 5  # of all completions of the two groups


def test_controls_count_what_is_on_the_page(stage: Path) -> None:
    root = tree(stage, Choice(only="wrong"))
    labels = [label.text.strip() for label in root.all("label")]
    assert labels == ["all 3", "right 0", "wrong 3", "unverifiable 0", "truncated 1", "unformatted 1"]
    assert [button.attributes["value"] for button in root.all("input") if "value" in button.attributes] == [
        "",
        *(label.split()[0] for label in labels[1:]),
    ]
    assert "Here: 3 completions in 2 of 2 groups (--only wrong)" in root.all("header")[0].text
    assert "hidden" in root.all("form")[0].attributes  # until the script runs


def test_the_page_needs_nothing_else(stage: Path) -> None:
    text = page(select(stage, Choice()))
    root = Reader(text, VOID).root
    assert not re.search(r"https?:|//[a-z]|url\(|@import| src=", text)
    (style,), (script,) = root.all("style"), root.all("script")
    policy = next(m.attributes["content"] for m in root.all("meta") if "http-equiv" in m.attributes)
    assert policy.startswith("default-src 'none';")
    for node, name in ((style, "style-src"), (script, "script-src")):
        digest = base64.b64encode(hashlib.sha256(node.text.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}'" in policy
    assert "prefers-color-scheme:dark" in style.text
    every = re.findall(r"<[a-z][^>]*>", text.replace(style.text, "").replace(script.text, ""))
    assert not [tag for tag in every if re.search(r"\s(on[a-z]+|style)\s*=", tag)]


ATTACKS = (
    "<script>alert(1)</script>",
    "</style></pre></article></main><img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)' x=\"",
    "<!-- --> <![CDATA[ ]]> &lt;b&gt; &amp;#60; </title><svg/onload=alert(1)>",
    "{{constructor}} ${alert(1)} `x` %s {0}",
    "\nbegins with a line break",
    "<plaintext><textarea><template><iframe srcdoc='x'>",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_whatever_a_model_wrote_is_text(tmp_path: Path, attack: str) -> None:
    row = replace(
        RIGHT,
        **dict.fromkeys(("id", "text", "question", "answer", "extracted", "rule", "prompt"), attack),
        rewards={"accuracy": 1.0, attack: 0.5},
    )
    folder = tmp_path / re.sub(r"[/\n]", "_", attack)
    write_rollouts(folder, 4, [row])
    root = tree(folder, Choice(contains=attack, id=attack))
    (card,) = cards(root)
    assert card.all("pre")[0].text == attack
    assert [block.text for block in root.all("section")[0].all("pre")] == [attack] * 4
    on_one_line = attack.replace("\n", "⏎")
    assert card.facts()["rule"] == on_one_line
    assert card.facts()[on_one_line] == "0.5"
    assert card.facts()["extracted"] == f"{on_one_line} gold {on_one_line}"
    assert on_one_line in root.all("div", "title")[0].text
    assert on_one_line in root.all("header")[0].text
    assert (len(root.all("script")), len(root.all("style"))) == (1, 1)
    assert not [tag for tag in ("img", "svg", "iframe", "template", "textarea") if root.all(tag)]
    written = page(select(folder, Choice())).split("<script>")[0]
    seen = set(re.findall(r"<([a-zA-Z][a-zA-Z0-9]*)", written))
    assert seen <= set(ALLOWED)


def test_what_is_not_seen_is_spelled_out(tmp_path: Path) -> None:
    text = "a\x00b\x1b[31mc\u200bd\u202ee\u2066f\x85g\rh\ufeff\tz"
    root = tree(write(tmp_path, [replace(RIGHT, text=text, extracted=text, answer=text, question=text)]))
    (card,) = cards(root)
    block = card.all("pre")[0]
    shown = "a␀b␛[31mc⟨U+200B⟩d⟨U+202E⟩e⟨U+2066⟩f⟨U+0085⟩g␍h⟨U+FEFF⟩\tz"
    assert block.text == shown
    assert len(block.all("span", "odd")) == 8
    assert not [c for c in root.text if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"]


def test_huge_texts_are_cut_with_the_number_of_characters(tmp_path: Path) -> None:
    text = THINK_TAGS.render("<b>&" * 500_000, "\\boxed{2}")
    row = replace(RIGHT, text=text, question="q" * 30_000, answer="9" * 30_000, extracted="8" * 30_000)
    folder = write(tmp_path, [row] * 4)
    written = page(select(folder, Choice()))
    assert len(written) < 4 * 8 * LONGEST_CHARACTERS
    root = Reader(written, VOID).root
    for card in cards(root):
        (block,) = card.all("pre")
        (note,) = block.all("span", "cut")
        assert f"{len(text) - LONGEST_CHARACTERS:,} characters left out" in note.text
        assert len(block.text) - len(note.text) == LONGEST_CHARACTERS
        assert block.text.endswith("\n</think>\n\n\\boxed{2}")
        assert len(card.facts()["extracted"]) < 600
    assert f"longer than {LONGEST_CHARACTERS:,} characters" in root.all("footer")[0].text
    assert f"{30_000 - LONGEST_CHARACTERS:,} characters left out" in root.all("dl", "ask")[0].text


def test_the_command_writes_all_groups_unless_a_limit_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = write(tmp_path / "02_grpo", *[[RIGHT, WRONG]] * 5), tmp_path / "new" / "page.html"
    assert main(["show", str(folder), "--rollouts", "--html", str(file)]) == 0
    assert capsys.readouterr().out == f"step 4: 5 of 5 groups -> {file}\n"
    assert len(cards(Reader(file.read_text(encoding="utf-8"), VOID).root)) == 10
    assert (
        main(["show", str(folder), "--rollouts", "--limit", "2", "--only", "right", "--html", str(file)]) == 0
    )
    root = Reader(file.read_text(encoding="utf-8"), VOID).root
    assert [card.attributes["id"] for card in cards(root)] == ["g0c0", "g1c0"]
    assert "Here: 2 completions in 2 of 5 groups (--only right)" in root.all("header")[0].text
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]
