"""A reward as the trainer may call it: on the rows that it applies to, and whatever the function does, a
mistake of it is one clear error."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from data.heartbeat import phase
from rewards.registry import Reward
from rewards.texts import Turn

LARGEST = 3.4028234663852886e38
"""Of float32, in which the trainer holds rewards."""
_NO_COLUMNS = ("trainer_state", "log_extra", "log_metric")
"""What TRL gives to rewards that is not one value for each completion."""


def checked(reward: Reward) -> Callable[..., Any]:
    """The reward's function, which raises a ValueError that names the reward when it raises anything, or does
    not return one number (finite in float32) or None for each completion. Async functions stay async.

    It is called with the rows that the reward applies to, and not at all where there are none; others are
    None.
    """
    function: Any = reward.function
    call = function if inspect.isfunction(function) else function.__call__

    @functools.wraps(call)
    def run(*, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        rows, kept = _applicable(reward, completions, columns)
        if not rows:
            return [None] * len(completions)
        with _named(reward.name), phase("reward"):
            values = function(**kept)
        return spread(_checked(reward.name, values, kept["completions"]), rows, len(completions))

    @functools.wraps(call)
    async def run_async(*, completions: Sequence[Turn], **columns: Any) -> list[float | None]:
        rows, kept = _applicable(reward, completions, columns)
        if not rows:
            return [None] * len(completions)
        with _named(reward.name):
            values = await function(**kept)
        return spread(_checked(reward.name, values, kept["completions"]), rows, len(completions))

    made: Any = run_async if inspect.iscoroutinefunction(call) else run
    made.__name__ = reward.name  # by which the trainer calls its metrics
    return made


def domains_of(columns: Mapping[str, Any], count: int) -> list[str]:
    """The domain of each of `count` rows, empty where it has none."""
    return [domain or "" for domain in columns.get("domain", [""] * count)]


def only(rows: Sequence[int], columns: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The columns of some of `count` rows; those that are kept whole stay the same objects."""
    if len(rows) == count:
        return dict(columns)
    return {
        key: value if key in _NO_COLUMNS else [value[row] for row in rows] for key, value in columns.items()
    }


def spread(values: Sequence[Any], rows: Sequence[int], count: int) -> list[Any]:
    """One value for each of `count` rows: those of `rows`, and None for the others."""
    found = dict(zip(rows, values, strict=True))
    return [found.get(row) for row in range(count)]


def _applicable(
    reward: Reward, completions: Sequence[Turn], columns: Mapping[str, Any]
) -> tuple[list[int], dict[str, Any]]:
    """The rows that the reward applies to, and what its function is called with."""
    count = len(completions)
    if reward.is_routed and "domain" not in columns:
        raise ValueError(f"reward {reward.name!r}: domains: the dataset has no column 'domain'")
    rows = [row for row, domain in enumerate(domains_of(columns, count)) if reward.applies_to(domain)]
    kept = only(rows, {**columns, "completions": completions}, count)
    log_extra = columns.get("log_extra")
    if log_extra is not None and len(rows) < count:
        kept["log_extra"] = lambda column, values: log_extra(column, spread(values, rows, count))
    return rows, kept


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
