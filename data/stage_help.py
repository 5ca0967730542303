"""`slowthink STAGE --help`: every key of a stage with its type, default and meaning."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Sequence
from typing import Any


def stage_help(config_classes: Sequence[Any]) -> str:
    """The fields of the config classes as text, the stage's own first."""
    lines = ["Keys of the recipe, also given as --key value after --config RECIPE.yaml:"]
    for cls in config_classes:
        lines.append(f"\n{cls.__name__} ({cls.__module__})")
        documents = field_documents(cls)
        for field in dataclasses.fields(cls):
            if field.init:
                meaning = documents.get(field.name) or str(field.metadata.get("help") or "")
                text = f"{_kind(field)}  {' '.join(meaning.split())}"
                lines.append(f"  {field.name}\n" + textwrap.indent(textwrap.fill(text, 100), "      "))
    return "\n".join(lines)


def _kind(field: dataclasses.Field) -> str:
    kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
    if field.default is not dataclasses.MISSING:
        return f"[{kind}, default {field.default!r}]"
    return f"[{kind}]" if field.default_factory is not dataclasses.MISSING else f"[{kind}, required]"


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
