"""All pictures of a report: of one stage from what its folder holds, and across the stages of a run.

Only small files are read, never tables. What is missing, or is not what the stage writes, gives fewer
pictures; why is logged.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from zlib import crc32

from data.curves import learning_picture, loss_picture
from data.figures import Picture, finite, short
from data.metric_log import read_metrics
from data.store import read_json
from evaluation.compare_plot import comparison_picture
from evaluation.prm_plot import best_of_n_picture, reliability_picture
from evaluation.report.folder import FoundStage, mapping
from evaluation.report.overview import (
    accuracy_picture,
    costs_picture,
    effects_picture,
    funnel_bars,
    funnel_picture,
    interval,
)
from evaluation.report.row_plots import Bar, bars_picture, dots_picture, share_dot
from evaluation.scaling_plot import scaling_picture
from evaluation.search_plot import search_pictures

__all__ = ["effects_picture", "run_pictures", "stage_pictures"]

logger = logging.getLogger(__name__)

_ODD = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)
"""What reading raises where a folder does not hold what its stage writes."""


def stage_pictures(found: FoundStage) -> list[Picture]:
    """The pictures of one stage; none where there is nothing to draw."""
    return _made(found.name, (partial(maker, found) for maker in _STAGES.get(found.stage, ())))


def run_pictures(stages: Sequence[FoundStage]) -> list[Picture]:
    """The pictures across the stages of a run, in their order; what it cost last."""
    makers = (accuracy_picture, funnel_picture, costs_picture)
    return _made("run", (partial(maker, stages) for maker in makers))


def _made(of: str, makers: Iterable[Callable[[], Iterable[Picture | None]]]) -> list[Picture]:
    pictures: list[Picture] = []
    for make in makers:
        try:
            pictures += [picture for picture in make() if picture is not None]
        except _ODD as error:
            logger.info("%s: a picture is left out (%s: %s)", of, type(error).__name__, error)
    names = [picture.name for picture in pictures]
    return [
        replace(picture, name=f"{picture.name}-{place}") if picture.name in names[:place] else picture
        for place, picture in enumerate(pictures)
    ]


def _name(found: FoundStage, what: str) -> str:
    """Of a picture: 06-grpo-learning; names that differ stay different."""
    slug = re.sub(r"[^a-z0-9]+", "-", f"{found.name}-{what}".lower()).strip("-")
    plain = re.fullmatch(r"[a-z0-9_]+", found.name)
    return slug if plain else f"{slug}-{crc32(found.name.encode('utf-8', 'replace')):08x}"


# ---------------------------------------------------------------- trainings


def _history(found: FoundStage) -> list[Mapping[str, Any]]:
    """What the trainer has logged so far, under the names of log_history.json."""
    if rows := read_metrics(found.folder):
        return [
            {key.removeprefix("train/").replace("eval/", "eval_"): value for key, value in row.items()}
            for row in rows
        ]
    path = found.folder / "log_history.json"
    return [row for row in read_json(path) if isinstance(row, dict)] if path.is_file() else []


_UNITS = {"prm": "nats a step", "reward_model": "nats a pair"}


def _loss(found: FoundStage) -> Iterator[Picture | None]:
    unit = _UNITS.get(found.stage, "nats a token")
    yield loss_picture(_name(found, "loss"), _history(found), short(found.name), unit)


def _learning(found: FoundStage) -> Iterator[Picture | None]:
    yield learning_picture(_name(found, "learning"), _history(found), short(found.name))


# ---------------------------------------------------------------- data


def _funnel(found: FoundStage) -> Iterator[Picture]:
    rows = funnel_bars(found.metrics)
    count = finite(found.metrics.get("rows_in"))
    if not rows or count is None:
        return
    rows = [Bar(name="rows in", value=count, text=f"{count:,.0f}"), *rows]
    caption = "Rows after each rule; pale: what it dropped. Rules that dropped nothing are not shown."
    yield bars_picture(_name(found, "funnel"), f"Rows of {short(found.name)}", caption, rows)


def _parts(found: FoundStage) -> Iterator[Picture]:
    """Of a mixture."""
    parts = {short(name): mapping(part) for name, part in mapping(found.metrics.get("parts")).items()}
    counted = [(name, finite(part.get("in")), finite(part.get("out"))) for name, part in parts.items()]
    rows = [
        Bar(name=name, value=out, before=before, text=f"{out:,.0f} of {before:,.0f}")
        for name, before, out in counted
        if before is not None and out is not None
    ]
    if rows:
        caption = "Rows drawn from each part; pale: rows that it has."
        yield bars_picture(_name(found, "parts"), f"Parts of {short(found.name)}", caption, rows)


def _first_errors(found: FoundStage) -> Iterator[Picture]:
    """Where solutions go wrong, of labelled steps."""
    counts = mapping(found.metrics.get("first_errors"))
    known = sorted((int(step), finite(count) or 0.0) for step, count in counts.items())[:30]
    total = sum(count for _, count in known)
    if total <= 0:
        return
    rows = [
        Bar(
            name="none" if step < 0 else f"step {step + 1}",
            value=count,
            text=f"{count:,.0f} ({100 * count / total:.0f} %)",
        )
        for step, count in known
    ]
    caption = "Labelled solutions by the step of their first error; none: every labelled step is right."
    yield bars_picture(_name(found, "first-errors"), "Where solutions first go wrong", caption, rows)


# ---------------------------------------------------------------- evaluations

_SHARES = re.compile(r"accuracy|pass@\d+|maj@\d+|formatted|truncated_share|language_share")


def _accuracies(found: FoundStage) -> Iterator[Picture]:
    panels = {}
    for name, metrics in mapping(found.metrics.get("benchmarks")).items():
        known = {key: interval(value) for key, value in mapping(metrics).items() if _SHARES.fullmatch(key)}
        if known.get("accuracy") == known.get("pass@1"):
            known.pop("pass@1", None)
        rows = [share_dot(key.replace("_", " "), value) for key, value in known.items() if value is not None]
        if rows:
            panels[short(name)] = rows
    if panels:
        caption = "Accuracy and other shares, means over problems. Bars: 95 % intervals over problems."
        title, label = f"Shares of {short(found.name)}", "% of problems or completions"
        yield dots_picture(_name(found, "shares"), title, caption, panels, label)


def _comparison(found: FoundStage) -> Iterator[Picture]:
    result = read_json(found.folder / "comparison.json")
    yield comparison_picture(_name(found, "comparison"), result["benchmarks"], short(result["against"]))


def _scaling(found: FoundStage) -> Iterator[Picture]:
    for name, methods in mapping(found.metrics.get("benchmarks")).items():
        yield scaling_picture(_name(found, f"scaling-{name}"), methods, short(name))


def _choices(found: FoundStage) -> Iterator[Picture]:
    attempts = mapping(found.metrics.get("attempts"))
    if attempts:
        of = short(found.name)
        yield best_of_n_picture(_name(found, "best-of-n"), attempts["best_of_n"], of)


def _reliability(found: FoundStage) -> Iterator[Picture]:
    if sets := mapping(found.metrics.get("sets")):
        yield reliability_picture(_name(found, "reliability"), sets, short(found.name))


def _search(found: FoundStage) -> Iterator[Picture]:
    """Accuracy by tokens and FLOPs, difficulty by the first unit that has budgets, compute-optimal by all."""
    units = list(mapping(found.metrics.get("compute_optimal")))
    for stem, picture in search_pictures(found.metrics, _name(found, "") + "-").items():
        kind, unit = stem.split("-")[0], stem.rsplit("-", 1)[-1]
        if kind == "compute" or (unit != "seconds" if kind == "accuracy" else unit in units[:1]):
            yield picture


_STAGES: dict[str, tuple[Callable[[FoundStage], Iterator[Picture | None]], ...]] = {
    "collect": (_funnel,),
    "collect_steps": (_funnel,),
    "curate": (_funnel,),
    "mix": (_parts,),
    "label_steps": (_first_errors,),
    "pretrain": (_loss,),
    "sft": (_loss,),
    "distill": (_loss,),
    "prm": (_loss,),
    "reward_model": (_loss,),
    "grpo": (_learning,),
    "evaluate": (_accuracies,),
    "compare": (_comparison,),
    "test_time": (_scaling,),
    "evaluate_prm": (_choices, _reliability),
    "evaluate_search": (_search,),
}
