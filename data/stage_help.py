"""`slowthink STAGE --help`: every key of a stage with its type, default and meaning."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import json
import textwrap
import typing
from collections.abc import Sequence
from typing import Any

from data.field_values import is_required, kind


def stage_help(config_classes: Sequence[Any]) -> str:
    """The fields of the config classes as text, the stage's own first."""
    lines = ["Keys of the recipe, also given as --key value after --config RECIPE.yaml:"]
    for cls in config_classes:
        lines.append(f"\n{cls.__name__} ({cls.__module__})")
        documents, hints = field_documents(cls), typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            if field.init:
                meaning = documents.get(field.name) or str(field.metadata.get("help") or "")
                text = f"[{kind(hints[field.name])}{_default(field)}]  {' '.join(meaning.split())}"
                lines.append(f"  {field.name}\n" + textwrap.indent(textwrap.fill(text, 100), "      "))
    return "\n".join(lines)


def _default(field: dataclasses.Field) -> str:
    if is_required(field):
        return "; required"
    made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if made is dataclasses.MISSING or made in ([], {}):
        return ""
    return f"; default {_written(made.value if isinstance(made, enum.Enum) else made)}"


def _written(value: Any) -> str:
    """As a recipe would write it; YAML knows a line break in double quotes only."""
    return repr(value) if isinstance(value, str) and value.isprintable() else json.dumps(value)


def field_documents(cls: type) -> dict[str, str]:
    """The string literal beneath each field of a dataclass and of its bases."""
    documents: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(definition, ast.ClassDef)
        for field, document in zip(definition.body, definition.body[1:], strict=False):
            is_text = isinstance(document, ast.Expr) and isinstance(document.value, ast.Constant)
            if is_text and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                documents[field.target.id] = str(document.value.value)  # type: ignore[union-attr]
    return documents
