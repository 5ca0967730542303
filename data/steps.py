"""Steps of a solution: the one place that splits texts into steps, and the noun that carries their labels.

A completion is split at a separator ("\\n\\n" for most models, "\\n" where a line is a step). The tags of its
thinking format belong to no step, and a part without text is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.schema import Problem, problem_from_row, problem_row
from data.thinking import ThinkingFormat


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step of a completion."""

    text: str
    """Without separator and tags; not blank."""
    end: int
    """Index in the completion's text just behind the step and its separator: the text up to here is a prefix
    from which a model can go on."""


def steps_of(text: str, form: ThinkingFormat, separator: str) -> list[Step]:
    """The steps of whatever a model wrote, those of the thinking and of the response; never raises."""
    steps, start = [], 0
    while start < len(text):
        found = text.find(separator, start)
        end = len(text) if found < 0 else found + len(separator)
        part = text[start : end if found < 0 else found]
        for tag in form.tags:
            part = part.replace(tag, "")
        if part.strip():
            steps.append(Step(text=part.strip(), end=end))
        start = end
    return steps


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledSolution:
    """A solution in steps, each with the probability that it is right."""

    problem: Problem
    steps: tuple[str, ...]
    labels: tuple[float | None, ...]
    """One for each step, in [0, 1]; hard labels are 0 and 1. None: this step has no label, as behind the
    first error."""
    right: bool | None
    """Whether the final answer is right; None where that is not known."""
    model: str = ""
    """Who wrote the solution."""
    labeller: str = ""
    """Who labelled it: human, monte_carlo, binary_search, ..."""

    @property
    def first_error(self) -> int:
        """Index of the first step with a label below one half, -1 where there is none."""
        wrong = (i for i, label in enumerate(self.labels) if label is not None and label < 0.5)
        return next(wrong, -1)


def fault(steps: Sequence[Any], labels: Sequence[Any], separator: str) -> tuple[str, str] | None:
    """Why steps and labels cannot be used, as (rule, evidence); None where they can.

    Rules: no_step, step_not_text, blank_step, separator_in_step (it would be split in two when it is scored),
    labels_mismatch (there must be as many labels as steps), bad_label, no_label.
    """
    if not steps:
        return "no_step", "the solution has no steps"
    for i, step in enumerate(steps):
        if not isinstance(step, str):
            return "step_not_text", f"step {i} is {step!r}"
        if not step.strip():
            return "blank_step", f"step {i} is {step!r}"
        if separator in step.strip():
            return "separator_in_step", f"step {i} contains {separator!r}: {step[:200]!r}"
    if len(labels) != len(steps):
        return "labels_mismatch", f"{len(labels)} labels for {len(steps)} steps"
    for i, label in enumerate(labels):
        if label is not None and not _is_probability(label):
            return "bad_label", f"label {i} is {label!r}, not a number from 0 to 1"
    if all(label is None for label in labels):
        return "no_label", "no step has a label"
    return None


def _is_probability(label: Any) -> bool:
    return isinstance(label, int | float) and not math.isnan(label) and 0 <= label <= 1


def labelled_row(solution: LabelledSolution) -> dict[str, Any]:
    """Row of a step_labels table."""
    right = {None: "", True: "right", False: "wrong"}[solution.right]
    return {
        **problem_row(solution.problem),
        "steps": list(solution.steps),
        "labels": [math.nan if label is None else float(label) for label in solution.labels],
        "right": right,
        "model": solution.model,
        "labeller": solution.labeller,
    }


def labelled_from_row(row: Mapping[str, Any]) -> LabelledSolution:
    """Inverse of `labelled_row`."""
    return LabelledSolution(
        problem=problem_from_row(row),
        steps=tuple(row["steps"]),
        labels=tuple(None if label is None or math.isnan(label) else label for label in row["labels"]),
        right={"": None, "right": True, "wrong": False}[row["right"]],
        model=row["model"],
        labeller=row["labeller"],
    )


def stepwise_row(solution: LabelledSolution) -> dict[str, Any]:
    """A row of TRL's stepwise supervision format: prompt, completions, labels (booleans, all up to the first
    step without label)."""
    labels = [label >= 0.5 for label in solution.labels if label is not None]
    known = next((i for i, label in enumerate(solution.labels) if label is None), len(solution.labels))
    return {
        "prompt": solution.problem.question,
        "completions": list(solution.steps[:known]),
        "labels": labels[:known],
    }
