"""The strategies of a recipe: which there are, and the settings that an entry stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from data.did_you_mean import did_you_mean
from data.field_values import parse_mapping
from inference.search.strategies.auto import PLANNED, Auto
from inference.search.strategies.strategy import SearchStrategy, own_strategy

STRATEGIES: dict[str, type[SearchStrategy]] = {**PLANNED, Auto.label: Auto}


def parse_strategies(entries: Sequence[dict[str, Any]], key: str) -> list[SearchStrategy]:
    """The settings of a recipe's entries, in their order; a list of values makes one for each.

    Raises:
        ValueError: a mistake in an entry, or two settings of one name.
    """
    settings: list[SearchStrategy] = []
    for index, entry in enumerate(entries):
        try:
            settings += [_make(one) for one in _settings(entry)]
        except ValueError as error:
            raise ValueError(f"{key}[{index}]: {error}") from error
    if not settings:
        raise ValueError(f"{key}: give at least one, for example {{strategy: beam, n: 16, width: 4}}")
    (title, times), *_ = Counter(setting.title for setting in settings).most_common(1)
    if times > 1:
        raise ValueError(f"{key}: {times} settings are called {title!r}; give each entry its own `name`")
    return settings


def _settings(entry: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entry with one value in the place of each list; a name gets the value behind it."""
    swept = next((key for key, value in entry.items() if isinstance(value, list)), None)
    if swept is None:
        yield entry
        return
    if not entry[swept]:
        raise ValueError(f"{swept}: is an empty list")
    for value in entry[swept]:
        name = {"name": f"{entry['name']} {swept}={value}"} if entry.get("name") else {}
        yield from _settings({**entry, swept: value, **name})


def _make(entry: dict[str, Any]) -> SearchStrategy:
    label = str(entry.get("strategy"))
    if label not in STRATEGIES and ":" not in label:
        raise ValueError(f"strategy: {label!r} is none; {did_you_mean(label, STRATEGIES)}")
    options = {key: value for key, value in entry.items() if key != "strategy"}
    return parse_mapping(STRATEGIES.get(label) or own_strategy(label), options, label, "the strategy")
