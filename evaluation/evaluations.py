"""Finished evaluations: read, checked to be of the same problems, and compared by problem."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.run_folder import read_manifest
from evaluation.best_of_n import paired_difference
from evaluation.problem_values import METRICS, TOKENS, ProblemValues, read_problem_values, summarise_values

logger = logging.getLogger(__name__)

_OVER_K = re.compile(r"(pass|maj)@[1-9][0-9]*")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A finished evaluation under the name that it has here."""

    name: str
    folder: Path
    found: ProblemValues


def check_metric(metric: str, key: str) -> None:
    """Refuse what no evaluation measures; `key` is where the recipe has it."""
    if metric not in METRICS and not _OVER_K.fullmatch(metric):
        raise ValueError(f"{key}: {metric!r} is not one of {', '.join(METRICS)}, pass@k or maj@k (pass@8)")


def load_evaluations(folders: Sequence[str], names: Sequence[str] = ()) -> list[Evaluation]:
    """Evaluations in the order of their folders, called by these names or else by those of their stages.

    Raises:
        ValueError: a folder is no finished run of stage `evaluate`, or two have the same name.
    """
    manifests = [_finished(path) for path in folders]
    names = names or [manifest["name"] for manifest in manifests]
    if len(set(names)) < len(names):  # of several pipelines
        names = [f"{manifest['pipeline']}/{manifest['name']}" for manifest in manifests]
    if len(set(names)) < len(names):
        raise ValueError(f"evaluations: names repeat in {names}; give each its own in `names`")
    return [
        Evaluation(name=name, folder=Path(path), found=read_problem_values(Path(path)))
        for name, path in zip(names, folders, strict=True)
    ]


def _finished(path: str) -> dict[str, Any]:
    """The manifest of a finished evaluation."""
    manifest = read_manifest(Path(path))
    if manifest is None:
        raise ValueError(f"evaluations: {path} is no run folder; give folders of stage evaluate")
    if manifest["stage"] != "evaluate":
        raise ValueError(
            f"evaluations: {path} is of stage {manifest['stage']!r}; give folders of stage evaluate"
        )
    if manifest["status"] != "finished":
        raise ValueError(f"evaluations: {path} is not finished ({manifest['status']}); run its stage first")
    return manifest


def common_benchmarks(evaluations: Sequence[Evaluation], wanted: Sequence[str]) -> list[str]:
    """The benchmarks to compare, in the order of the first evaluation.

    Raises:
        ValueError: an evaluation lacks one, or other problems bear its name there.
    """
    seen = dict.fromkeys(name for each in evaluations for name in each.found.ids)
    names = list(wanted) or list(seen)
    for name in names:
        without = [each.name for each in evaluations if name not in each.found.ids]
        if without:
            in_all = [n for n in seen if all(n in each.found.ids for each in evaluations)]
            raise ValueError(
                f"benchmarks: {name!r} is not in {', '.join(without)}; in all evaluations are "
                f"{in_all or 'none'}: name those to compare in `benchmarks`"
            )
        _check_same_problems(evaluations, name)
    return names


def _check_same_problems(evaluations: Sequence[Evaluation], name: str) -> None:
    first, *others = evaluations
    wanted = first.found.ids[name]
    for other in others:
        own = other.found.ids[name]
        if sorted(own) != sorted(wanted):
            raise ValueError(
                f"evaluations: benchmark {name!r} has other problems in {other.name} ({len(own)}) than in "
                f"{first.name} ({len(wanted)}): {lacking(own, wanted)}; evaluate both on one set"
            )


def lacking(own: Iterable[str], wanted: Iterable[str]) -> str:
    """What of the wanted ids is not there, and what is there beside."""
    has, wants = Counter(own), Counter(wanted)
    lacks, more = sorted((wants - has).elements()), sorted((has - wants).elements())
    return f"lacks {_some(lacks)}, has {_some(more)} beside"


def _some(ids: Sequence[str]) -> str:
    return f"{len(ids)} ({', '.join(ids[:3])}{', ...' * (len(ids) > 3)})" if ids else "none"


def check_settings(evaluations: Sequence[Evaluation], metrics: Sequence[str]) -> None:
    """Warn of evaluations that were made in different ways.

    Raises:
        ValueError: `language_share` is wanted of different languages.
    """
    first = evaluations[0].found.settings
    for key in first:
        values = {each.name: each.found.settings.get(key) for each in evaluations}
        if key == "model" or all(value == first[key] for value in values.values()):
            continue
        shown = ", ".join(f"{name} {value!r}" for name, value in values.items())
        if key == "language" and "language_share" in metrics and len({*values.values()} - {None}) > 1:
            raise ValueError(
                f"metrics: language_share is of different languages ({shown}); take it out of `metrics`, or "
                "evaluate with one `language`"
            )
        logger.warning("%s differs (%s): a change is not the model's alone", key, shown)


def metric_values(
    evaluation: Evaluation, benchmark: str, metric: str, ids: Sequence[str]
) -> list[float | None]:
    """A metric of an evaluation in the order of these ids.

    Raises:
        ValueError: it was not measured.
    """
    values = evaluation.found.values[benchmark]
    if metric not in values:
        if metric == "language_share":  # left out of this evaluation
            return [None] * len(ids)
        kinds = [name for name in values if name in METRICS or _OVER_K.fullmatch(name)]
        raise ValueError(
            f"metrics: {evaluation.name} did not measure {metric} of {benchmark}, but {', '.join(kinds)}; "
            "add its k to `k` of that evaluation, or take it out of `metrics`"
        )
    of_problem = dict(zip(evaluation.found.ids[benchmark], values[metric], strict=True))
    return [of_problem[identity] for identity in ids]


def difference(
    metric: str, values: Sequence[float | None], others: Sequence[float | None], seed: int = 0
) -> dict[str, Any] | None:
    """Mean of value - other over the problems that have both, with its paired 95 % interval; None where no
    problem has both."""
    pairs = [(v, o) for v, o in zip(values, others, strict=True) if v is not None and o is not None]
    if not pairs:
        return None
    own, base = zip(*pairs, strict=True)
    if metric in TOKENS:
        found = summarise_values(metric, [value - other for value, other in pairs], seed)
    else:
        found = {**asdict(paired_difference(own, base, seed=seed)), "problems": len(pairs)}
    return found and {**found, "clear": not found["low"] <= 0 <= found["high"]}
