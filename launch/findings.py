"""What `slowthink check` has found of a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from data.recipe import Recipe

Level = Literal["ok", "note", "bad"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    """ok; note: may be meant so, or could not be looked at; bad: the stage will not work."""
    what: str
    text: str


@dataclass(kw_only=True)
class Data:
    """What a stage trains on, as far as it is known."""

    rows: int | None = None
    longest_tokens: int
    mean_tokens: float
    measured: bool = False
    """Whether the lengths are of data; else they are the most that the recipe allows."""


@dataclass(kw_only=True)
class Examined:
    """A stage and what was found."""

    recipe: Recipe
    findings: list[Finding] = field(default_factory=list)
    configs: tuple[Any, ...] = ()
    data: Data | None = None

    def say(self, level: Level, what: str, text: str) -> None:
        self.findings.append(Finding(level=level, what=what, text=text))

    @contextlib.contextmanager
    def looking_at(self, what: str) -> Iterator[None]:
        """What the project itself refuses is bad."""
        try:
            yield
        except ValueError as error:
            self.say("bad", what, str(error))
