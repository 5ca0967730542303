"""Rows of published sets of labelled steps, and what they say: one reader for each format.

A set that names only the first error says nothing about the steps behind it: these have no label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Row = Mapping[str, Any]
Neutral = Literal["right", "wrong", "unlabelled"]


class BadRowError(Exception):
    """A row that is no labelled solution: (rule, evidence)."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a row says of one solution; steps and labels are not checked yet."""

    question: Any
    steps: Sequence[Any]
    labels: Sequence[Any]
    right: bool | None = None
    answer: str = ""
    solution: str = ""
    model: str = ""
    domain: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepForm:
    """A format of labelled steps."""

    columns: tuple[str, ...]
    """Columns that a table of this format has."""
    read: Callable[[Row, PrmOptions], Iterator[Reading]]


@dataclass(frozen=True, kw_only=True)
class PrmOptions:
    """What PRM800K leaves open."""

    neutral: Neutral = "right"
    """What a rating of 0 means. Its paper counts neutral steps as right (arXiv 2305.20050, section 2.4);
    TRL's copy trl-lib/prm800k counts them as wrong."""
    alternatives: bool = False
    """Whether a step that was rated and not chosen ends a solution of its own, with the labels of the steps
    before it, as in TRL's copy."""


def labels_to(first_error: int, steps: int) -> list[float | None]:
    """Labels of a solution of which only the first error is known: right before it, none behind it; -1: all
    are right.

    Raises:
        BadRowError: there is no such step.
    """
    if first_error == -1:
        return [1.0] * steps
    if not 0 <= first_error < steps:
        raise BadRowError("no_such_step", f"the first error is step {first_error} of {steps}")
    return [1.0] * first_error + [0.0] + [None] * (steps - first_error - 1)


def _index(value: Any, column: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRowError("bad_label", f"{column!r} is {value!r}, not the number of a step")
    return value


def _list(row: Row, column: str) -> list[Any]:
    if not isinstance(row[column], list | tuple):
        raise BadRowError("not_a_list", f"{column!r} is {row[column]!r}")
    return list(row[column])


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


# ------------------------------------------------------------------ one reader for each format


def _stepwise(row: Row, options: PrmOptions) -> Iterator[Reading]:
    """TRL's stepwise supervision format: labels are booleans, or numbers from 0 to 1."""
    labels = [float(x) if isinstance(x, bool) else x for x in _list(row, "labels")]
    yield Reading(question=row["prompt"], steps=_list(row, "completions"), labels=labels)


def _processbench(row: Row, options: PrmOptions) -> Iterator[Reading]:
    """ProcessBench: `label` is the index of the first error, -1 where all steps are right."""
    steps = _list(row, "steps")
    right = row["final_answer_correct"]
    yield Reading(
        question=row["problem"],
        steps=steps,
        labels=labels_to(_index(row["label"], "label"), len(steps)),
        right=bool(right) if isinstance(right, bool | int) else None,
        model=_text(row["generator"]),
        metadata={"row": _text(row["id"])},
    )


def _bigbench_mistake(row: Row, options: PrmOptions) -> Iterator[Reading]:
    """BIG-Bench-Mistake: `mistake_index` counts from 0, null where there is no mistake."""
    steps, mistake = _list(row, "steps"), row["mistake_index"]
    target, answer = _text(row["target"]), _text(row["answer"])
    yield Reading(
        question=row["input"],
        steps=steps,
        labels=labels_to(-1 if mistake is None else _index(mistake, "mistake_index"), len(steps)),
        right=answer == target,
        answer=target,
        model="PaLM 2",
    )


_NUMBERED = re.compile(r"\s*S?tep (\d+)\b")
_CHOICE = re.compile(r"Choice[\s_:]*([A-Z])\b")


def _mr_ben(row: Row, options: PrmOptions) -> Iterator[Reading]:
    """MR-Ben: the first error is named by the number that its step bears in the text ("Step 3: ...").

    Lines without a number belong to the step above them; what follows "Solution:" is the last step.
    """
    lines = [str(line) for line in _list(row, "Model_Solution_Steps") if str(line).strip()]
    steps: list[str] = []
    for line in lines:
        if steps and not _NUMBERED.match(line) and not line.lstrip().startswith("Solution"):
            steps[-1] += "\n" + line.strip()
        else:
            steps.append(line.strip())
    numbers = [match[1] if (match := _NUMBERED.match(step)) else "" for step in steps]
    named = _text(row["Model_Solution_First_Error_Step"])
    if named != "N/A" and named not in numbers:
        raise BadRowError("no_such_step", f"no step has the number {named!r}")
    choice, answer = _CHOICE.findall(steps[-1] if steps else ""), _text(row["Ground_Truth_Answer_Modified"])
    yield Reading(
        question=f"{_text(row['Question'])}\n{_text(row['Options'])}",
        steps=steps,
        labels=labels_to(-1 if named == "N/A" else numbers.index(named), len(steps)),
        right=choice[-1] == answer if choice else None,
        answer=answer,
        model=_text(row["Sampled_Model"]),
        domain=_text(row["Subject"]),
        metadata={"row": _text(row["Question_UUID"])},
    )


def _math_shepherd(row: Row, options: PrmOptions) -> Iterator[Reading]:
    """Math-Shepherd: the question, then steps that end in "ки"; `label` is the same text with + or - in the
    place of each "ки". The last label says whether the answer is right."""
    text, label = str(row["input"]), str(row["label"])
    *parts, rest = text.split("ки")
    signs, position = [], 0
    for part in parts:
        position += len(part)
        signs.append(label[position : position + 1])
        position += 1
    if not parts or rest.strip() or set(signs) - {"+", "-"}:
        raise BadRowError("label_mismatch", f"labels {signs} behind {len(parts)} steps, then {rest[:80]!r}")
    question, first = _first_step(parts)
    steps = [*first, *(part.strip() for part in parts[1:])]
    labels = [float(sign == "+") for sign in signs[-len(steps) :]] if steps else []
    yield Reading(
        question=question, steps=steps, labels=labels, right=signs[-1] == "+", domain=_text(row["task"])
    )


def _first_step(parts: list[str]) -> tuple[str, list[str]]:
    """Question and first step; no step where the question itself bears a label, which is none."""
    for mark in ("Step 1:", "step 1:"):
        question, found, step = parts[0].partition(mark)
        if found:
            return question.strip(), [mark + step.rstrip()]
    if len(parts) > 1 and parts[1].lstrip().lower().startswith("step 1:"):
        return parts[0].strip(), []
    question, found, step = parts[0].partition("?")
    if not found or "?" in step:
        raise BadRowError("no_first_step", f"no 'Step 1:' in {parts[0][-200:]!r}")
    return (question + found).strip(), [step.strip()]


def _whole(step: Any) -> Any:
    """A step of PRM800K without blank lines: its answer stands behind one ("# Answer")."""
    return re.sub(r"\n\s*\n", "\n", step).strip() if isinstance(step, str) else step


def _label(rating: Any, neutral: Neutral) -> float | None:
    if rating is None:
        return None
    if rating not in (-1, 0, 1):
        raise BadRowError("bad_label", f"a rating is {rating!r}, not -1, 0 or 1")
    return {1: 1.0, -1: 0.0, 0: {"right": 1.0, "wrong": 0.0, "unlabelled": None}[neutral]}[rating]


def _prm800k_decoded(row: Row, options: PrmOptions) -> Iterator[Reading]:
    """PRM800K as steps and ratings, with the answer in a column of its own; it goes back to the last step."""
    steps, answer = _list(row, "steps"), row["final_answer"]
    if steps and answer is not None:
        steps[-1] = f"{steps[-1]}\n# Answer\n{answer}"
    labels = [_label(rating, options.neutral) for rating in _list(row, "ratings")]
    yield Reading(question=row["problem"], steps=[_whole(step) for step in steps], labels=labels)


def _prm800k(row: Row, options: PrmOptions) -> Iterator[Reading]:
    """PRM800K as published (openai/prm800k@7ecc794): the chosen completions, one after the other.

    Where none was chosen a person wrote the step, or else the solution ends with the first completion, in
    which the error was found. `right` is known where the labelling ended with "solution".
    """
    question, label = row["question"], row["label"]
    about = {
        "question": question["problem"],
        "answer": _text(question.get("ground_truth_answer")),
        "solution": _text(question.get("ground_truth_solution")),
        "model": "GPT-4 (PRM800K)",
    }
    steps: list[Any] = []
    labels: list[float | None] = []
    for step in label["steps"]:
        completions, chosen = list(step["completions"] or []), step["chosen_completion"]
        human = step.get("human_completion")
        ends = chosen is None and human is None
        taken = 0 if ends else chosen
        others = [c for i, c in enumerate(completions) if i != taken]
        for other in others if options.alternatives else ():
            rated = [*labels, _label(other["rating"], options.neutral)]
            yield Reading(steps=[*steps, _whole(other["text"])], labels=rated, **about)
        if ends and not completions:
            break
        chosen_step = completions[taken] if taken is not None else {**(human or {}), "rating": 1}
        steps = [*steps, _whole(chosen_step["text"])]
        labels = [*labels, _label(chosen_step["rating"], options.neutral)]
        if ends:
            break
    right = True if label.get("finish_reason") == "solution" else None
    yield Reading(steps=steps, labels=labels, right=right, **about)


FORMS: dict[str, StepForm] = {
    "stepwise": StepForm(columns=("prompt", "completions", "labels"), read=_stepwise),
    "prm800k": StepForm(columns=("question", "label"), read=_prm800k),
    "prm800k_decoded": StepForm(
        columns=("problem", "steps", "ratings", "final_answer"), read=_prm800k_decoded
    ),
    "math_shepherd": StepForm(columns=("input", "label", "task"), read=_math_shepherd),
    "processbench": StepForm(
        columns=("id", "generator", "problem", "steps", "final_answer_correct", "label"), read=_processbench
    ),
    "bigbench_mistake": StepForm(
        columns=("input", "steps", "target", "answer", "mistake_index"), read=_bigbench_mistake
    ),
    "mr_ben": StepForm(
        columns=(
            "Question_UUID",
            "Subject",
            "Question",
            "Options",
            "Ground_Truth_Answer_Modified",
            "Sampled_Model",
            "Model_Solution_Steps",
            "Model_Solution_First_Error_Step",
        ),
        read=_mr_ben,
    ),
}
"""Formats of labelled steps, beside our own table step_labels."""
