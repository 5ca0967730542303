"""The registry: what a recipe's `rewards:` becomes, and every mistake named."""

from __future__ import annotations

import dataclasses
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
from trl.trainer.utils import get_callable_name

from data.stage_help import field_documents
from rewards.format import Format
from rewards.length import CosineLength, Overlong
from rewards.registry import REWARDS, build_rewards, reward_class

USERS_MODULE = """
from dataclasses import dataclass

def short(*, completions, **columns):
    return [1.0 - len(c) for c in completions]

async def waits(*, completions, **columns):
    return [0.0 for c in completions]

@dataclass(frozen=True, kw_only=True)
class Bonus:
    size: float = 1.0
    def __call__(self, *, completions, **columns):
        return [self.size for c in completions]

@dataclass
class Mute:
    size: float = 1.0

@dataclass(slots=True)
class Slotted:
    def __call__(self, **columns):
        return []

class Plain:
    def __call__(self, **columns):
        return []

NUMBER = 3
"""


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "users_rewards.py").write_text(USERS_MODULE)
    (tmp_path / "broken_rewards.py").write_text("import no_such_package_at_all")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize("name", REWARDS)
def test_every_named_reward_explains_its_parameters(name: str) -> None:
    cls = reward_class(name)
    assert dataclasses.is_dataclass(cls)
    assert callable(cls)
    assert "__call__" in vars(cls)
    assert {field.name for field in dataclasses.fields(cls)} == set(field_documents(cls))


def test_entries_become_named_and_weighted_callables() -> None:
    rewards = build_rewards(
        [
            "accuracy",
            {"name": "format", "weight": "5e-1", "strict_whitespace": True},
            {"name": "format", "label": "r1_format", "thinking_format": "answer_tags", "weight": 0},
            {"name": "cosine_length", "max_tokens": 4096, "max_value_correct": "2e0", "exceed_value": None},
        ],
        thinking_format="s1",
        thinking_prefilled=True,
    )
    assert [(r.name, r.weight) for r in rewards] == [
        ("accuracy", 1.0),
        ("format", 0.5),
        ("r1_format", 0.0),
        ("cosine_length", 1.0),
    ]
    assert [get_callable_name(r.function) for r in rewards] == [r.name for r in rewards]
    _, plain, labelled, cosine = [r.function for r in rewards]
    assert plain == Format(thinking_format="s1", thinking_prefilled=True, strict_whitespace=True)
    assert labelled == Format(thinking_format="answer_tags", thinking_prefilled=True)
    assert isinstance(cosine, CosineLength)
    assert cosine.max_value_correct == 2.0


def test_entries_for_some_domains_only() -> None:
    everywhere, math, prose = build_rewards(
        [
            "format",
            {"name": "accuracy", "domains": ["math", "physics"]},
            {"name": "language", "except_domains": ["math", ""]},
        ]
    )
    domains = ["math", "talk", ""]
    assert [everywhere.applies_to(domain) for domain in domains] == [True, True, True]
    assert [math.applies_to(domain) for domain in domains] == [True, False, False]
    assert [prose.applies_to(domain) for domain in domains] == [False, True, False]
    assert [reward.is_routed for reward in (everywhere, math, prose)] == [False, True, True]


def test_the_caller_may_have_more_rewards() -> None:
    (reward,) = build_rewards([{"name": "mine", "strict_whitespace": True}], more={"mine": Format})
    assert reward.function == Format(strict_whitespace=True)
    with pytest.raises(ValueError, match="no reward is called 'nine'; did you mean 'mine'"):
        build_rewards(["nine"], more={"mine": Format})


def test_a_reward_survives_pickling_with_its_name() -> None:
    (reward,) = build_rewards(
        [{"name": "overlong", "max_completion_tokens": 8, "cache_tokens": 4, "label": "o"}]
    )
    copy = pickle.loads(pickle.dumps(reward.function))
    assert copy == Overlong(max_completion_tokens=8, cache_tokens=4)
    assert get_callable_name(copy) == "o"


@pytest.mark.usefixtures("users_module")
def test_users_functions_and_dataclasses() -> None:
    specs = [f"users_rewards:{name}" for name in ("short", "waits", "Bonus")]
    rewards = build_rewards(
        [{"function": s, "weight": 2} for s in specs] + [{"function": specs[2], "size": 3, "label": "big"}]
    )
    assert [r.name for r in rewards] == ["short", "waits", "Bonus", "big"]
    assert [get_callable_name(r.function) for r in rewards] == [r.name for r in rewards]
    assert rewards[0].function(completions=["abc"]) == [-2.0]
    assert rewards[3].function(completions=["abc"]) == [3.0]


@pytest.mark.usefixtures("users_module")
@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "at least one entry"),
        ("accuracy", "must be a list"),
        (["acuracy"], r"rewards\[0\]: no reward is called 'acuracy'; did you mean 'accuracy'\?"),
        (["zzz"], "there are accuracy, format"),
        (["accuracy", 7], r"rewards\[1\]: 7 is neither a name nor a mapping"),
        ([{"weight": 1}], "neither a name nor a mapping"),
        ([{"name": "accuracy", "function": "a:b"}], "neither a name nor a mapping"),
        ([{"name": 3}], "name: 3 is not of type str"),
        ([{"name": "accuracy", "label": ""}], "label: '' is not"),
        ([{"name": "accuracy", "weight": "a lot"}], "weight: 'a lot' is not a finite number"),
        ([{"name": "accuracy", "weight": math.inf}], "weight: inf"),
        ([{"name": "accuracy", "weight": True}], "weight: True"),
        (
            [{"name": "accuracy", "domains": ["a"], "except_domains": ["b"]}],
            r"\(accuracy\): give either `domains` or `except_domains`",
        ),
        ([{"name": "accuracy", "domains": "talk"}], r"domains: 'talk' is no list of domains; write for exa"),
        ([{"name": "accuracy", "except_domains": []}], r"except_domains: \[\] is no list of domains"),
        ([{"name": "accuracy", "domains": [3]}], r"domains: \[3\] is no list of domains"),
        ([{"name": "accuracy", "domain": ["a"]}], "unknown key 'domain'; did you mean 'domains'"),
        ([{"name": "accuracy", "wieght": 2}], r"\(accuracy\): unknown key 'wieght'; did you mean 'weight'\?"),
        ([{"name": "format", "strict": True}], "unknown key 'strict'; did you mean 'strict_whitespace'"),
        ([{"name": "format", 3: True}], "unknown key 3"),
        ([{"name": "format", "strict_whitespace": "yes"}], "strict_whitespace: 'yes' is not of type bool"),
        ([{"name": "repetition", "over": "letters"}], "over: 'letters' is not one of 'tokens', 'words'"),
        ([{"name": "repetition", "max_penalty": 1}], r"rewards\[0\] \(repetition\): max_penalty: 1.0"),
        ([{"name": "format", "thinking_format": "tags"}], "thinking_format: 'tags'"),
        (["cosine_length"], r"\(cosine_length\): key 'max_tokens' is missing"),
        (["accuracy", {"name": "accuracy", "gold": "solution"}], r"rewards\[1\]: a second 'accuracy'.*label"),
        ([{"function": "users_rewards"}], "must be written module:attribute"),
        ([{"function": "no_such_module:f"}], "cannot import 'no_such_module'"),
        ([{"function": "broken_rewards:f"}], "cannot import 'broken_rewards'.*no_such_package_at_all"),
        ([{"function": "users_rewards:shrt"}], "has no 'shrt'; did you mean 'short'"),
        ([{"function": "users_rewards:NUMBER"}], "is no function and no dataclass"),
        ([{"function": "users_rewards:Plain"}], "is no function and no dataclass"),
        ([{"function": "users_rewards:Mute"}], "must have a __call__"),
        ([{"function": "users_rewards:Slotted"}], "no slots"),
        ([{"function": "users_rewards:short", "size": 3}], r"\(short\): 'size' is only for"),
        ([{"function": "users_rewards:short", "label": "s"}], "'label' is only for"),
    ],
)
def test_mistakes_are_named(specs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_rewards(specs)
