"""What a recipe may say of strategies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.step_formats import StepFormatOptions
from inference.scorers.reward_model import save_options
from inference.search.settings import parse_strategies
from inference.search.stage import SearchConfig, separator_of

BEAM = "inference.search.strategies.beam"


def test_lists_make_settings() -> None:
    entries = [
        {"strategy": "beam", "n": [4, 16], "width": 4},
        {"strategy": "revisions", "n": 4, "chains": [1, 2]},
        {"strategy": "majority", "n": [1, 2], "name": "votes"},
    ]
    assert [s.title for s in parse_strategies(entries, "strategies")] == [
        "beam n=4 width=4",
        "beam n=16 width=4",
        "revisions n=4",
        "revisions n=4 chains=2",
        "votes n=1",
        "votes n=2",
    ]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"strategy": "beem", "n": 4}, r"strategies\[0\]: strategy: 'beem' is none; did you mean 'beam'"),
        ({"n": 4}, "strategy: 'None' is none"),
        ({"strategy": "nowhere:Mine", "n": 4}, r"strategies\[0\]: strategy: cannot import 'nowhere'"),
        ({"strategy": "builtins:str", "n": 4}, "builtins:str is no subclass of .*:SearchStrategy"),
        ({"strategy": f"{BEAM}:Beam", "n": 4}, f"{BEAM}:Beam calls itself 'beam'; leave out its `label`"),
        ({"strategy": "beam", "n": 4, "with": 2}, "beam: the strategy has no 'with'; did you mean 'width'"),
        ({"strategy": "beam", "n": 10, "width": 4}, "n: 10 is not a multiple of width: 4; take n 8"),
        ({"strategy": "dvts", "n": 2, "width": 4}, "n: 2 is not a multiple of width: 4; take n 4"),
        ({"strategy": "beam", "n": "many"}, "n: 'many' is not of type int"),
        ({"strategy": "beam"}, "beam: n is missing; the strategy needs it"),
        ({"strategy": "beam", "n": []}, "n: is an empty list"),
        ({"strategy": "beam", "n": 0}, "n: 0 must be at least 1"),
        ({"strategy": "beam", "n": 4, "width": 0}, "width: 0 must be at least 1"),
        ({"strategy": "beam", "n": 4, "max_steps": 0}, "max_steps: 0 must be at least 1"),
        ({"strategy": "beam", "n": 4, "lookahead": -1}, "lookahead: -1 must not be negative"),
        (
            {"strategy": "rebase", "n": 4, "balance_temperature": 0.0},
            "balance_temperature: 0.0 must be above 0",
        ),
        ({"strategy": "mcts", "n": 4, "rule": "ucb"}, "rule: 'ucb' is not"),
        ({"strategy": "mcts", "n": 4, "exploration": -1.0}, "exploration: -1.0 must not be negative"),
        ({"strategy": "revisions", "n": 4, "chains": 3}, "chains: 3 must divide n: 4"),
        ({"strategy": "revisions", "n": 4, "wait_text": " "}, "wait_text: ' ' is blank"),
        ({"strategy": "auto", "planner": "x", "budget": 0.0}, "budget: 0.0 must be above 0"),
        ({"strategy": "auto", "budget": 5.0}, "auto: planner is missing"),
    ],
)
def test_mistakes_in_an_entry(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_strategies([entry], "strategies")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategies": []}, "strategies: give at least one"),
        ({"strategies": [{"strategy": "majority", "n": [4, 4]}]}, "2 settings are called 'majority n=4'"),
        ({"strategies": [{"strategy": "beam", "n": 4}]}, "scorer_model: strategy beam needs one"),
        ({"temperature": 0.0}, "temperature: with 0 all 4 completions of majority n=4 are alike"),
        ({"max_step_tokens": 0}, "max_step_tokens: 0 must be at least 1"),
        ({"budget_tokens": 0}, "budget_tokens: 0 must be at least 1"),
        ({"waits": 1}, "strategy revisions does budget forcing"),
        ({"aggregation": "last", "scorer": "nobody"}, "scorer: there is no 'nobody'"),
    ],
)
def test_mistakes_in_a_config(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"strategies": [{"strategy": "majority", "n": 4}], **changes}
    with pytest.raises(ValueError, match=message):
        SearchConfig(problems="p", model_name_or_path="m", **given)


def test_the_separator_is_that_of_the_reward_model(tmp_path: Path) -> None:
    save_options(tmp_path, StepFormatOptions(step_separator="\n"), of=StepFormatOptions)
    given: dict[str, Any] = {"problems": "p", "model_name_or_path": "m", "scorer_model": str(tmp_path)}
    given["strategies"] = [{"strategy": "beam", "n": 4}]
    assert separator_of(SearchConfig(**given)) == "\n"
    assert separator_of(SearchConfig(**{**given, "scorer_model": "other"})) == "\n\n"
    with pytest.raises(ValueError, match=r"step_separator: '\\n\\n' is not '\\n', with which"):
        separator_of(SearchConfig(**given, step_separator="\n\n"))
