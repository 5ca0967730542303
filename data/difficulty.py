"""Difficulty of a problem: by the pass rates of models, by the length of the trace, or by a given label.

Every function here is pure. The ones that drop return rules by name (`data.filters.Rule`), in the order in
which they are applied. A trace whose difficulty is not known passes, or a rule of its own drops it.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from data.filters import Rule
from data.schema import Attempt, Problem

ALL_MODELS = "*"
"""In place of a model's name: the attempts of all models together."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What attempts say about the problems of a pool."""

    rates: Mapping[str, Mapping[str, float]]
    """Model -> problem id -> share of its judged attempts that are correct; under `*` of all attempts."""
    attempts: Mapping[str, int]
    """Judged attempts of each model at problems of the pool."""
    unverifiable: Mapping[str, int]
    """Attempts of each model at problems of the pool that nobody could judge; they count in no rate."""
    not_in_pool: Mapping[str, int]
    """Attempts of each model at other problems, which are left out."""

    def metrics(self, pool: Collection[str]) -> dict[str, dict[str, int | float]]:
        """By model: attempts of each kind, problems without a rate, and the mean rate of the others."""
        found: dict[str, dict[str, int | float]] = {}
        for model in sorted({*self.attempts, *self.unverifiable, *self.not_in_pool}):
            rates = self.rates.get(model, {})
            found[model] = {
                "judged": self.attempts.get(model, 0),
                "unverifiable": self.unverifiable.get(model, 0),
                "not_in_pool": self.not_in_pool.get(model, 0),
                "problems_without_rate": len(pool) - len(rates),
            }
            if rates:
                found[model]["mean_pass_rate"] = math.fsum(rates.values()) / len(rates)
        return found


def measure(attempts: Iterable[Attempt], pool: Collection[str]) -> Measured:
    """Pass rates by model (`completion.model`) of the problems whose ids are in `pool`."""
    pool = pool if isinstance(pool, set | frozenset | dict) else set(pool)
    judged: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    unverifiable: Counter[str] = Counter()
    not_in_pool: Counter[str] = Counter()
    for attempt in attempts:
        model = attempt.completion.model
        if attempt.problem.id not in pool:
            not_in_pool[model] += 1
        elif attempt.verdict == "unverifiable":
            unverifiable[model] += 1
        else:
            for name in (model, ALL_MODELS):
                count = judged[name][attempt.problem.id]
                count[0] += attempt.verdict == "correct"
                count[1] += 1
    rates = {
        model: {id: correct / total for id, (correct, total) in of_problem.items()}
        for model, of_problem in judged.items()
    }
    totals = {model: sum(total for _, total in of_problem.values()) for model, of_problem in judged.items()}
    totals.pop(ALL_MODELS, None)
    return Measured(rates=rates, attempts=totals, unverifiable=unverifiable, not_in_pool=not_in_pool)


# ------------------------------------------------------------------ by pass rate


def outside_bands(measured: Measured, bands: Mapping[str, tuple[float, float]]) -> dict[str, Rule]:
    """too_hard, too_easy: the pass rate of a model (or of `*`) is below or above its band [lowest, highest].

    A problem must be inside the band of every model named. One without a rate of a model passes that band.

    Raises:
        ValueError: a band that is none, or of a model without judged attempts.
    """
    for model, (low, high) in bands.items():
        if not 0 <= low <= high <= 1:
            raise ValueError(f"bands: {model}: [{low}, {high}] is no band; need 0 <= lowest <= highest <= 1")
    _require_models(measured, bands)

    def rule(hard: bool) -> Rule:
        def check(trace: Attempt) -> str | None:
            for model, (low, high) in bands.items():
                rate = measured.rates.get(model, {}).get(trace.problem.id)
                if rate is not None and (rate < low if hard else rate > high):
                    limit = f"below {low}" if hard else f"above {high}"
                    return f"pass rate {rate:.3f} of {model} is {limit}"
            return None

        return check

    return {"too_hard": rule(hard=True), "too_easy": rule(hard=False)}


def solved(measured: Measured, models: Collection[str] = ()) -> dict[str, Rule]:
    """solved: some model solved the problem at least once (simplescaling/s1@77272c6:data/filter.ipynb).

    `models` are the ones that count, all where it is empty.

    Raises:
        ValueError: a model without judged attempts, or none at all.
    """
    names = _models(measured, models)

    def rule(trace: Attempt) -> str | None:
        for model in names:
            rate = measured.rates.get(model, {}).get(trace.problem.id, 0.0)
            if rate > 0:
                return f"{model} solves it, pass rate {rate:.3f}"
        return None

    return {"solved": rule}


def unmeasured(measured: Measured, models: Collection[str] = ()) -> dict[str, Rule]:
    """unmeasured: a model (of `models`, else of all that there are) has no judged attempt at the problem.

    Raises:
        ValueError: a model without judged attempts, or none at all.
    """
    names = _models(measured, models)

    def rule(trace: Attempt) -> str | None:
        missing = [model for model in names if trace.problem.id not in measured.rates.get(model, {})]
        return f"no judged attempt of {', '.join(missing)}" if missing else None

    return {"unmeasured": rule}


def _models(measured: Measured, models: Collection[str]) -> list[str]:
    """These models, else all that have judged attempts."""
    _require_models(measured, models)
    if not measured.attempts:
        raise ValueError("attempts: hold no judged attempt at the problems of the pool")
    return sorted(models or measured.attempts)


def _require_models(measured: Measured, models: Iterable[str]) -> None:
    for model in models:
        if model != ALL_MODELS and model not in measured.rates:
            names = ", ".join(sorted({*measured.attempts, *measured.unverifiable})) or "none"
            raise ValueError(f"{model!r} has no judged attempts at the problems of the pool; models: {names}")


# ------------------------------------------------------------------ by length


def outside_lengths(low: float = 0, high: float | None = None, column: str = "") -> dict[str, Rule]:
    """no_length, too_short, too_long: the trace's length in tokens against [low, high], null for no limit.

    The length is the trace's thinking tokens, or the number in a metadata column of the problem. What is
    missing, NaN, infinite, negative, no number, or 0 thinking tokens (nobody counted) is no length.

    Raises:
        ValueError: not 0 <= low <= high.
    """
    if not 0 <= low <= (math.inf if high is None else high):
        raise ValueError(f"lengths: [{low}, {high}] is no range; need 0 <= lowest <= highest")

    def no_length(trace: Attempt) -> str | None:
        value = _raw_length(trace, column)
        where = f"metadata column {column!r}" if column else "thinking_tokens"
        return f"{where} is {value!r}" if length_of(trace, column) is None else None

    def too_short(trace: Attempt) -> str | None:
        length = length_of(trace, column)
        return f"{length:g} < {low} tokens" if length is not None and length < low else None

    def too_long(trace: Attempt) -> str | None:
        length = length_of(trace, column)
        over = length is not None and high is not None and length > high
        return f"{length:g} > {high} tokens" if over else None

    return {"no_length": no_length, "too_short": too_short, "too_long": too_long}


def length_of(trace: Attempt, column: str = "") -> float | None:
    """Tokens of the trace as `outside_lengths` reads them, None where that is no length."""
    length = number_in(_raw_length(trace, column))
    return length if length is not None and (length > 0 or (length == 0 and column)) else None


def _raw_length(trace: Attempt, column: str) -> Any:
    return trace.problem.metadata.get(column) if column else trace.completion.thinking_tokens


# ------------------------------------------------------------------ by label


def outside_levels(
    levels: Collection[str | int] = (),
    low: float | None = None,
    high: float | None = None,
    column: str = "level",
) -> dict[str, Rule]:
    """no_level, level: the problem's label is none of `levels`, or its number is outside [low, high].

    The label is `Problem.level` or a metadata column. `Level 5`, `5` and 5 are the same label.

    Raises:
        ValueError: neither levels nor a range is given, both are, or the range is empty.
    """
    ranged = low is not None or high is not None
    if ranged == bool(levels):
        raise ValueError("levels: give either a list of levels or a lowest and/or highest one")
    bottom, top = -math.inf if low is None else low, math.inf if high is None else high
    if not bottom <= top:
        raise ValueError(f"levels: [{low}, {high}] is empty; need lowest <= highest")
    wanted = {_label(level) for level in levels}

    def no_level(trace: Attempt) -> str | None:
        value = level_of(trace.problem, column)
        known = number_in(value) is not None if ranged else _label(value) != ""
        return None if known else f"{column} is {value!r}"

    def level(trace: Attempt) -> str | None:
        value = level_of(trace.problem, column)
        number = number_in(value)
        if ranged:
            out = number is not None and not bottom <= number <= top
            return f"{column} {value!r} is not in [{bottom:g}, {top:g}]" if out else None
        if _label(value) in wanted:
            return None
        return f"{column} {value!r} is not one of {', '.join(sorted(wanted))}"

    return {"no_level": no_level, "level": level}


def level_of(problem: Problem, column: str = "level") -> Any:
    """The problem's label: its `level`, or what its metadata has in that column."""
    return problem.level if column == "level" else problem.metadata.get(column)


_NUMBER = re.compile(r"(?:[^\d.+-]*[^\d.+\w-])?([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.IGNORECASE)


def number_in(value: Any) -> float | None:
    """The finite number that a value is, or that its text ends with (`Level 5`); None where there is none."""
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value.strip())
        value = float(match[1]) if match else None
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= sys.float_info.max else None


def _label(value: Any) -> str:
    number = number_in(value)
    return f"{number:g}" if number is not None else "" if value is None else str(value).strip().lower()
