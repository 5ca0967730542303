from __future__ import annotations

import io
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from data.rollouts import Rollout, write_rollouts
from data.store import write_json
from data.thinking import S1, THINK_TAGS
from evaluation.report.rollouts import (
    COMPLETION_TRAITS,
    GROUP_TRAITS,
    Choice,
    View,
    number,
    select,
    step_ranges,
)
from launch.cli import main
from launch.rollout_terminal import GROUPS, LONGEST_CHARACTERS, print_rollouts

ROLLOUT = Rollout(
    step=0,
    group=0,
    index=0,
    id="p0",
    question="What is 1 + 1?",
    answer="2",
    prompt="<|im_start|>user\nWhat is 1 + 1?",
    text=THINK_TAGS.render("One and one.", "\\boxed{2}"),
    tokens=12,
    truncated=False,
    extracted="2",
    rule="string",
    verdict="correct",
    formatted=True,
    language_share=None,
    rewards={"accuracy": 1.0, "format": 1.0},
    reward=2.0,
    advantage=0.5,
    useful=True,
    trained=True,
)
RIGHT = ROLLOUT
WRONG = replace(
    ROLLOUT,
    extracted="3",
    verdict="wrong",
    rewards={"accuracy": 0.0, "format": 1.0},
    reward=1.0,
    advantage=-0.5,
)
UNDECIDED = replace(WRONG, extracted="=", verdict="unverifiable", rewards={"accuracy": None, "format": 1.0})
CUT_OFF = replace(
    WRONG, text="<think>\nHm", truncated=True, formatted=False, rewards={"accuracy": 0.0, "format": 0.0}
)


def alike(row: Rollout) -> Rollout:
    """The row in a group whose completions have one and the same reward."""
    return replace(row, useful=False, advantage=0.0)


def numbered(*groups: list[Rollout], step: int = 0) -> list[Rollout]:
    """Rows of the log, numbered by group and place; problem pN is that of group N."""
    return [
        replace(row, step=step, group=g, index=i, id=f"p{g}")
        for g, rows in enumerate(groups)
        for i, row in enumerate(rows)
    ]


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Steps 0 to 2 and 5; step 5 has a mixed, a uniform and replaced, and an undecided group."""
    folder = tmp_path / "r1" / "02_grpo"
    for step in (0, 1, 2):
        write_rollouts(folder, step, numbered([RIGHT, WRONG], step=step))
    replaced = replace(RIGHT, useful=False, trained=False, advantage=0.0)
    rows = numbered([RIGHT, WRONG, CUT_OFF], [replaced, replaced], [alike(UNDECIDED), alike(WRONG)], step=5)
    write_rollouts(folder, 5, rows)
    write_json(folder / "manifest.json", {"recipe": {"rewards": ["accuracy", "format"]}})
    return folder


def chosen(view: View) -> list[tuple[int, int]]:
    """(group, index) of what was chosen."""
    return [(j.rollout.group, j.rollout.index) for group in view.groups for j in group.chosen]


def printed(view: View, width: int = 200, **console: Any) -> str:
    output = io.StringIO()
    print_rollouts(view, Console(file=output, width=width, **console))
    return output.getvalue()


@pytest.mark.parametrize(
    ("choice", "rows"),
    [
        (Choice(), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1)]),
        (Choice(only="right"), [(0, 0), (1, 0), (1, 1)]),
        (Choice(only="wrong"), [(0, 1), (0, 2), (2, 1)]),
        (Choice(only="unverifiable"), [(2, 0)]),
        (Choice(only="truncated"), [(0, 2)]),
        (Choice(only="unformatted"), [(0, 2)]),
        (Choice(only="useful"), [(0, 0), (0, 1), (0, 2)]),
        (Choice(only="replaced"), [(1, 0), (1, 1)]),
        (Choice(contains="Hm"), [(0, 2)]),
        (Choice(id="p2", only="wrong"), [(2, 1)]),
        (Choice(limit=1), [(0, 0), (0, 1), (0, 2)]),
        (Choice(only="right", limit=1), [(0, 0)]),
        (Choice(step="first"), [(0, 0), (0, 1)]),
        (Choice(step="2", only="wrong"), [(0, 1)]),
    ],
    ids=str,
)
def test_choices(stage: Path, choice: Choice, rows: list[tuple[int, int]]) -> None:
    assert chosen(select(stage, choice)) == rows


def test_numbers_of_a_step_are_of_all_completions(stage: Path) -> None:
    view = select(stage, Choice(only="unverifiable"))
    assert view.step == 5
    assert view.logged == [0, 1, 2, 5]
    assert view.counts == {
        "right": 3,
        "wrong": 3,
        "unverifiable": 1,
        "truncated": 1,
        "unformatted": 1,
        "useful": 1,
        "replaced": 1,
    }
    assert view.mean_reward == pytest.approx((3 * 2 + 4 * 1) / 7)
    assert [(group.right, len(group.all), len(group.chosen)) for group in view.groups] == [(0, 2, 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "3"], r"step 3 was not logged; logged steps of .*02_grpo are 0 to 2, 5$"),
        (["--step", "-1"], r"step -1 was not logged; .* 0 to 2, 5$"),
        (["--step", "lats"], r"'lats' is neither a number nor first or last; .* 0 to 2, 5$"),
        (["--limit", "0"], r"--limit: 0 must be at least 1"),
        (["--id", "p9"], r"step 5 has no problem 'p9'; its problems are p0, p1, p2$"),
        (
            ["--only", "unverifiable", "--contains", "zebra"],
            r"nothing matches --only unverifiable --contains zebra; of its 7 completions are 3 right, "
            r"3 wrong, 1 unverifiable, 1 truncated, 1 unformatted; of its 3 groups are 1 useful, 1 replaced$",
        ),
        (["--html", "/dev/null/page.html"], r"--html: /dev/null/page.html cannot be written"),
    ],
)
def test_mistakes_name_what_there_is(
    stage: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["show", str(stage), "--rollouts", *arguments]) == 2
    shown = capsys.readouterr()
    assert re.search(message, shown.err.strip()), shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("absent", r"absent does not exist; name the folder of a GRPO stage"),
        ("r1", r"r1: no rollouts here; stages with rollouts in it: 02_grpo"),
        ("r1/02_grpo/rollouts", r"no rollouts here; only GRPO stages write them"),
    ],
)
def test_folders_without_rollouts(stage: Path, folder: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(stage.parents[1] / folder, Choice())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--step", "1"],
        ["--only", "right"],
        ["--contains", "x"],
        ["--id", "p0"],
        ["--limit", "2"],
        ["--html", "x"],
    ],
)
def test_rollout_options_need_rollouts(
    stage: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main(["show", str(stage), *arguments]) == 2
    assert f"{arguments[0]} is for rollouts; add --rollouts" in capsys.readouterr().err


def test_only_takes_every_trait_and_nothing_else(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for trait in (*COMPLETION_TRAITS, *GROUP_TRAITS):
        assert main(["show", str(stage), "--rollouts", "--only", trait]) == 0
    with pytest.raises(SystemExit):
        main(["show", str(stage), "--rollouts", "--only", "rihgt"])
    assert "invalid choice: 'rihgt'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([7], "7"),
        ([0, 1, 2], "0 to 2"),
        ([0, 10, 20], "0 to 20 in steps of 10"),
        ([0, 10], "0, 10"),
        ([0, 1, 4, 6, 7], "0 to 1, 4, 6 to 7"),
        ([n * n for n in range(3, 15)], "9, 16, 25, 36, 49, 64, ..., 196"),
    ],
)
def test_step_ranges(steps: list[int], words: str) -> None:
    assert step_ranges(steps) == words


@pytest.mark.parametrize(
    ("value", "sign", "shown"),
    [(None, "+", "-"), (-0.0, "", "0"), (0.0, "+", "0"), (0.125, "+", "+0.125"), (-1 / 3, "", "-0.3333")],
)
def test_number(value: float | None, sign: str, shown: str) -> None:
    assert number(value, sign) == shown


def hostile(text: str) -> Rollout:
    return replace(RIGHT, text=text, extracted=text, question=text, answer=text, rule=text)


def test_nothing_that_a_model_wrote_steers_the_terminal(tmp_path: Path) -> None:
    text = "[bold]x[/bold] [/] [link=file:///etc] :smile: \x1b]0;title\x07 \x1b[31m \x9b1m \u202e \r\b\x00"
    write_rollouts(tmp_path, 0, numbered([hostile(text)]))
    view = select(tmp_path, Choice())
    coloured = printed(view, 2000, force_terminal=True, color_system="truecolor")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert plain != coloured
    odd = {c for c in plain if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"}
    assert odd == set()
    assert plain.count("[bold]x[/bold] [/] [link=file:///etc] :smile: ␛]0;title␇ ␛[31m") == 5


def test_thinking_tags_and_answer_have_colours_of_their_own(stage: Path) -> None:
    view = select(stage, Choice(only="right", limit=1))
    shown = printed(view, force_terminal=True, color_system="standard")
    assert "\x1b[1;35m<think>\x1b[0m" in shown
    assert "\x1b[36mOne and one.\x1b[0m" in shown
    assert "\x1b[1;4;32m2\x1b[0m}" in shown


def test_tags_are_those_of_the_stages_thinking_format(tmp_path: Path) -> None:
    text = S1.render("One.", "\\boxed{2}")
    write_rollouts(tmp_path, 0, numbered([replace(RIGHT, text=text)]))
    write_json(tmp_path / "manifest.json", {"recipe": {"thinking_format": "s1"}})
    shown = printed(select(tmp_path, Choice()), force_terminal=True, color_system="standard")
    assert "\x1b[1;35m<|im_start|>think\x1b[0m" in shown
    assert "\x1b[1;35m<|im_start|>answer\x1b[0m" in shown
    write_json(tmp_path / "manifest.json", {"recipe": {"thinking_format": "s2"}})
    with pytest.raises(ValueError, match="thinking_format: 's2' is not one of think_tags"):
        select(tmp_path, Choice())


def test_what_is_printed_of_a_completion(stage: Path) -> None:
    shown = printed(select(stage, Choice()))
    for part in (
        "step 5 of 0 to 2, 5: 7 completions in 3 groups, mean reward 1.429",
        "completions: 3 right, 3 wrong, 1 unverifiable, 1 truncated, 1 unformatted; ",
        "groups: 1 useful, 1 replaced",
        "group 0 of 3  id p0  1 of 3 right  useful",
        "question  What is 1 + 1?",
        "    gold  2",
        "#0 ✓ right  reward 2  advantage +0.5  12 tokens",
        "accuracy 1  format 1  extracted 2  rule string",
        "#2 ✗ wrong  truncated  unformatted  reward 1  advantage -0.5",
        "group 1 of 3  id p1  2 of 2 right  replaced",
        "#0 ✓ right  not trained on  reward 2  advantage 0",
        "#0 ? unverifiable  reward 1",
        "accuracy -  format 1  extracted =",
        "3 of 3 groups",
    ):
        assert part in shown


def test_the_terminal_gets_three_groups_unless_a_limit_is_given(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 0, numbered(*[[RIGHT, WRONG]] * 5))

    def count(shown: str) -> int:
        return len(re.findall(r"^group \d of 5", shown, re.MULTILINE))

    shown = printed(select(tmp_path, Choice()))
    assert count(shown) == GROUPS == 3
    assert "3 of 5 groups; --limit 5 prints all" in shown
    assert count(printed(select(tmp_path, Choice(limit=5)))) == 5
    few = printed(select(tmp_path, Choice(limit=1, only="wrong")))
    assert count(few) == 1
    assert "1 of 5 groups that match; --limit 5 prints all" in few
    assert "2 right  useful  1 shown" in few


def test_huge_texts_are_cut_in_the_terminal(tmp_path: Path) -> None:
    write_rollouts(tmp_path, 0, numbered([replace(RIGHT, text="z" * 1_000_000)]))
    shown = printed(select(tmp_path, Choice()))
    assert shown.count("z") == LONGEST_CHARACTERS
    assert "996,000 characters left out" in shown


def test_the_command_prints_the_last_step(stage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(stage), "--rollouts", "--id", "p1"]) == 0
    shown = capsys.readouterr().out
    assert "step 5 of 0 to 2, 5" in shown
    assert "group 1 of 3" in shown
    assert "group 0" not in shown
