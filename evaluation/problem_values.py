"""What an evaluation measures on each problem: one value for each metric, kept beside its attempts, so that
evaluations of the same problems can be compared pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.language import language_share
from data.schema import Attempt
from data.store import read_json, write_json
from evaluation.metrics import majority_at_k, pass_at_k, summarise
from evaluation.votes import voted_answers
from rewards.format import Format
from rewards.policy import DEFAULT_POLICY, Policy

TOKENS = ("thinking_tokens", "completion_tokens")
"""Means over the completions of a problem."""
METRICS = ("accuracy", "formatted", "language_share", "truncated_share", *TOKENS)
"""What every evaluation measures; pass@k and maj@k come to it. All but the tokens are shares (0 to 1)."""
FILE = "problem_values.json"
SETTINGS_FILE = "setting_values.json"
"""The same of every setting of stage test_time."""
CHOICES_FILE = "choices.json"
"""What each way to choose a search came to on each problem at each budget: of stage evaluate_search."""

Values = list[float | None]
"""One for each problem, None where it has none."""


@dataclass(frozen=True, kw_only=True)
class ProblemValues:
    """What FILE holds."""

    settings: Mapping[str, Any]
    """Model and options of the evaluation that decide what its numbers mean."""
    ids: Mapping[str, list[str]]
    """Problem ids of each benchmark, in its order."""
    values: Mapping[str, Mapping[str, Values]]
    """By benchmark and metric, in the order of the ids."""


def measure_problems(
    groups: Sequence[Sequence[Attempt]],
    ks: Sequence[int],
    policy: Policy = DEFAULT_POLICY,
    thinking_format: str = "think_tags",
    language: str | None = "en",
) -> dict[str, Values]:
    """Every metric of each problem: a mean over its completions, or an expectation over k of them.

    Of an empty group (a problem that could not be put to the model) accuracy, pass@k and maj@k are 0, and the
    others None. `language_share` is the mean over completions whose thinking has words enough to be judged
    (`data.language.language_share`), of which there are `language_judged`; no language, neither of the two.
    """
    values: dict[str, Values] = {"accuracy": [_pass(group, 1) for group in groups]}
    votes = voted_answers(groups, policy) if max(ks, default=1) > 1 else []
    for k in ks:
        values[f"pass@{k}"] = [_pass(group, k) for group in groups]
        if k > 1:
            pairs = zip(groups, votes, strict=True)
            values[f"maj@{k}"] = [_majority(group, answers, k) for group, answers in pairs]
    is_formatted = Format(thinking_format=thinking_format)
    values["formatted"] = [
        _mean(is_formatted(completions=[attempt.completion.text for attempt in group])) for group in groups
    ]
    if language is not None:
        shares = [[language_share(a.completion.thinking, language) for a in group] for group in groups]
        values["language_share"] = [_mean(each) for each in shares]
        values["language_judged"] = [sum(share is not None for share in each) for each in shares]
    values["truncated_share"] = [
        _mean([float(attempt.completion.finish_reason == "length") for attempt in group]) for group in groups
    ]
    for name in TOKENS:
        values[name] = [_mean([getattr(attempt.completion, name) for attempt in group]) for group in groups]
    return values


def _pass(group: Sequence[Attempt], k: int) -> float:
    return pass_at_k(len(group), sum(a.verdict == "correct" for a in group), k) if group else 0.0


def _majority(group: Sequence[Attempt], answers: Sequence[str | None], k: int) -> float:
    return majority_at_k(answers, [a.verdict == "correct" for a in group], k) if group else 0.0


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def summarise_values(metric: str, values: Sequence[float | None], seed: int = 0) -> dict[str, float] | None:
    """Mean, 95 % interval and number of the problems that have a value; None where none has.

    Equal numbers of tokens keep an interval without width: they are no counts of successes.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    if metric in TOKENS and len(set(known)) == 1:
        return {"mean": known[0], "low": known[0], "high": known[0], "problems": len(known)}
    return summarise(known, seed=seed)


def interval(summary: Mapping[str, float] | None, metric: str, sign: str = "") -> str:
    """Mean, low and high as people read them; "-" where there is none. `sign` "+" is for differences."""
    if summary is None:
        return "-"
    digits = ".1f" if metric in TOKENS else ".3f"
    low, high = (format(summary[key], digits) for key in ("low", "high"))
    return f"{summary['mean']:{sign}{digits}} [{low}, {high}]"


def write_problem_values(folder: Path, found: ProblemValues) -> None:
    """Write FILE of an evaluation's folder."""
    write_json(folder / FILE, _row(found))


def read_problem_values(folder: Path) -> ProblemValues:
    """Inverse of `write_problem_values`.

    Raises:
        ValueError: there is no such file.
    """
    return _from_row(read_written(folder, FILE, "evaluate"))


def write_setting_values(folder: Path, settings: Mapping[str, ProblemValues]) -> None:
    """Write SETTINGS_FILE of a folder of stage test_time: what it measured in each setting, by its title."""
    write_json(folder / SETTINGS_FILE, {title: _row(found) for title, found in settings.items()})


def read_setting_values(folder: Path) -> dict[str, ProblemValues]:
    """Inverse of `write_setting_values`.

    Raises:
        ValueError: there is no such file.
    """
    found = read_written(folder, SETTINGS_FILE, "test_time")
    return {title: _from_row(row) for title, row in found.items()}


def write_choices(folder: Path, ids: Sequence[str], rows: Mapping[str, Sequence[dict]]) -> None:
    """Write CHOICES_FILE: budget and ways of the rows of `evaluation.compute_optimal.at_budget` by unit."""
    units = {
        unit: [{key: row[key] for key in ("budget", "ways")} for row in found] for unit, found in rows.items()
    }
    write_json(folder / CHOICES_FILE, {"ids": ids, "units": units})


def read_choices(folder: Path) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """Problem ids, and by unit a row (budget, ways) for each budget.

    Raises:
        ValueError: there is no such file.
    """
    found = read_written(folder, CHOICES_FILE, "evaluate_search")
    return found["ids"], found["units"]


def read_written(folder: Path, name: str, stage: str) -> Any:
    """A JSON file that a stage writes into its folder.

    Raises:
        ValueError: there is no such file, as in folders of older versions.
    """
    if not (folder / name).is_file():
        raise ValueError(
            f"{folder} has no {name}, which stage {stage} writes; move the folder away and run its stage "
            "again"
        )
    return read_json(folder / name)


def _row(found: ProblemValues) -> dict[str, Any]:
    benchmarks = {name: {"ids": ids, "values": found.values[name]} for name, ids in found.ids.items()}
    return {"settings": found.settings, "benchmarks": benchmarks}


def _from_row(found: Mapping[str, Any]) -> ProblemValues:
    benchmarks = found["benchmarks"].items()
    return ProblemValues(
        settings=found["settings"],
        ids={name: each["ids"] for name, each in benchmarks},
        values={name: each["values"] for name, each in benchmarks},
    )
