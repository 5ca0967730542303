"""What `slowthink STAGE --help` says of a key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from data.stage_help import stage_help

Order = Literal["up", "down"]


@dataclass(kw_only=True)
class Base:
    path: str
    """Where to look."""
    order: Order | None = None
    """How to go."""


@dataclass(kw_only=True)
class Config(Base):
    """A config."""

    order: Order | None = "up"
    separator: str = "\n\n"
    """Between two
    steps."""
    rules: list[str] = field(default_factory=lambda: ["a"])
    """Applied in order."""
    options: dict[str, Any] = field(default_factory=dict)
    """Any others."""
    made: int = field(default=3, init=False)
    """Not in a recipe."""


def test_choices_and_defaults_are_told_as_a_recipe_writes_them() -> None:
    _, name, *keys = stage_help([Config]).split("\n  ")
    assert "Config (" in _ + name
    assert [line.strip() for line in [name, *keys]] == [
        "path", "[str; required]  Where to look.",
        "order", "[one of 'up', 'down' or null; default 'up']  How to go.",
        "separator", r'[str; default "\n\n"]  Between two steps.',
        "rules", '[list[str]; default ["a"]]  Applied in order.',
        "options", "[dict[str, Any]]  Any others.",
    ]  # fmt: skip
