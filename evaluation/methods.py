"""The methods of stage `test_time`: what a recipe may say of each, and the settings that follow from it.

Sources: s1 (arXiv 2501.19393), sections 3.1 and 3.3, appendix E.1; the sentences are those of
`data/control_sets.py`, with which conditional models are trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from data.control_sets import LONG, SHORT, STEPS, TOKENS
from data.did_you_mean import did_you_mean
from data.field_values import parse_mapping

TOKENS_PER_STEP = 100
"""Thinking tokens that a step of `step_conditional` may have (appendix E.1)."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One setting of a method: the fields of `GenerationOptions` that it changes, and its bounds."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    suffix: str = ""
    """Sentence behind the question."""
    low: int | None = None
    high: int | None = None
    votes: int = 1


@dataclass(frozen=True, kw_only=True)
class Method:
    """`plain`: the model as it is, one setting."""

    name: str = ""
    """In the table; by default that of the method."""
    temperature: float | None = None
    """Null: that of the stage."""
    num_completions: int | None = None
    """Completions per problem; null: that of the stage."""

    label: ClassVar[str] = "plain"
    needs_chance: ClassVar[bool] = False
    """Whether greedy completions make no sense."""

    @property
    def title(self) -> str:
        """Its name in the table."""
        return self.name or self.label

    def completions(self, default: int) -> int:
        """Completions per problem."""
        return default if self.num_completions is None else self.num_completions

    def variants(self) -> Iterator[Variant]:
        """The settings in their order.

        Raises:
            ValueError: a value that makes no sense.
        """
        yield Variant(name="plain")


_LABELS = {
    "max_thinking_tokens": lambda number, text: f"{number:,}",
    "min_thinking_tokens": lambda number, text: f"at least {number:,}",
    "waits": lambda number, text: f"{text or 'no text'} x {number}",
}


@dataclass(frozen=True, kw_only=True)
class BudgetForcing(Method):
    """`budget_forcing`: a list gives a setting for each of its values, a number holds in all settings."""

    max_thinking_tokens: int | list[int] | None = None
    min_thinking_tokens: int | list[int] | None = None
    waits: int | list[int] | None = None
    wait_text: str = "Wait"

    label: ClassVar[str] = "budget forcing"

    def variants(self) -> Iterator[Variant]:
        given = {key: getattr(self, key) for key in _LABELS if getattr(self, key) is not None}
        swept = {key: values for key, values in given.items() if isinstance(values, list)}
        fixed = {key: value for key, value in given.items() if key not in swept}
        if not given:
            raise ValueError(f"give {', '.join(_LABELS)} or several of them, as a list or a number")
        for key, values in swept.items():
            for value in _checked(key, values):
                yield self._variant({**fixed, key: value}, [key])
        if not swept:
            yield self._variant(fixed, list(fixed))

    def _variant(self, changes: dict[str, Any], named: list[str]) -> Variant:
        """Settings with waits have no bounds: how long they think is not stated anywhere."""
        waits, least = changes.get("waits", 0), changes.get("min_thinking_tokens", 0)
        if waits or least:
            changes = {**changes, "wait_text": self.wait_text}
        return Variant(
            name=", ".join(_LABELS[key](changes[key], self.wait_text.strip()) for key in named),
            changes=changes,
            low=None if waits else least or None,
            high=None if waits else changes.get("max_thinking_tokens"),
        )


@dataclass(frozen=True, kw_only=True)
class TokenConditional(Method):
    """`token_conditional`: the question says "Think for up to N tokens."."""

    budgets: list[int]
    """N of each setting."""
    force: bool = False
    """Whether budget forcing ends the thinking at the budget."""

    label: ClassVar[str] = "token-conditional"
    sentence: ClassVar[str] = TOKENS
    tokens_each: ClassVar[int] = 1

    @property
    def title(self) -> str:
        return self.name or self.label + (" + budget forcing" if self.force else "")

    def variants(self) -> Iterator[Variant]:
        for budget in _checked("budgets", self.budgets):
            most = budget * self.tokens_each
            yield Variant(
                name=f"{budget:,}",
                changes={"max_thinking_tokens": most} if self.force else {},
                suffix=self.sentence.format(n=budget),
                high=most,
            )


@dataclass(frozen=True, kw_only=True)
class StepConditional(TokenConditional):
    """`step_conditional`: "Think for up to N steps.", each of at most 100 tokens."""

    label: ClassVar[str] = "step-conditional"
    sentence: ClassVar[str] = STEPS
    tokens_each: ClassVar[int] = TOKENS_PER_STEP


@dataclass(frozen=True, kw_only=True)
class ClassConditional(Method):
    """`class_conditional`: the question asks for a short or a long thinking; neither has a bound."""

    label: ClassVar[str] = "class-conditional"

    def variants(self) -> Iterator[Variant]:
        yield Variant(name="short", suffix=SHORT)
        yield Variant(name="long", suffix=LONG)


@dataclass(frozen=True, kw_only=True)
class Rejection(Method):
    """`rejection`: a completion that thinks longer than the budget is drawn again."""

    budgets: list[int]
    """Most thinking tokens of each setting."""

    label: ClassVar[str] = "rejection sampling"
    needs_chance: ClassVar[bool] = True

    def variants(self) -> Iterator[Variant]:
        for budget in _checked("budgets", self.budgets):
            yield Variant(name=f"{budget:,}", changes={"resample_longer_than": budget}, high=budget)


@dataclass(frozen=True, kw_only=True)
class Majority(Method):
    """`majority`: completions that vote, all settings from the same completions."""

    votes: list[int]
    """Completions that vote in each setting; num_completions is the largest of them at least."""

    label: ClassVar[str] = "majority vote"
    needs_chance: ClassVar[bool] = True

    def completions(self, default: int) -> int:
        most = max(self.votes)
        number = super().completions(max(default, most))
        if number < most:
            raise ValueError(f"votes: {most} of {number} completions cannot vote; raise num_completions")
        return number

    def variants(self) -> Iterator[Variant]:
        for votes in _checked("votes", self.votes):
            yield Variant(name=f"{votes} votes" if votes > 1 else "1 vote", votes=votes)


METHODS: dict[str, type[Method]] = {
    "plain": Method,
    "budget_forcing": BudgetForcing,
    "token_conditional": TokenConditional,
    "step_conditional": StepConditional,
    "class_conditional": ClassConditional,
    "rejection": Rejection,
    "majority": Majority,
}


def _checked(key: str, values: list[int]) -> list[int]:
    least = 1 if key in ("budgets", "votes") else 0
    if not values or min(values) < least or len(set(values)) < len(values):
        raise ValueError(f"{key}: {values} must be one or more different numbers of at least {least}")
    return values


def parse_method(entry: dict[str, Any]) -> Method:
    """A method of a recipe.

    Raises:
        ValueError: unknown method or key, wrong type, or a key that is missing.
    """
    name = entry.get("method")
    if name not in METHODS:
        raise ValueError(f"method: {name!r} is none; {did_you_mean(name, METHODS)}")
    values = {key: value for key, value in entry.items() if key != "method"}
    return parse_mapping(METHODS[name], values, name, "the method")
