"""The rewards that a recipe can name, and how its `rewards:` list becomes callables for TRL.

rewards:
  - accuracy
  - {name: format, weight: 0.5, thinking_format: answer_tags}
  - {function: my_package.my_module:my_reward, weight: 0.2}
  - {name: judge, domains: [talk], base_url: ..., model: ...}

An entry with `domains:` (or `except_domains:`) applies to questions of these domains (of others) alone; for
the rest it is None and is not even called (`rewards/checked.py`). So rules and preference models share a run
(DeepSeek-R1, arXiv 2501.12948, section 2.3.4).
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.did_you_mean import did_you_mean
from data.field_values import describe, fits, is_required
from data.own_code import load_own_code

REWARDS: dict[str, str] = {
    "accuracy": "rewards.accuracy:Accuracy",
    "format": "rewards.format:Format",
    "tag_count": "rewards.format:TagCount",
    "reasoning_steps": "rewards.format:ReasoningSteps",
    "overlong": "rewards.length:Overlong",
    "cosine_length": "rewards.length:CosineLength",
    "kimi_length": "rewards.length:KimiLength",
    "repetition": "rewards.repetition:Repetition",
    "language": "rewards.language:Language",
    "code": "rewards.code:Code",
    "countdown": "rewards.countdown:Countdown",
    "judge": "rewards.judge:Judge",
}
"""Name in a recipe -> module:class. A reward's module is imported when a recipe names it."""
_DOMAIN_KEYS = ("domains", "except_domains")
_ENTRY_KEYS = ("name", "function", "weight", "label", *_DOMAIN_KEYS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """One entry of a recipe's `rewards:`, ready for the trainer."""

    name: str
    """Names its metrics: the entry's label, else its name."""
    weight: float
    function: Callable[..., Any]
    """Called as TRL calls rewards; `function.__name__` is `name`."""
    domains: tuple[str, ...] = ()
    """Domains of the questions that it applies to; empty for all."""
    except_domains: tuple[str, ...] = ()
    """Domains that it does not apply to."""

    @property
    def is_routed(self) -> bool:
        """Whether it applies to some domains only."""
        return bool(self.domains or self.except_domains)

    def applies_to(self, domain: str) -> bool:
        """Whether it applies to questions of this domain."""
        return domain not in self.except_domains and (not self.domains or domain in self.domains)


def build_rewards(
    specs: Sequence[str | dict[str, Any]],
    thinking_format: str = "think_tags",
    thinking_prefilled: bool = False,
    *,
    more: Mapping[str, type] | None = None,
) -> list[Reward]:
    """The rewards of a recipe, in order.

    An entry is a name, or a mapping with `name` (or `function`, a module:attribute of the user), `weight`,
    `label`, `domains` or `except_domains`, and the reward's own parameters. A `function` that is a dataclass
    takes parameters as well. `thinking_format` and `thinking_prefilled` are the recipe's, for rewards that
    have such a parameter and are not given their own.

    Args:
        more: dataclasses of further rewards by name, which the caller has beside REWARDS.

    Raises:
        ValueError: unknown name or parameter, wrong type, an import that fails, two rewards of one name.
    """
    if not isinstance(specs, list | tuple) or not specs:
        raise ValueError("rewards: must be a list with at least one entry, such as [accuracy]")
    defaults = {"thinking_format": thinking_format, "thinking_prefilled": thinking_prefilled}
    rewards: list[Reward] = []
    for index, spec in enumerate(specs):
        reward = _build(spec, f"rewards[{index}]", defaults, more or {})
        if reward.name in [earlier.name for earlier in rewards]:
            raise ValueError(f"rewards[{index}]: a second {reward.name!r}; give it a `label:` of its own")
        rewards.append(reward)
    return rewards


def reward_class(name: str, where: str = "rewards", more: Mapping[str, type] | None = None) -> Any:
    """The dataclass of a named reward; `more` as in `build_rewards`.

    Raises:
        ValueError: no such reward, or its module cannot be imported.
    """
    if more and name in more:
        return more[name]
    if name not in REWARDS:
        names = [*REWARDS, *(more or {})]
        raise ValueError(f"{where}: no reward is called {name!r}; {did_you_mean(name, names)}")
    return load_own_code(REWARDS[name], where)


def _build(spec: Any, where: str, defaults: dict[str, Any], more: Mapping[str, type]) -> Reward:
    entry = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(entry, dict) or ("name" in entry) == ("function" in entry):
        raise ValueError(f"{where}: {spec!r} is neither a name nor a mapping with `name` or `function`")
    for key in entry.keys() & {"name", "function", "label"}:
        if not isinstance(entry[key], str) or not entry[key]:
            raise ValueError(f"{where}: {key}: {entry[key]!r} is not {describe(str)}")
    weight = entry.get("weight", 1.0)
    if not fits(weight, float) or not math.isfinite(float(weight)):
        raise ValueError(f"{where}: weight: {weight!r} is not a finite number")
    if "name" in entry:
        target = reward_class(entry["name"], where, more)
    else:
        target = load_own_code(entry["function"], f"{where}: function")
    values = {key: value for key, value in entry.items() if key not in _ENTRY_KEYS}
    if dataclasses.is_dataclass(target) and isinstance(target, type):
        name = entry.get("label") or entry.get("name") or target.__name__
        function: Any = _instance(target, values, name, f"{where} ({name})", defaults)
    else:
        name, function = getattr(target, "__name__", ""), target
        if isinstance(target, type) or not callable(target) or not name:
            raise ValueError(f"{where}: function: {entry['function']!r} is no function and no dataclass")
        for key in (*values, *entry.keys() & {"label"}):
            raise ValueError(f"{where} ({name}): {key!r} is only for rewards that are dataclasses")
    domains, except_domains = (_domains(entry, key, f"{where} ({name})") for key in _DOMAIN_KEYS)
    if domains and except_domains:
        raise ValueError(f"{where} ({name}): give either `domains` or `except_domains`")
    return Reward(
        name=name, weight=float(weight), function=function, domains=domains, except_domains=except_domains
    )


def _domains(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The entry's list of domains; empty where it has none."""
    if key not in entry:
        return ()
    given = entry[key]
    if not isinstance(given, list | tuple) or not given or not all(isinstance(each, str) for each in given):
        raise ValueError(f"{where}: {key}: {given!r} is no list of domains; write for example [math, code]")
    return tuple(given)


def _instance(cls: Any, values: dict[str, Any], name: str, where: str, defaults: dict[str, Any]) -> Any:
    """`cls(**values)` called `name`, each value checked against its field."""
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = typing.get_type_hints(cls)
    for key, value in values.items():
        if key not in fields:
            hint = did_you_mean(key, [*fields, *_ENTRY_KEYS[2:]])
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
        if not fits(value, hints[key]):
            raise ValueError(f"{where}: {key}: {value!r} is not {describe(hints[key])}")
    for field in fields.values():
        if is_required(field) and field.name not in values:
            raise ValueError(f"{where}: key {field.name!r} is missing; the reward needs it")
    values = {**{key: value for key, value in defaults.items() if key in fields}, **values}
    try:
        reward = cls(**{key: _number(value, hints[key]) for key, value in values.items()})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if not callable(reward) or not hasattr(reward, "__dict__"):
        raise ValueError(f"{where}: {cls.__name__} must have a __call__ method and no slots")
    object.__setattr__(reward, "__name__", name)  # by which the trainer calls its metrics
    return reward


def _number(value: Any, hint: Any) -> Any:
    """A float field's value as a float, since YAML reads 1e-5 as a string and 1 as an integer."""
    kinds = typing.get_args(hint) or (hint,)
    return float(value) if float in kinds and str not in kinds and value is not None else value
