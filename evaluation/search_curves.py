"""What every setting of a search is worth: accuracy by the way of choosing, with its cost.

Parallel settings are known at every smaller n too, as the expectation over the subsets of their candidates.
P problems.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from math import isfinite, isnan
from typing import Any

import numpy as np

from data.store import iterate_rows, table_path
from evaluation.best_of_n import Candidates, best_of_n, doublings, paired_difference, weighted_best_of_n
from evaluation.metrics import majority_at_k, summarise
from inference.search.results import CHOICES, Cost, SearchResult, result_from_row

PARALLEL = ("majority", "best_of_n")
"""Strategies whose candidates are drawn independently."""
AUTO = "auto"
"""The strategy that follows a planner: each problem has an n of its own."""
COSTS = ("generated_tokens", "scorer_tokens", "flops", "seconds")
"""Of a problem; flops are those of the policy and of the scorer."""

Searches = dict[str, list[SearchResult]]
"""The results of each setting, one for each problem, all in the same order."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """A way to spend compute on a problem: a setting, or a parallel one with fewer candidates."""

    name: str
    searched: str
    """The setting that it is from."""
    strategy: str
    n: int
    width: int
    options: Mapping[str, Any]
    """Of the strategy, by the setting that it is from."""
    rights: Mapping[str, np.ndarray]
    """[P] by way of choosing: expected accuracy. Without scores there is only the majority."""
    costs: Mapping[str, np.ndarray]
    """[P] by name in `COSTS`; nan where it is not known."""
    probed: Mapping[str, np.ndarray]
    """[P] by name of cost: what of it a probe has paid already, whose candidates are the first ones of a
    parallel option; 0 for others."""

    def choice(self, wanted: str) -> str:
        """The way of choosing that stands for the wanted one."""
        return wanted if wanted in self.rights else "majority"

    def right(self, wanted: str) -> np.ndarray:
        """[P] by the wanted way of choosing."""
        return self.rights[self.choice(wanted)]


# ------------------------------------------------------------------ reading


def load_searches(folders: Sequence[str]) -> Searches:
    """The results of all settings in stage folders, problems in the order of their ids.

    Raises:
        ValueError: no rows, a setting in two folders, a problem twice in one, or settings that were not run
            on the same problems.
    """
    found: dict[str, dict[str, SearchResult]] = {}
    folder_of: dict[str, str] = {}
    for folder in folders:
        for row in iterate_rows(table_path(folder, "searches"), "searches"):
            result = result_from_row(row)
            name, identity = result.setting, result.problem.id
            if folder_of.setdefault(name, folder) != folder:
                raise ValueError(
                    f"searches: setting {name!r} is in {folder_of[name]} and in {folder}; give it another "
                    "`name` in one of them"
                )
            if identity in found.setdefault(name, {}):
                raise ValueError(f"{folder}: setting {name!r} has problem {identity} twice")
            found[name][identity] = result
    if not found:
        raise ValueError(f"searches: {', '.join(folders)} hold no results")
    _check_same_problems(found)
    return {name: [own[identity] for identity in sorted(own)] for name, own in found.items()}


def _check_same_problems(found: Mapping[str, Mapping[str, SearchResult]]) -> None:
    everything = set().union(*found.values())
    missing = {
        name: sorted(everything - set(own)) for name, own in found.items() if len(own) < len(everything)
    }
    if missing:
        lines = [
            f"{name!r} lacks {len(ids)} of {len(everything)} ({', '.join(ids[:3])}{', ...' * (len(ids) > 3)})"
            for name, ids in missing.items()
        ]
        raise ValueError(
            f"searches: settings are compared on the same problems, but {'; '.join(lines)}; run them on one "
            "set of problems"
        )
    for name, own in found.items():
        kinds = {(result.strategy, result.n, result.width) for result in own.values()}
        if len(kinds) > 1 and {strategy for strategy, *_ in kinds} != {AUTO}:
            raise ValueError(f"searches: setting {name!r} has rows of different strategy, n or width")


def has_scores(results: Sequence[SearchResult]) -> bool:
    """Whether the candidates of a setting were scored."""
    return any(isfinite(score) for result in results for score in result.scores)


def padded(result: SearchResult) -> Candidates:
    """The candidates of a parallel setting, up to its n: one that is missing has no answer. The numbers of
    classes stand for the answers; a candidate without a score has 0, which is no vote.

    Raises:
        ValueError: more candidates than n, or a negative score.
    """
    missing = result.n - len(result.classes)
    if missing < 0:
        raise ValueError(f"{result.setting!r} has {len(result.classes)} candidates for n={result.n}")
    if any(score < 0 for score in result.scores):
        raise ValueError(f"{result.setting!r} has negative scores, which cannot weight votes")
    return Candidates(
        answers=(*(str(number) if number >= 0 else None for number in result.classes), *[None] * missing),
        correct=(*result.correct, *[False] * missing),
        scores=(*(0.0 if isnan(score) else score for score in result.scores), *[0.0] * missing),
    )


def cost_at(cost: Cost, share: float = 1.0) -> dict[str, float]:
    """What a share of a search's completions costs: the prompt is paid whole."""
    drawn = cost.generated_tokens + cost.forced_tokens
    tokens = cost.prompt_tokens + drawn
    of_policy = (cost.prompt_tokens + share * drawn) / tokens if tokens else share
    scorer = cost.scorer_flops if cost.scorer_tokens else 0.0
    return {
        "generated_tokens": share * cost.generated_tokens,
        "scorer_tokens": share * cost.scorer_tokens,
        "flops": of_policy * cost.policy_flops + share * scorer,
        "seconds": share * cost.seconds,
    }


# ------------------------------------------------------------------ options


def options_of(searches: Searches, seed: int = 0, probe: int = 0) -> list[Option]:
    """All settings, and the parallel ones with n = 1, 2, 4, ... and every n of another setting.

    Of several parallel settings of one strategy the largest one (the first of equals) is so extended, and
    stands for those that differ from it in n alone.

    Args:
        probe: candidates that a probe may have drawn before, see `Option.probed`.
    """
    largest: dict[str, str] = {}
    for name, (first, *_) in searches.items():
        if first.strategy in PARALLEL:
            other = largest.setdefault(first.strategy, name)
            if first.n > searches[other][0].n:
                largest[first.strategy] = name
    ns = {results[0].n for results in searches.values()}
    options: dict[str, Option] = {}
    for name in largest.values():
        most = searches[name][0].n
        for n in sorted({*doublings(most), *(n for n in ns if n <= most)}):
            option = _drawn(name, searches[name], n, seed, probe)
            options[option.name] = option
    for name, results in searches.items():
        if name not in options:
            options[name] = _measured(name, results)
    return list(options.values())


def _drawn(name: str, results: Sequence[SearchResult], n: int, seed: int, probe: int) -> Option:
    """A parallel setting with n of its candidates."""
    most = results[0].n
    rows = [padded(result) for result in results]
    rights = {"majority": [majority_at_k(row.answers, row.correct, n) for row in rows]}
    if has_scores(results):
        rights["best_of_n"] = [best_of_n(row.scores, row.correct, n) for row in rows]
        rights["weighted_best_of_n"] = [
            weighted_best_of_n(row, n, seed=(seed, n, number)) for number, row in enumerate(rows)
        ]
    label = re.sub(rf"\bn={most}\b", f"n={n}", name)
    return _option(
        name if n == most else label if label != name else f"{name} at n={n}",
        results,
        n=n,
        rights=rights,
        costs=[cost_at(result.cost, n / most) for result in results],
        probed=[cost_at(result.cost, min(n, probe) / most) for result in results] if probe else None,
    )


def _measured(name: str, results: Sequence[SearchResult]) -> Option:
    choices = CHOICES if has_scores(results) else ("majority",)
    return _option(
        name,
        results,
        n=max(result.n for result in results),
        rights={choice: [float(result.right(choice)) for result in results] for choice in choices},
        costs=[cost_at(result.cost) for result in results],
    )


def _option(
    name: str,
    results: Sequence[SearchResult],
    *,
    n: int,
    rights: Mapping[str, Sequence[float]],
    costs: Sequence[Mapping[str, float]],
    probed: Sequence[Mapping[str, float]] | None = None,
) -> Option:
    paid = probed or [dict.fromkeys(COSTS, 0.0)] * len(costs)
    return Option(
        name=name,
        searched=results[0].setting,
        strategy=results[0].strategy,
        n=n,
        width=results[0].width,
        options=results[0].options,
        rights={choice: np.array(values, dtype=float) for choice, values in rights.items()},
        costs={unit: np.array([cost[unit] for cost in costs], dtype=float) for unit in COSTS},
        probed={unit: np.array([cost[unit] for cost in paid], dtype=float) for unit in COSTS},
    )


# ------------------------------------------------------------------ rows of the report


def setting_rows(searches: Searches, seed: int = 0) -> list[dict[str, Any]]:
    """For each setting as it ran: the accuracy of each way of choosing (null without scores), `oracle` (the
    share of problems with a right candidate) and the mean costs of a problem."""
    rows = []
    for name, results in searches.items():
        option = _measured(name, results)
        rows.append(
            {
                "setting": name,
                **{key: getattr(option, key) for key in ("strategy", "n", "width")},
                "candidates": float(np.mean([len(result.classes) for result in results])),
                **_accuracies(option, seed),
                "oracle": summarise([float(any(result.correct)) for result in results], seed=seed),
                "cost": mean_costs(option),
                "latency_seconds": _mean([result.cost.latency_seconds for result in results]),
                "rounds": float(np.mean([result.cost.rounds for result in results])),
            }
        )
    return rows


def option_rows(options: Sequence[Option], choice: str, seed: int = 0) -> list[dict[str, Any]]:
    """For each option the accuracy of each way of choosing, `accuracy` of the one that counts and the mean
    costs of a problem."""
    return [
        {
            "setting": option.name,
            **{key: getattr(option, key) for key in ("searched", "strategy", "n", "width")},
            "choice": option.choice(choice),
            "accuracy": summarise(option.right(choice).tolist(), seed=seed),
            **_accuracies(option, seed),
            "cost": mean_costs(option),
        }
        for option in options
    ]


def mean_costs(option: Option) -> dict[str, float | None]:
    """Mean of a problem by name of cost, None where it is not known."""
    return {unit: _mean(values) for unit, values in option.costs.items()}


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    mean = float(np.mean(values))
    return mean if isfinite(mean) else None


def _accuracies(option: Option, seed: int) -> dict[str, Any]:
    return {
        choice: summarise(option.rights[choice].tolist(), seed=seed) if choice in option.rights else None
        for choice in CHOICES
    }


def differences(options: Sequence[Option], choice: str, seed: int = 0) -> list[dict[str, Any]]:
    """Accuracy of each setting minus that of each parallel one with equal n, on the same problems, and the
    ratio of their generated tokens."""
    rows = []
    for option, base in product(options, options):
        is_pair = option.n == base.n and base.strategy in PARALLEL and option.strategy != AUTO
        if not is_pair or (option.strategy in PARALLEL and PARALLEL.index(option.strategy) <= _rank(base)):
            continue
        tokens, others = (float(each.costs["generated_tokens"].mean()) for each in (option, base))
        difference = paired_difference(option.right(choice).tolist(), base.right(choice).tolist(), seed=seed)
        rows.append(
            {
                "n": option.n,
                "setting": option.name,
                "choice": option.choice(choice),
                "against": base.name,
                "against_choice": base.choice(choice),
                **asdict(difference),
                "tokens_ratio": tokens / others if others else None,
            }
        )
    return sorted(rows, key=lambda row: row["n"])


def _rank(option: Option) -> int:
    return PARALLEL.index(option.strategy)
