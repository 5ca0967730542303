"""The few numbers of a stage that a line has room for, and how they are written, here and in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from data.figures import finite
from evaluation.report.folder import mapping

_COUNTED = ("problems", "questions", "attempts", "searches", "pairs", "rows", "steps", "rejected")
_FLOWS = ("rows", "solutions")
"""Counted as NAME_in and NAME_out."""
_COURSES = (("_first", "_last"), ("_start", "_end"), ("_before", "_after"), ("_before", ""))
"""Endings of the names that a number has at the beginning and at the end of a training."""
_MOST_NUMBERS = 4


def duration(seconds: float) -> str:
    """Seconds for people: 3.2s, 48s, 12m05s, 3h07m."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest}s"
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


def picked(metrics: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What a line has room for: how much went through a stage, and the few numbers that matter.

    These are the accuracy of each benchmark of an evaluation; of a comparison its headline, one evaluation
    after the other; of a training how its measures began and ended; of other stages that do not let rows
    through the first few numbers.
    """
    counts, used = _counts(metrics)
    numbers = [*_accuracies(metrics.get("benchmarks")), *_compared(metrics), *_courses(metrics)]
    if not numbers and not any(f"{name}_out" in used for name in _FLOWS):
        others = [k for k, v in metrics.items() if k not in used and "seconds" not in k and _is_number(v)]
        shown = [f"{key} {number(metrics[key])}" for key in others[:_MOST_NUMBERS]]
        numbers = [", ".join(shown)] if shown else []
    return counts, numbers


def _counts(metrics: dict[str, Any]) -> tuple[list[str], set[str]]:
    """Counts as text, and the keys that they are from."""
    found: list[str] = []
    used: set[str] = set()
    for name in _FLOWS:
        before, after = metrics.get(f"{name}_in"), metrics.get(f"{name}_out")
        if _is_number(before) and _is_number(after):
            found.append(f"{before:,} -> {after:,} {name}")
            used |= {f"{name}_in", f"{name}_out"}
    for name in _COUNTED:
        if isinstance(metrics.get(name), int):
            used.add(name)
            if metrics[name] or name != "rejected":
                found.append(f"{metrics[name]:,} {name}")
    for name in ("tokens", "completion_tokens"):
        if _is_number(metrics.get(name)):
            used.add(name)
            found.append(f"{_short(metrics[name])} {name.replace('_', ' ')}")
    return found, used


def _accuracies(benchmarks: Any) -> Iterator[str]:
    """Of each benchmark of an evaluation: accuracy with its interval, and the votes of the most
    completions."""
    for name, found in benchmarks.items() if isinstance(benchmarks, dict) else ():
        accuracy = isinstance(found, dict) and (found.get("accuracy") or found.get("pass@1"))
        if not isinstance(accuracy, dict):
            continue
        votes = max(
            (key for key in found if key.startswith("maj@") and key[4:].isdecimal()),
            key=lambda key: int(key[4:]),
            default="",
        )
        most = f", {votes} {number(mapping(found[votes]).get('mean'))}" if votes else ""
        mean, low, high = (number(accuracy.get(key)) for key in ("mean", "low", "high"))
        yield f"{name} {mean} [{low}, {high}]{most}"


def _compared(metrics: dict[str, Any]) -> list[str]:
    """The headline of a comparison: a line for each benchmark."""
    names = metrics.get("evaluations")
    names = [f" {name}" for name in names] if isinstance(names, list) else []
    lines: dict[str, list[str]] = {}
    for key, value in metrics.items():
        if ends := [name for name in names if key.endswith(name)]:
            lines.setdefault(key.removesuffix(max(ends, key=len)), []).append(number(value))
    return [f"{name} {' -> '.join(values)}" for name, values in lines.items()]


def _courses(metrics: dict[str, Any]) -> list[str]:
    """What a training began and ended with."""
    found: dict[str, str] = {}
    for begins, ends in _COURSES:
        for key, value in metrics.items():
            name = key.removesuffix(begins)
            if key.endswith(begins) and name not in found and name + ends in metrics:
                found[name] = f"{name} {number(value)} -> {number(metrics[name + ends])}"
    return [", ".join(found.values())] if found else []


def _is_number(value: Any) -> bool:
    return finite(value) is not None


def number(value: Any) -> str:
    """Three decimals of what is small, four digits of what is not; "-" of what is no number."""
    if not _is_number(value):
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 10 or not value else f"{value:.4g}"


def _short(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{number:,.0f}"
