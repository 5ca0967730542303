"""Labelled solutions as training rows of a reward model: token ids, where steps are judged, and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from data.schema import Rejected, rejected
from data.step_formats import StepFormat
from data.steps import LabelledSolution, fault, labelled_row

Mode = Literal["prm", "orm"]
IGNORED = -100.0
"""Target of a column at which a row is not judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRow:
    """A solution as the model is trained on it: up to the last step that has a target."""

    problem: str
    """The problem's id."""
    ids: list[int]
    ends: list[int]
    """Indices in `ids` at which steps are judged, increasing."""
    targets: list[float]
    """For each of them the probability that the step is right."""


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """The rows of a dataset, and what is left out."""

    rows: list[StepRow]
    rejected: list[Rejected]
    shortened: int
    """Rows whose last steps did not fit into max_length and were left out."""


def step_rows(
    solutions: Sequence[LabelledSolution],
    step_format: StepFormat,
    *,
    separator: str,
    mode: Mode = "prm",
    soft: bool = False,
    until_first_error: bool = False,
    max_length: int,
) -> StepRows:
    """Encode solutions. One that cannot be trained on is rejected with its rule: those of `data.steps.fault`,
    unknown_outcome (mode orm), unencodable, overlong.

    Args:
        separator: no step may contain it.
        mode: prm judges each step that has a label; orm judges the last step by the solution's outcome.
        soft: whether labels are targets as they are; else they are rounded to 0 and 1.
        until_first_error: whether the labels behind the first error are left out.
        max_length: tokens; steps that end behind it are left out, in mode orm the whole solution is.
    """
    rows, bad, shortened = [], [], 0
    for solution in solutions:
        why = fault(solution.steps, solution.labels, separator) if mode == "prm" else _outcome_fault(solution)
        if why is None:
            targets = _targets(solution, mode, soft, until_first_error)
            try:
                row = _encoded(solution, step_format, targets)
            except ValueError as error:
                why = "unencodable", str(error)
            else:
                short = _shortened(row, max_length)
                if short is None or (mode == "orm" and short is not row):
                    why = "overlong", f"{len(row.ids)} > max_length {max_length}"
                else:
                    shortened += short is not row
                    rows.append(short)
        if why is not None:
            bad.append(rejected(labelled_row(solution), *why))
    return StepRows(rows=rows, rejected=bad, shortened=shortened)


def _outcome_fault(solution: LabelledSolution) -> tuple[str, str] | None:
    if solution.right is None:
        return "unknown_outcome", "nobody has said whether the final answer is right"
    return None if solution.steps else ("no_step", "the solution has no steps")


def _targets(
    solution: LabelledSolution, mode: Mode, soft: bool, until_first_error: bool
) -> list[float | None]:
    if mode == "orm":
        return [*[None] * (len(solution.steps) - 1), float(bool(solution.right))]
    labels = list(solution.labels)
    if until_first_error and solution.first_error >= 0:
        known = solution.first_error + 1
        labels = labels[:known] + [None] * (len(labels) - known)
    return [label if label is None or soft else float(label >= 0.5) for label in labels]


def _encoded(solution: LabelledSolution, step_format: StepFormat, targets: Sequence[float | None]) -> StepRow:
    encoded = step_format.encode(solution.problem.question, solution.steps)
    judged = [(end, target) for end, target in zip(encoded.ends, targets, strict=True) if target is not None]
    ends = [end for end, _ in judged]
    return StepRow(
        problem=solution.problem.id,
        ids=encoded.ids[: ends[-1] + 1],
        ends=ends,
        targets=[target for _, target in judged],
    )


def _shortened(row: StepRow, max_length: int) -> StepRow | None:
    """The row itself where it fits, else its steps that do; None where none does."""
    if len(row.ids) <= max_length:
        return row
    fit = sum(end < max_length for end in row.ends)
    if not fit:
        return None
    ends = row.ends[:fit]
    return StepRow(problem=row.problem, ids=row.ids[: ends[-1] + 1], ends=ends, targets=row.targets[:fit])


def collate(rows: Sequence[StepRow], pad: int) -> dict[str, Tensor]:
    """A batch of B rows, padded on the right.

    Returns:
        input_ids and attention_mask (B, T); columns (K,), the columns at which any row is judged; labels
        (B, K), the targets there, IGNORED where a row is not judged.
    """
    longest = max(len(row.ids) for row in rows)
    columns = sorted({end for row in rows for end in row.ends})
    places = {column: place for place, column in enumerate(columns)}
    labels = torch.full((len(rows), len(columns)), IGNORED)
    for i, row in enumerate(rows):
        labels[i, [places[end] for end in row.ends]] = torch.tensor(row.targets)
    return {
        "input_ids": torch.tensor([row.ids + [pad] * (longest - len(row.ids)) for row in rows]),
        "attention_mask": torch.tensor([[i < len(row.ids) for i in range(longest)] for row in rows]).long(),
        "columns": torch.tensor(columns),
        "labels": labels,
    }


def class_weights(rows: Sequence[StepRow]) -> tuple[float, float]:
    """Weights of wrong and right with which both count the same; their mean over all targets is 1.

    Raises:
        ValueError: there is only one class.
    """
    targets = [target for row in rows for target in row.targets]
    right = sum(targets)
    wrong = len(targets) - right
    if not right or not wrong:
        what = "right" if right else "wrong"
        raise ValueError(
            f"dataset: all {len(targets)} labels are {what}, and nothing can be learned from one class; add "
            "solutions with other labels"
        )
    return len(targets) / (2 * wrong), len(targets) / (2 * right)


def steps_shown(tokenizer: Any, row: StepRow) -> str:
    """A row as terminal text: each judged step with its target, right ones green and wrong ones red."""
    parts, start = [], 0
    for end, target in zip(row.ends, row.targets, strict=True):
        text = str(tokenizer.decode(row.ids[start : end + 1])).encode("unicode_escape").decode()
        parts.append(f"\x1b[{32 if target >= 0.5 else 31}m{text} [{target:g}]\x1b[0m")
        start = end + 1
    return "\n".join(parts)
