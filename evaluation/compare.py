"""Stage `compare`: evaluations of the same problems side by side, with what changed from one to the next.

The stages of a pipeline, the iterations of self-training, or two ways to one model: each change is a mean of
differences on the same problems, with a paired bootstrap interval over them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.figures import write_png
from data.stage import run_stage
from data.store import write_json
from evaluation.compare_plot import comparison_picture
from evaluation.evaluations import (
    Evaluation,
    check_metric,
    check_settings,
    common_benchmarks,
    difference,
    load_evaluations,
    metric_values,
)
from evaluation.problem_values import METRICS, interval, summarise_values

logger = logging.getLogger(__name__)


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


def compare(config: CompareConfig, folder: Path) -> dict[str, Any]:
    """Write comparison.json and plots/comparison.png, print a table.

    Returns:
        `evaluations`, `against`, and "<benchmark> <metric> <evaluation>" for the first metric; all others are
        in comparison.json.
    Raises:
        ValueError: an evaluation is not finished, or they are not of the same problems.
    """
    evaluations = load_evaluations(config.evaluations, config.names)
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
