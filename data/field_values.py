"""Values that a recipe may have for the fields of a dataclass, and dataclasses made of them."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from data.did_you_mean import did_you_mean

Made = TypeVar("Made")


def is_required(field: dataclasses.Field) -> bool:
    """Whether it must be given; output_dir of a trainer is the stage's own affair."""
    return (
        field.init
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name != "output_dir"
    )


def fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value may stand for a field of this type; types that YAML cannot express pass."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint is type(None) or hint is None:
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float | str) and not isinstance(value, bool) and _is_number(value)
    if hint is str:
        return isinstance(value, str)
    if origin is list or hint is list:
        return isinstance(value, list) and all(fits(v, a) for v in value for a in arguments[:1])
    if origin is dict or hint is dict:
        return isinstance(value, dict)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    return True


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def kind(hint: Any) -> str:
    """What a field takes, as a recipe's author reads it: `float or null`, `one of 'a', 'b'`, `list[str]`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [kind(part) for part in typing.get_args(hint)]
        return " or ".join(sorted(parts, key=lambda part: part == "null"))
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(repr(a) for a in typing.get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in hint)
    if hint is type(None):
        return "null"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def describe(hint: Any) -> str:
    """What a value would have to be, for a message: `of type float or null`, `one of 'a', 'b'`."""
    words = kind(hint)
    return words if words.startswith("one of ") else f"of type {words}"


def parse_mapping(made: type[Made], options: Mapping[str, Any], key: str, owner: str) -> Made:
    """A dataclass from a mapping that a recipe has at `key`; `owner` is whose options they are.

    Raises:
        ValueError: unknown key (with the nearest known one), wrong type or value, or a key is missing.
    """
    fields = dataclasses.fields(cast(Any, made))
    known = typing.get_type_hints(made)
    hints = {field.name: known[field.name] for field in fields}
    for name, value in options.items():
        if name not in hints:
            raise ValueError(f"{key}: {owner} has no {name!r}; {did_you_mean(name, hints)}")
        if not fits(value, hints[name]):
            raise ValueError(f"{key}: {name}: {value!r} is not {describe(hints[name])}")
    for field in fields:
        if is_required(field) and field.name not in options:
            raise ValueError(f"{key}: {field.name} is missing; {owner} needs it")
    return made(**options)
