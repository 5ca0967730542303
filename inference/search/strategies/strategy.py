"""What all strategies have: their options and the names under which results are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from data.own_code import load_own_code
from inference.search.tree import Node, Strategy, Tree

MAX_STEPS = 40
"""Steps after which a path is completed in one go (search-and-learn@6f81cac:src/sal/config.py)."""


@dataclass(frozen=True, kw_only=True)
class SearchStrategy:
    """A way to search, with its options; `run` is the algorithm."""

    n: int
    """Completions, beams or simulations of one problem."""
    name: str = ""
    """In tables; by default strategy and options."""

    label: ClassVar[str]
    """What a recipe calls it; of a class that gives itself none, module:Class."""
    needs_scorer: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        if "label" not in cls.__dict__:
            cls.label = f"{cls.__module__}:{cls.__qualname__}"

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n: {self.n} must be at least 1")

    @property
    def title(self) -> str:
        """Its name in tables: options that differ from their defaults are in it."""
        defaults = {f.name: f.default for f in fields(self)}
        shown = [
            f"{key}={getattr(self, key)}"
            for key in defaults
            if key in ("n", "width") or (key != "name" and getattr(self, key) != defaults[key])
        ]
        return self.name or " ".join([self.label, *shown])

    @property
    def options(self) -> dict[str, Any]:
        """All of them but the name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}

    @property
    def rows(self) -> int:
        """Most completions that it has under way at once."""
        return self.n

    @property
    def needs_logprobs(self) -> bool:
        """Whether the engine must give log-probabilities."""
        return False

    @property
    def children(self) -> int:
        """Most children of a node; 1 where it has no such number."""
        return 1

    def run(self, tree: Tree) -> Strategy:
        """Search. Its candidates are at the end of their paths."""
        raise NotImplementedError


def own_strategy(label: str) -> type[SearchStrategy]:
    """The strategy `package.module:Class` of the user's own.

    Raises:
        ValueError: there is no such class, or it is no `SearchStrategy`, or not called so.
    """
    made = load_own_code(label, "strategy")
    if not isinstance(made, type) or not issubclass(made, SearchStrategy):
        raise ValueError(f"strategy: {label} is no subclass of {__name__}:SearchStrategy")
    if made.label != label:
        raise ValueError(f"strategy: {label} calls itself {made.label!r}; leave out its `label`")
    return made


@dataclass(frozen=True, kw_only=True)
class StepSearch(SearchStrategy):
    """A search that goes step by step, and keeps some of several next steps."""

    width: int = 4
    """Candidates for the next step of each path that is kept; n is a multiple of it."""
    max_steps: int = MAX_STEPS
    """Steps of a path; the last one is the whole rest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1:
            raise ValueError(f"width: {self.width} must be at least 1")
        if self.max_steps < 1:
            raise ValueError(f"max_steps: {self.max_steps} must be at least 1")
        self.check_width()

    def check_width(self) -> None:
        """Refuse a width that does not go with n."""
        if self.n % self.width and self.n > 1:
            low = max(self.width, self.n // self.width * self.width)
            raise ValueError(
                f"n: {self.n} is not a multiple of width: {self.width}; take n {low} or another width"
            )

    @property
    def children(self) -> int:
        return self.width


def without_copies(nodes: Sequence[Node], tree: Tree) -> list[Node]:
    """The nodes with different texts of their paths, each for the first time; the others are left out and
    counted."""
    distinct = list({(node.parent, node.text): node for node in reversed(nodes)}.values())[::-1]
    for copy in set(nodes).difference(distinct):
        copy.left_out = True
        tree.dropped += 1
    return distinct
