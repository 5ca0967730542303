"""Stage `effects`: claims of the literature against what this pipeline measured.

Each claim is a difference between two measurements on the same problems, with its paired 95 % interval, and
has a verdict: shown, not shown or opposite. Nothing is chosen for its outcome: claims and sides are in the
recipe, and an interval that holds 0 is "not shown", however large its mean.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.field_values import parse_mapping
from data.stage import run_stage
from data.store import atomic_path, write_json
from evaluation.effect_sides import Side, parse_side
from evaluation.effects_table import NOTE, print_table, sheet
from evaluation.evaluations import check_settings, difference, lacking
from evaluation.problem_values import TOKENS, summarise_values
from evaluation.search_report import UNIT_NAMES, number
from evaluation.sheets import markdown

logger = logging.getLogger(__name__)

FILE = "effects.json"
VERDICTS = ("shown", "not shown", "opposite")
COST_SLACK = 1.05
"""Times the cost of the other side is what the better one may cost at `at_most_cost`: costs of equal settings
differ a little by chance."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A claim of the recipe."""

    name: str
    claim: str
    """In a sentence, as the source has it."""
    source: str
    """Paper, with its section or figure."""
    better: dict
    than: dict
    claim_is: Literal["higher", "lower", "not_lower"] = "higher"
    """What `better` is against `than`. not_lower: worse by less than the margin."""
    margin: float | None = None
    """For not_lower, in percentage points, or tokens of a metric of tokens."""
    at_most_cost: Literal["generated_tokens", "flops", "seconds"] | None = None
    """Cost of which `better` may not have taken more (`COST_SLACK`), else the claim is not shown."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ValueError(f"name: {self.name!r} may have lower-case letters, digits and _ alone")
        for key in ("claim", "source"):
            if not getattr(self, key).strip():
                raise ValueError(f"{key}: is empty; give the paper's")
        if (self.claim_is == "not_lower") != (self.margin is not None):
            raise ValueError("margin: claim_is not_lower needs one, and no other has one")
        if self.margin is not None and float(self.margin) <= 0:
            raise ValueError(f"margin: {self.margin} must be above 0")
        if parse_side(self.better, "better") == parse_side(self.than, "than"):
            raise ValueError("than: is the same as better, and cannot differ from it")


@dataclass(kw_only=True)
class EffectsConfig:
    """Fields of stage `effects`."""

    effects: list[dict] = field(default_factory=list)
    """Claims, each with name, claim, source, better, than, and where needed claim_is (higher, lower or
    not_lower with margin) and at_most_cost. A side is {evaluation: FOLDER, metric, benchmark}, {test_time:
    FOLDER, setting, metric, benchmark}, {search: FOLDER, option, choice} or {evaluate_search: FOLDER, way,
    unit, budget}, each with a label if wanted."""
    seed: int = 0
    """Seed of the intervals and of random subsets of candidates."""

    def __post_init__(self) -> None:
        if not self.effects:
            raise ValueError("effects: give at least one")
        names = Counter(effect.name for effect in self.parsed())
        (name, times), *_ = names.most_common(1)
        if times > 1:
            raise ValueError(f"effects: {times} are called {name!r}; give each its own name")

    def parsed(self) -> list[Effect]:
        """The claims in their order.

        Raises:
            ValueError: a mistake in one of them.
        """
        made = []
        for index, entry in enumerate(self.effects):
            key = f"effects[{index}]"
            if not isinstance(entry, dict):
                raise ValueError(f"{key}: {entry!r} is no mapping; give name, claim, source, better and than")
            try:
                made.append(parse_mapping(Effect, entry, str(entry.get("name", "name")), "an effect"))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        return made


def effects(config: EffectsConfig, folder: Path) -> dict[str, Any]:
    """Measure every claim; write effects.json and effects.md, print a table.

    Returns:
        How many claims have each verdict, and the mean difference of each by its name.
    Raises:
        ValueError: a side cannot be read, or two are not of the same problems.
    """
    rows = [measure(effect, config.seed) for effect in config.parsed()]
    write_json(folder / FILE, {"effects": rows})
    with atomic_path(folder / "effects.md") as temporary:
        text = markdown("Claims of the literature against this pipeline", NOTE, [sheet(rows)])
        temporary.write_text(text, encoding="utf-8")
    print_table(rows)
    verdicts = Counter(row["verdict"] for row in rows)
    return {
        **{verdict: verdicts[verdict] for verdict in VERDICTS},
        **{row["name"]: row["difference"]["mean"] for row in rows},
    }


# ------------------------------------------------------------------ one claim


def measure(effect: Effect, seed: int = 0) -> dict[str, Any]:
    """A row of effects.json. Shares are in %, their differences in percentage points (unit "points").

    Raises:
        ValueError: a side cannot be read, they are of other problems or units, or a cost is not known.
    """
    try:
        better, than = (parse_side(getattr(effect, key), key).read(seed) for key in ("better", "than"))
        unit = _unit(better, than)
        ids = _problems(better, than)
        dearer, costs = _costs(effect, better, than)
    except ValueError as error:
        raise ValueError(f"effects: {effect.name}: {error}") from error
    values = [[side.values[identity] for identity in ids] for side in (better, than)]
    change = difference(better.metric, *values, seed=seed)
    assert change is not None  # of ids that both have
    found = _scaled(change, unit)
    outcome = verdict(found, effect.claim_is, effect.margin)
    return {
        **{key: getattr(effect, key) for key in ("name", "claim", "source", "claim_is", "margin")},
        "at_most_cost": effect.at_most_cost,
        "metric": " - ".join(dict.fromkeys((better.metric, than.metric))),
        "unit": unit,
        "better": _side_row(better, values[0], unit, seed),
        "than": _side_row(than, values[1], unit, seed),
        "difference": found,
        "problems": len(ids),
        "verdict": "not shown" if dearer and outcome == "shown" else outcome,
        "note": costs,
    }


def verdict(found: Mapping[str, float], claim_is: str = "higher", margin: float | None = None) -> str:
    """One of VERDICTS: whether the interval of a difference lies wholly on the claimed side, on neither, or
    wholly on the other one. The claimed side of not_lower is all above -margin."""
    if claim_is == "lower":
        above, below = found["high"] < 0, found["low"] > 0
    else:
        least = -float(margin or 0)
        above, below = found["low"] > least, found["high"] < least
    return "shown" if above else "opposite" if below else "not shown"


def _unit(better: Side, than: Side) -> str:
    kinds = {side.metric in TOKENS for side in (better, than)}
    if len(kinds) > 1:
        raise ValueError(f"metric: {better.metric} and {than.metric} have other units; give one to both")
    return "tokens" if kinds == {True} else "points"


def _problems(better: Side, than: Side) -> list[str]:
    """The ids of the problems that have a value on both sides."""
    if better.values.keys() != than.values.keys():
        raise ValueError(
            f"better ({better.label}, {len(better.values)}) is of other problems than than ({than.label}, "
            f"{len(than.values)}): {lacking([*better.values], [*than.values])}; measure both on one set"
        )
    if better.evaluation and than.evaluation:
        check_settings([better.evaluation, than.evaluation], [better.metric, than.metric])
    ids = [i for i in better.values if better.values[i] is not None and than.values[i] is not None]
    if not ids:
        raise ValueError(f"metric: no problem has a value of {better.metric} on both sides")
    return ids


def _costs(effect: Effect, better: Side, than: Side) -> tuple[bool, str]:
    """Whether `better` took more than it may, and both costs for people; "" where costs do not count."""
    unit = effect.at_most_cost
    if unit is None:
        return False, ""
    for side in (better, than):
        if unit not in side.cost:
            raise ValueError(
                f"at_most_cost: {unit} of {side.label} is not known, but {', '.join(side.cost) or 'no cost'}"
            )
    own, other = better.cost[unit], than.cost[unit]
    return own > COST_SLACK * other, f"{number(own)} against {number(other)} {UNIT_NAMES[unit]}"


def _side_row(side: Side, values: list[float | None], unit: str, seed: int) -> dict[str, Any]:
    summary = summarise_values(side.metric, values, seed)
    assert summary is not None
    return {"label": side.label, **_scaled(summary, unit), "cost": dict(side.cost) or None}


def _scaled(summary: Mapping[str, Any], unit: str) -> dict[str, float]:
    factor = 100 if unit == "points" else 1
    return {key: factor * float(summary[key]) for key in ("mean", "low", "high")}


# ------------------------------------------------------------------ several seeds


def combine(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The claims that all runs share, each over their seeds.

    A claim is shown (or opposite) only where it is so in every run; `note` says in how many. The mean over
    the runs has a t interval over them, None with one run; where it alone would not tell what every run
    does (few runs that differ much), `note` says so too. Claims that a run lacks, or has otherwise, are left
    out with a warning.

    Args:
        runs: the rows of effects.json by the name of the run.
    """
    by_claim: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    for run, rows in runs.items():
        for row in rows:
            by_claim.setdefault(_identity(row), {})[run] = row
    shared = {claim: found for claim, found in by_claim.items() if len(found) == len(runs)}
    if left_out := sorted({claim[0] for claim in by_claim.keys() - shared.keys()}):
        logger.warning("effects: not the same in all of %s, left out: %s", [*runs], ", ".join(left_out))
    return [_combined(found) for found in shared.values()]


_SAME = ("name", "claim", "source", "metric", "unit", "claim_is", "margin", "at_most_cost")


def _identity(row: Mapping[str, Any]) -> tuple:
    """Two stages of one run may hold the same claim against other sides."""
    return (*(row.get(key) for key in _SAME), row["better"]["label"], row["than"]["label"])


def _combined(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    verdicts = Counter(row["verdict"] for row in found.values())
    means = [row["difference"]["mean"] for row in found.values()]
    first = next(iter(found.values()))
    low, high = t_interval(means) or (None, None)
    agreed = next(iter(verdicts)) if len(verdicts) == 1 else "not shown"
    seeds = [
        {"run": run, **{key: row.get(key) for key in ("difference", "better", "than", "verdict", "note")}}
        for run, row in found.items()
    ]
    return {
        **{key: first.get(key) for key in _SAME},
        "seeds": seeds,
        "mean": float(np.mean(means)),
        "low": low,
        "high": high,
        "verdict": agreed,
        "note": _note(verdicts, first, low, high),
    }


def _note(verdicts: Counter, claim: Mapping[str, Any], low: float | None, high: float | None) -> str:
    """What people should know of the verdict over several seeds."""
    seeds = verdicts.total()
    if len(verdicts) > 1:
        counts = [f"{each} on {verdicts[each]}" for each in VERDICTS if verdicts[each]]
        return f"{', '.join(counts)} of {seeds} seeds"
    (agreed,) = verdicts
    if low is None or high is None or agreed == "not shown":
        return ""
    margin = claim.get("margin")
    if verdict({"low": low, "high": high}, claim.get("claim_is") or "higher", margin) == agreed:
        return ""
    bound = f"{-margin:g}" if margin else "0"
    return f"{agreed} on each of {seeds} seeds, but the interval over seeds holds {bound}"


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of independent values by Student's t; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    mean = float(np.mean(values))
    return mean - half, mean + half


if __name__ == "__main__":
    run_stage(effects, EffectsConfig)
