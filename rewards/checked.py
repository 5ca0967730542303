"""A reward as the trainer may call it: whatever the function does, a mistake of it is one clear error."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rewards.registry import Reward
from rewards.texts import Turn

LARGEST = 3.4028234663852886e38
"""Of float32, in which the trainer holds rewards."""


def checked(reward: Reward) -> Callable[..., Any]:
    """The reward's function, which raises a ValueError that names the reward when it raises anything, or does
    not return one number (finite in float32) or None for each completion. Async functions stay async."""
    function: Any = reward.function
    call = function if inspect.isfunction(function) else function.__call__

    @functools.wraps(call)
    def run(*, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        with _named(reward.name):
            values = function(completions=completions, **columns)
        return _checked(reward.name, values, completions)

    @functools.wraps(call)
    async def run_async(*, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        with _named(reward.name):
            values = await function(completions=completions, **columns)
        return _checked(reward.name, values, completions)

    made: Any = run_async if inspect.iscoroutinefunction(call) else run
    made.__name__ = reward.name  # by which the trainer calls its metrics
    return made


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"reward {name!r} raised {type(error).__name__}: {error}; a reward must take any text: return "
            "None for what it cannot judge"
        ) from error


def _checked(name: str, values: Any, completions: Sequence[Turn]) -> list[float | None]:
    try:
        values = list(values)
    except TypeError:
        raise ValueError(
            f"reward {name!r} returned {type(values).__name__}, not a list with a number for each completion"
        ) from None
    if len(values) != len(completions):
        raise ValueError(
            f"reward {name!r} returned {len(values)} values for {len(completions)} completions; it must "
            "return one for each, in their order"
        )
    for value, completion in zip(values, completions, strict=True):
        if value is not None and not _is_finite(value):
            raise ValueError(
                f"reward {name!r} returned {value!r} for the completion {str(completion)[:200]!r}; return a "
                "number that is finite in float32, or None for what it cannot judge"
            )
    return [None if value is None else float(value) for value in values]


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value) and abs(value) <= LARGEST
    except (TypeError, ValueError):
        return False
