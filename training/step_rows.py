"""Labelled solutions as training rows of a reward model: token ids, where steps are judged, and targets."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

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
    ids: array[int]
    ends: list[int]
    """Indices in `ids` at which steps are judged, increasing."""
    targets: list[float]
    """For each of them the probability that the step is right."""


class Rows(Dataset):
    """Rows as a data loader takes them: dictionaries with input_ids, ends and targets."""

    def __init__(self, rows: Sequence[StepRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {"input_ids": row.ids, "ends": row.ends, "targets": row.targets}


@dataclass(frozen=True, kw_only=True)
class StepRows:
    """The rows of a dataset, and what is left out."""

    rows: list[StepRow]
    rejected: list[Rejected]
    shortened: int
    """Rows whose last steps did not fit into max_length and were left out."""


class UnusableError(Exception):
    """A solution cannot be trained on; the arguments are rule and evidence."""


def step_rows(
    solutions: Iterable[LabelledSolution],
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
        try:
            targets = _targets(solution, separator, mode, soft, until_first_error)
            whole = _encoded(solution, step_format, targets)
            row = _shortened(whole, max_length)
        except UnusableError as why:
            bad.append(rejected(labelled_row(solution), *why.args))
        else:
            rows.append(row)
            shortened += row is not whole
    return StepRows(rows=rows, rejected=bad, shortened=shortened)


def _targets(
    solution: LabelledSolution, separator: str, mode: Mode, soft: bool, until_first_error: bool
) -> list[float | None]:
    """The target of each step, None where it is not judged."""
    labels = list(solution.labels)
    if mode == "orm":
        if solution.right is None:
            raise UnusableError("unknown_outcome", "nobody has said whether the final answer is right")
        labels = [*[None] * (len(solution.steps) - 1), float(solution.right)]
    if found := fault(solution.steps, labels, separator):
        raise UnusableError(*found)
    if until_first_error and solution.first_error >= 0:
        known = solution.first_error + 1
        labels = labels[:known] + [None] * (len(labels) - known)
    return [label if label is None or soft else float(label >= 0.5) for label in labels]


def _encoded(solution: LabelledSolution, step_format: StepFormat, targets: Sequence[float | None]) -> StepRow:
    try:
        encoded = step_format.encode(solution.problem.question, solution.steps)
    except ValueError as error:
        raise UnusableError("unencodable", str(error)) from error
    judged = [(end, target) for end, target in zip(encoded.ends, targets, strict=True) if target is not None]
    return _row(solution.problem.id, encoded.ids, judged)


def _row(problem: str, ids: Sequence[int], judged: Sequence[tuple[int, float]]) -> StepRow:
    ends, targets = zip(*judged, strict=True)
    return StepRow(
        problem=problem, ids=array("i", ids[: ends[-1] + 1]), ends=list(ends), targets=list(targets)
    )


def _shortened(row: StepRow, max_length: int) -> StepRow:
    """The row itself where it fits, else its steps that do."""
    judged = [(end, target) for end, target in zip(row.ends, row.targets, strict=True) if end < max_length]
    if not judged:
        raise UnusableError("overlong", f"{row.ends[0] + 1} > max_length {max_length}")
    return row if len(judged) == len(row.ends) else _row(row.problem, row.ids, judged)


def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """A batch of B rows (see `Rows`), padded on the right with id 0, which nothing that is judged can see.

    Returns:
        input_ids and attention_mask (B, T); columns (K,), the columns at which any row is judged; labels
        (B, K), the targets there, IGNORED where a row is not judged.
    """
    shape = len(rows), max(len(row["input_ids"]) for row in rows)
    columns = sorted({end for row in rows for end in row["ends"]})
    places = {column: place for place, column in enumerate(columns)}
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full((len(rows), len(columns)), IGNORED)
    for i, row in enumerate(rows):
        ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        mask[i, : len(row["input_ids"])] = 1
        labels[i, [places[end] for end in row["ends"]]] = torch.tensor(row["targets"])
    return {"input_ids": ids, "attention_mask": mask, "columns": torch.tensor(columns), "labels": labels}


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


def held_out_problems(problems: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Problems to hold out, at least one unless fraction is 0.

    Raises:
        ValueError: nothing would be left to train on.
    """
    known = sorted(set(problems))
    count = max(round(fraction * len(known)), fraction > 0)
    if count == len(known):
        raise ValueError(f"held_out_fraction: {fraction} of {len(known)} problems leaves none to train on")
    return set(random.Random(f"held out {seed}").sample(known, count))


def steps_shown(tokenizer: Any, row: StepRow) -> str:
    """A row as terminal text: each judged step with its target, right ones green and wrong ones red."""
    parts, start = [], 0
    for end, target in zip(row.ends, row.targets, strict=True):
        text = str(tokenizer.decode(list(row.ids[start : end + 1]))).encode("unicode_escape").decode()
        parts.append(f"\x1b[{32 if target >= 0.5 else 31}m{text} [{target:g}]\x1b[0m")
        start = end + 1
    return "\n".join(parts)
