"""What a reward of a user may do wrong."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from rewards.checked import checked
from rewards.registry import Reward, build_rewards


def made(function: Any, name: str = "mine") -> Any:
    return checked(Reward(name=name, weight=1.0, function=function))


def test_numbers_and_none_pass() -> None:
    reward = made(lambda *, completions, **_: [1, None, 0.5][: len(completions)])
    assert reward(completions=["a", "b", "c"], answer=["1"] * 3) == [1.0, None, 0.5]
    assert reward.__name__ == "mine"


def test_numpy_and_torch_numbers_pass() -> None:
    import numpy as np
    import torch

    assert made(lambda **_: np.array([0.5, 1.0]))(completions=["a", "b"]) == [0.5, 1.0]
    assert made(lambda **_: torch.tensor([0.5, 1.0]))(completions=["a", "b"]) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "'mine' returned 1 values for 2 completions"),
        ([1.0, math.nan], "'mine' returned nan for the completion 'two'"),
        ([math.inf, 0.0], "'mine' returned inf for the completion 'one'"),
        (
            [1e39, 0.0],
            "'mine' returned 1e\\+39 for the completion 'one'; return a number that is finite in float32",
        ),
        ([1.0, "much"], "'mine' returned 'much' for the completion 'two'"),
        (1.0, "'mine' returned float, not a list"),
        (None, "'mine' returned NoneType, not a list"),
    ],
)
def test_anything_else_is_an_error_that_names_the_reward(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(lambda **_: values)(completions=["one", "two"])


def test_an_exception_of_it_is_named() -> None:
    def fails(**_: Any) -> list[float]:
        raise KeyError("golds")

    with pytest.raises(ValueError, match="reward 'mine' raised KeyError: 'golds'"):
        made(fails)(completions=["one"])


def test_an_async_reward_stays_one() -> None:
    async def later(*, completions: Any, **_: Any) -> list[float]:
        await asyncio.sleep(0)
        return [math.nan for _ in completions]

    reward = made(later)
    from trl.trainer.utils import is_async_callable

    assert is_async_callable(reward)
    with pytest.raises(ValueError, match="returned nan"):
        asyncio.run(reward(completions=["one"]))


def test_the_rewards_of_the_project_pass() -> None:
    [accuracy] = [checked(reward) for reward in build_rewards([{"name": "accuracy", "label": "right"}])]
    assert accuracy.__name__ == "right"
    assert accuracy(completions=["\\boxed{3}", "\\boxed{4}"], answer=["3", "3"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="reward 'right' raised ValueError: gold: the dataset has no column"):
        accuracy(completions=["x"], gold=["3"])


def routed(function: Any, **domains: Any) -> Any:
    return checked(Reward(name="mine", weight=1.0, function=function, **domains))


COLUMNS: dict[str, Any] = {
    "completions": ["a", "b", "c"],
    "answer": ["1", "2", "3"],
    "domain": ["talk", "math", "talk"],
    "trainer_state": object(),
}


def test_a_reward_sees_only_the_rows_that_it_applies_to() -> None:
    seen: list[dict[str, Any]] = []
    extra: list[tuple[str, list[Any]]] = []

    def mine(**columns: Any) -> list[float | None]:
        seen.append(columns)
        columns["log_extra"]("why", list(columns["answer"]))
        return [float(answer) for answer in columns["answer"]]

    columns = {**COLUMNS, "log_extra": lambda *given: extra.append(given)}
    assert routed(mine, domains=("talk",))(**columns) == [1.0, None, 3.0]
    assert routed(mine, except_domains=("talk",))(**columns) == [None, 2.0, None]
    assert [call["completions"] for call in seen] == [["a", "c"], ["b"]]
    assert seen[0]["trainer_state"] is COLUMNS["trainer_state"]
    assert extra == [("why", ["1", None, "3"]), ("why", [None, "2", None])]
    assert routed(mine, domains=("code",))(**columns) == [None, None, None]
    assert len(seen) == 2, "it is not called for nothing"
    with pytest.raises(ValueError, match="'mine': domains: the dataset has no column 'domain'"):
        routed(mine, domains=("talk",))(completions=["a"])


def test_an_async_reward_too() -> None:
    called = []

    async def later(*, completions: Any, **_: Any) -> list[float]:
        called.append(completions)
        return [0.5 for _ in completions]

    assert asyncio.run(routed(later, domains=("math",))(**COLUMNS)) == [None, 0.5, None]
    assert asyncio.run(routed(later, except_domains=("math", "talk"))(**COLUMNS)) == [None] * 3
    assert called == [["b"]]
