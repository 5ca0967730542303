from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rollouts import Rollout, logged_steps, read_rollouts, remove_rollouts, write_rollouts
from rewards.registry import build_rewards
from training.learned_reward import LEARNED_REWARDS
from training.rollouts import (
    Drawn,
    Facts,
    Group,
    Reader,
    choose_groups,
    correctness_column,
    is_useful,
    replacements,
)
from training.watch import step_metrics

FACTS = Facts(extracted="", rule="", formatted=False, language_share=None)
NAN = math.nan


def group(question: int, useful: bool) -> Group:
    drawn = Drawn(token_ids=[1], text="x", truncated=False, logprobs=None, facts=FACTS)
    return Group(
        question=question, rows=[drawn], rewards=[[1.0]], totals=[1.0], verdicts=["correct"], useful=useful
    )


@pytest.mark.parametrize(
    ("rewards", "totals", "weights", "aggregation", "useful"),
    [
        ([[1.0, 0.0], [0.0, 0.0]], [1.0, 0.0], [1, 1], "sum_then_normalize", True),
        ([[1.0, 0.0], [1.0, 0.0]], [1.0, 1.0], [1, 1], "sum_then_normalize", False),
        ([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0], [1, 1], "sum_then_normalize", False),
        ([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0], [1, 1], "normalize_then_sum", True),
        ([[1.0, 0.0], [1.0, 1.0]], [1.0, 1.0], [1, 0], "normalize_then_sum", False),
        ([[1.0, 0.0], [1.0, 1.0]], [0.0, -1.0], [0, -1], "normalize_then_sum", True),
        ([[NAN, NAN], [1.0, 0.0]], [NAN, 1.0], [1, 1], "sum_then_normalize", False),
        ([[NAN], [NAN]], [NAN, NAN], [1], "sum_then_normalize", False),
    ],
)
def test_useful(rewards: Any, totals: Any, weights: Any, aggregation: str, useful: bool) -> None:
    assert is_useful(rewards, totals, weights, aggregation) == useful


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 12))
def test_chosen_groups_are_useful_ones_first_in_the_order_drawn(flags: list[bool], wanted: int) -> None:
    groups = [group(i, flag) for i, flag in enumerate(flags)]
    chosen = choose_groups(groups, wanted)
    assert len(chosen) == min(wanted, len(groups))
    assert [g.question for g in chosen] == sorted(g.question for g in chosen)
    assert sum(g.useful for g in chosen) == min(len(chosen), sum(flags))


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 16), st.integers(1, 4))
def test_replacements_are_enough_and_no_more_than_a_generation(
    flags: list[bool], wanted: int, multiple: int
) -> None:
    count = replacements([group(i, flag) for i, flag in enumerate(flags)], wanted, multiple)
    missing = wanted - sum(flags)
    assert count % multiple == 0
    assert (count == 0) == (missing <= 0)
    if missing > 0:
        assert missing <= count < wanted + multiple


def test_the_reward_that_tells_what_is_right() -> None:
    def column(*specs: Any) -> int | None:
        return correctness_column(build_rewards(specs))

    assert column("format", "accuracy") == 1
    assert column("format", {"name": "countdown"}) == 1
    assert column("format", "tag_count") == 0
    assert column({"name": "overlong", "max_completion_tokens": 9, "cache_tokens": 3}, "code") == 1


MIXED = [
    "format",
    {"name": "accuracy", "domains": ["math"]},
    {"name": "countdown", "domains": ["game"]},
    {"name": "reward_model", "domains": ["talk"], "model": "m"},
]


def test_what_is_right_depends_on_the_domain() -> None:
    rewards = build_rewards(MIXED, more=LEARNED_REWARDS)
    reader = Reader(rewards, "think_tags", prefilled=False, language=None)
    assert [correctness_column(rewards, domain) for domain in ("math", "game", "talk")] == [1, 2, None]
    assert reader.verdict([1, 1, NAN, NAN], "math") == "correct"
    assert reader.verdict([1, NAN, 0, NAN], "game") == "wrong"
    assert reader.verdict([1, NAN, NAN, 1], "talk") == "unverifiable"
    assert [reader.is_checkable(domain) for domain in ("math", "talk")] == [True, False]
    assert correctness_column([rewards[0], rewards[3]], "talk") == 0, "nothing claims to tell it"
    assert correctness_column([rewards[3]], "talk") is None, "a score is no verdict"

    columns = {"answer": ["8", "8", "8"], "domain": ["math", "talk", "math"]}
    facts = reader.facts(["\\boxed{8}", "\\boxed{8}", "\\boxed{7}"], columns)
    assert [fact.extracted for fact in facts] == ["8", "", "7"], "nobody reads an answer in talk"


def test_questions_that_nobody_can_check_are_neither_right_nor_wrong() -> None:
    def made(verdicts: list[Any], total: float, checkable: bool) -> Group:
        one = group(0, True)
        return replace(
            one,
            rows=one.rows * len(verdicts),
            rewards=[[total]] * len(verdicts),
            totals=[total] * len(verdicts),
            verdicts=verdicts,
            checkable=checkable,
        )

    math_group, talk = made(["correct", "wrong"], 1.0, True), made(["unverifiable"] * 2, 0.5, False)
    both, alone = step_metrics([math_group, talk], []), step_metrics([math_group], [])
    same = ("rollouts/right", "rollouts/unverifiable", "groups/all_wrong", "rollouts/length_wrong")
    assert {name: both[name] for name in same} == {name: alone[name] for name in same}
    assert (both["rollouts/right"], both["rollouts/unverifiable"], both["groups/all_wrong"]) == (0.5, 0, 0)
    assert both["rollouts/reward"] == 0.75
    assert math.isnan(step_metrics([talk], [])["rollouts/right"])


def test_facts_of_completions() -> None:
    rewards = build_rewards(["format", "accuracy"])
    reader = Reader(rewards, "think_tags", prefilled=False, language="en")
    english = "So we have three apples and five pears, which makes eight fruits in total."
    completions = [f"<think>\n{english}\n</think>\n\n\\boxed{{8}}", "8 or so", "<think>\nhm"]
    facts = reader.facts(completions, {"answer": ["8", "8", "8"]})
    assert [fact.extracted for fact in facts] == ["8", "", ""]
    assert facts[0].formatted
    assert not facts[1].formatted
    assert facts[0].language_share == 1.0
    assert facts[2].rule == "no_answer"
    assert [reader.verdict(row) for row in ([1, 1], [1, 0], [0, NAN])] == ["correct", "wrong", "unverifiable"]


def test_the_thinking_may_be_opened_by_the_prompt() -> None:
    reader = Reader(build_rewards(["accuracy"]), "think_tags", prefilled=True, language=None)
    [fact] = reader.facts(["so\n</think>\n\n\\boxed{8}"], {"answer": ["8"]})
    assert fact.formatted
    assert fact.extracted == "8"


def test_the_rollout_log_gives_back_what_was_written(tmp_path: Any) -> None:
    rows = [
        Rollout(
            step=7,
            group=0,
            index=i,
            id="p",
            question="q?",
            answer="8",
            prompt="q?\n",
            text="lone \ud800 surrogate" if i else "<think>\n",
            tokens=3,
            truncated=bool(i),
            extracted="",
            rule="no_answer",
            verdict="wrong",
            formatted=False,
            language_share=None if i else 0.5,
            rewards={"accuracy": 0.0, "judge": None},
            reward=0.0,
            advantage=-0.5,
            useful=True,
            trained=True,
        )
        for i in range(2)
    ]
    write_rollouts(tmp_path, 7, rows)
    first, second = read_rollouts(tmp_path, 7)
    assert first == rows[0]
    assert second.text == "lone ? surrogate"
    assert second.rewards == {"accuracy": 0.0, "judge": None}
    assert logged_steps(tmp_path) == [7]
    write_rollouts(tmp_path, 9, rows)
    remove_rollouts(tmp_path, 8)
    assert logged_steps(tmp_path) == [7]
    with pytest.raises(ValueError, match="step-000008"):
        list(read_rollouts(tmp_path, 8))
