"""Stage `compare`: evaluations of the same problems side by side, with what changed from one to the next.

The stages of a pipeline, the iterations of self-training, or two ways to one model: each change is a mean of
differences on the same problems, with a paired bootstrap interval over them.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.figures import write_png
from data.run_folder import read_manifest
from data.stage import run_stage
from data.store import write_json
from evaluation.best_of_n import paired_difference
from evaluation.compare_plot import comparison_picture
from evaluation.problem_values import (
    METRICS,
    TOKENS,
    ProblemValues,
    interval,
    read_problem_values,
    summarise_values,
)

logger = logging.getLogger(__name__)

_OVER_K = re.compile(r"(pass|maj)@[1-9][0-9]*")


@dataclass(kw_only=True)
class CompareConfig:
    """Fields of stage `compare`."""

    evaluations: list[str] = field(default_factory=list)
    """Folders of stage `evaluate` (run:07_evaluate_base or paths), at least two, in the order in which they
    are shown."""
    names: list[str] = field(default_factory=list)
    """What they are called, one each; without it the names of their stages."""
    benchmarks: list[str] = field(default_factory=list)
    """Benchmarks to compare by their names in the evaluations; without it all, which each must have."""
    metrics: list[str] = field(default_factory=lambda: list(METRICS))
    """accuracy, formatted, language_share, truncated_share, thinking_tokens, completion_tokens (all of them
    unless others are named), pass@k or maj@k; the first one is the headline."""
    against: Literal["previous", "first"] = "previous"
    """With which evaluation each one is compared."""
    seed: int = 0
    """Seed of the intervals."""

    def __post_init__(self) -> None:
        if len(self.evaluations) < 2:
            raise ValueError(
                "evaluations: give at least two folders of stage evaluate, for example "
                "[run:07_evaluate_base, run:08_evaluate_sft]"
            )
        if self.names and len(self.names) != len(self.evaluations):
            raise ValueError(
                f"names: {len(self.names)} for {len(self.evaluations)} evaluations; give one name to each"
            )
        for key in ("evaluations", "names", "benchmarks", "metrics"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key}: one repeats in {values}; give each once")
        if not self.metrics:
            raise ValueError(f"metrics: give at least one, for example {METRICS[0]}")
        for metric in self.metrics:
            check_metric(metric, "metrics")
        if self.against not in ("previous", "first"):
            raise ValueError(f"against: {self.against!r} is not one of previous, first")


def check_metric(metric: str, key: str) -> None:
    """Refuse what no evaluation measures; `key` is where the recipe has it."""
    if metric not in METRICS and not _OVER_K.fullmatch(metric):
        raise ValueError(f"{key}: {metric!r} is not one of {', '.join(METRICS)}, pass@k or maj@k (pass@8)")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A finished evaluation under the name that it has here."""

    name: str
    folder: Path
    found: ProblemValues


def compare(config: CompareConfig, folder: Path) -> dict[str, Any]:
    """Write comparison.json and plots/comparison.png, print a table.

    Returns:
        `evaluations`, `against`, and "<benchmark> <metric> <evaluation>" for the first metric; all others are
        in comparison.json.
    Raises:
        ValueError: an evaluation is not finished, or they are not of the same problems.
    """
    evaluations = load_evaluations(config)
    benchmarks = common_benchmarks(evaluations, config.benchmarks)
    check_settings(evaluations, config.metrics)
    rows = {name: compare_benchmark(evaluations, name, config) for name in benchmarks}
    metrics = drop_empty(rows, config.metrics)
    result = {
        "evaluations": [
            {"name": each.name, "folder": str(each.folder), "settings": each.found.settings}
            for each in evaluations
        ],
        "against": config.against,
        "metrics": metrics,
        "benchmarks": rows,
    }
    write_json(folder / "comparison.json", result)
    picture = comparison_picture("comparison", rows, config.against)
    write_png(picture, folder / "plots" / "comparison.png")
    print_table(rows, config.against)
    first = metrics[0]
    headline = {
        f"{name} {first} {row['name']}": row["value"]["mean"]
        for name, found in rows.items()
        for row in found["metrics"][first]
        if row["value"] is not None
    }
    return {"evaluations": [each.name for each in evaluations], "against": config.against, **headline}


# ------------------------------------------------------------------ reading


def load_evaluations(config: CompareConfig) -> list[Evaluation]:
    """The evaluations of a comparison in its order.

    Raises:
        ValueError: a folder is no finished run of stage `evaluate`, or two have the same name.
    """
    manifests = [_finished(path) for path in config.evaluations]
    names = config.names or [manifest["name"] for manifest in manifests]
    if len(set(names)) < len(names):  # of several pipelines
        names = [f"{manifest['pipeline']}/{manifest['name']}" for manifest in manifests]
    if len(set(names)) < len(names):
        raise ValueError(f"evaluations: names repeat in {names}; give each its own in `names`")
    return [
        Evaluation(name=name, folder=Path(path), found=read_problem_values(Path(path)))
        for name, path in zip(names, config.evaluations, strict=True)
    ]


def read_evaluation(path: str) -> Evaluation:
    """One evaluation by the name of its stage.

    Raises:
        ValueError: no finished run of stage `evaluate`.
    """
    return Evaluation(name=_finished(path)["name"], folder=Path(path), found=read_problem_values(Path(path)))


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


# ------------------------------------------------------------------ comparing


def compare_benchmark(evaluations: Sequence[Evaluation], name: str, config: CompareConfig) -> dict[str, Any]:
    """`problems`, and for each of `metrics` a row for every evaluation: name, `value` (mean, low, high and
    the problems that have one) and `change` (against, mean, low, high, problems, and `clear`: whether the
    interval leaves out 0), either None where there is none.

    Raises:
        ValueError: an evaluation did not measure a pass@k or maj@k.
    """
    ids = evaluations[0].found.ids[name]
    found: dict[str, list[dict[str, Any]]] = {}
    for metric in config.metrics:
        values = [metric_values(each, name, metric, ids) for each in evaluations]
        found[metric] = []
        for place, (each, own) in enumerate(zip(evaluations, values, strict=True)):
            base = 0 if config.against == "first" else place - 1
            change = difference(metric, own, values[base], config.seed) if place else None
            found[metric].append(
                {
                    "name": each.name,
                    "value": summarise_values(metric, own, config.seed),
                    "change": change and {"against": evaluations[base].name, **change},
                }
            )
    return {"problems": len(ids), "metrics": found}


def drop_empty(rows: Mapping[str, dict[str, Any]], metrics: Sequence[str]) -> list[str]:
    """The metrics that have a value somewhere; the others are taken out of the rows.

    Raises:
        ValueError: none has one.
    """
    kept = []
    for metric in metrics:
        if any(row["value"] is not None for found in rows.values() for row in found["metrics"][metric]):
            kept.append(metric)
        else:
            logger.warning("metrics: %s has no value in any evaluation; left out", metric)
            for found in rows.values():
                del found["metrics"][metric]
    if not kept:
        raise ValueError(f"metrics: {', '.join(metrics)} have no value in any evaluation; add accuracy")
    return kept


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


def print_table(rows: Mapping[str, Mapping[str, Any]], against: str) -> None:
    """Print a table for each benchmark: below each metric a line for every evaluation."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for benchmark, found in rows.items():
        title = f"{benchmark}, {found['problems']} problems (95 % intervals; * a change that leaves out 0)"
        table = Table(title=escape(title), box=SIMPLE_HEAD)
        table.add_column("evaluation", overflow="fold")
        for column in ("value", f"change to the {against}"):
            table.add_column(column, justify="right", no_wrap=True)
        for metric, evaluated in found["metrics"].items():
            table.add_row(f"[bold]{metric.replace('_', ' ')}[/]")
            for place, row in enumerate(evaluated):
                clear = row["change"] is not None and row["change"]["clear"]
                change = interval(row["change"], metric, sign="+") + (" *" if clear else "  ")
                table.add_row(
                    escape(f"  {row['name']}"),
                    escape(interval(row["value"], metric)),
                    escape(change) if place else "",
                )
            table.add_section()
        console.print(table)


if __name__ == "__main__":
    run_stage(compare, CompareConfig)
