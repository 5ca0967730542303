"""Known sets: benchmarks and training sets whose columns, licences and roles are on record."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from data.schema import Role


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split of a known set."""

    file: str
    """Path under $SLOWTHINK_DATA."""
    role: Role
    hub: str = "train"
    """Name of the split on the hub."""


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """A set whose columns, licence and roles we know."""

    hub: str
    """Dataset id, empty where the hub has no copy with these rows."""
    splits: Mapping[str, Split]
    columns: Mapping[str, tuple[str, ...]]
    """Our column -> names it has in the known copies; the first that is there counts."""
    licence: str
    config: str = ""
    adapt: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]] = lambda values, row: values
    """(values by our column names, the raw row) -> corrected values."""


# ------------------------------------------------------------------ what the rows need


def last_boxed(text: str) -> str | None:
    """Content of the last balanced \\boxed{...} (or \\fbox, or `\\boxed 7`), None where there is none."""
    for match in reversed(list(re.finditer(r"\\(?:boxed|fbox)\s*(\{|[^\s{$]+)", text))):
        if match[1] != "{":
            return match[1]
        depth = 1
        for position in range(match.end(), len(text)):
            escaped = text[position - 1] == "\\"
            depth += 0 if escaped else {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[match.end() : position].strip()
    return None


def _gsm8k(values: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The answer column holds solution, `####` and the number, with commas in thousands."""
    solution, found, answer = values["answer"].rpartition("####")
    return {**values, "solution": solution.strip(), "answer": answer.replace(",", "") if found else None}


def _math(values: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The answer is the last box of the solution; levels are `Level 5`."""
    level = str(values.get("level", "")).removeprefix("Level ")
    return {**values, "answer": last_boxed(values["answer"]), "level": level}


def _aime25(values: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """One copy has the instruction to box the answer in every question."""
    question = re.sub(
        r"\s*Please reason step by step, and put your final answer within.*$", "", values["question"]
    )
    return {**values, "question": question}


def _gpqa(values: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Four choices in an order that depends on the question alone; the answer is the letter."""
    choices = [values["answer"].strip()] + [str(row[f"Incorrect Answer {n}"]).strip() for n in (1, 2, 3)]
    order = list(range(4))
    random.Random(f"gpqa {values['question']}").shuffle(order)
    lines = [f"{letter}) {choices[i]}" for letter, i in zip("ABCD", order, strict=True)]
    return {
        **values,
        "question": "\n".join([values["question"].strip(), *lines]),
        "answer": "ABCD"[order.index(0)],
    }


def _s1k(values: dict[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """`solution` is a worked solution for some rows and a bare answer for the others."""
    return {**values, "answer": last_boxed(values["answer"]) or values["answer"]}


_AIME = {"question": ("problem", "question"), "answer": ("answer",), "solution": ("solution",)}

KNOWN: dict[str, KnownSet] = {
    "deepscaler_difficulty": KnownSet(
        hub="",
        splits={
            f"level{n}": Split(file=f"difficulty/deepscaler_level{n}.json", role="train") for n in range(1, 6)
        },
        columns={"question": ("prompt",), "answer": ("answer",)},
        licence="MIT (DeepScaleR-Preview; the binned copy has no licence of its own)",
    ),
    "gsm8k": KnownSet(
        hub="openai/gsm8k",
        config="main",
        splits={
            "train": Split(file="gsm8k/train.jsonl", role="train"),
            "test": Split(file="gsm8k/test.jsonl", role="eval", hub="test"),
        },
        columns={"question": ("question",), "answer": ("answer",)},
        licence="MIT",
        adapt=_gsm8k,
    ),
    "math": KnownSet(
        hub="DigitalLearningGmbH/MATH-lighteval",
        splits={
            "train": Split(file="math/train.jsonl", role="train"),
            "test": Split(file="math/test.jsonl", role="eval", hub="test"),
        },
        columns={
            "question": ("problem",),
            "answer": ("solution",),
            "solution": ("solution",),
            "domain": ("type",),
            "level": ("level",),
        },
        licence="MIT",
        adapt=_math,
    ),
    "math500": KnownSet(
        hub="HuggingFaceH4/MATH-500",
        splits={"test": Split(file="math/math500.jsonl", role="eval", hub="test")},
        columns={
            "question": ("problem",),
            "answer": ("answer",),
            "solution": ("solution",),
            "domain": ("subject",),
            "level": ("level",),
        },
        licence="MIT",
    ),
    "aime24": KnownSet(
        hub="HuggingFaceH4/aime_2024",
        splits={"test": Split(file="bench/aime24.jsonl", role="eval")},
        columns=_AIME,
        licence="unknown",
    ),
    "aime25": KnownSet(
        hub="math-ai/aime25",
        splits={"test": Split(file="bench/aime25.jsonl", role="eval", hub="test")},
        columns={"question": ("problem", "prompt"), "answer": ("answer",)},
        licence="Apache-2.0",
        adapt=_aime25,
    ),
    "aime_1983_2023": KnownSet(
        hub="",
        splits={"train": Split(file="bench/aime_1983_2023.json", role="train")},
        columns={**_AIME, "level": ("difficulty",)},
        licence="MIT",
    ),
    "amc23": KnownSet(
        hub="math-ai/amc23",
        splits={"test": Split(file="bench/amc23.jsonl", role="eval", hub="test")},
        columns={"question": ("question", "problem"), "answer": ("answer",)},
        licence="unknown",
    ),
    "gpqa_diamond": KnownSet(
        hub="Idavidrein/gpqa",
        config="gpqa_diamond",
        splits={"test": Split(file="bench/gpqa_diamond.jsonl", role="eval")},
        columns={
            "question": ("Question",),
            "answer": ("Correct Answer",),
            "solution": ("Explanation",),
            "domain": ("High-level domain",),
        },
        licence="CC-BY-4.0",
        adapt=_gpqa,
    ),
    "s1K-1.1": KnownSet(
        hub="simplescaling/s1K-1.1",
        splits={"train": Split(file="s1/s1K-1.1.parquet", role="train")},
        columns={
            "question": ("question",),
            "answer": ("solution",),
            "solution": ("solution",),
            "thinking": ("deepseek_thinking_trajectory",),
            "response": ("deepseek_attempt",),
            "domain": ("cot_type",),
        },
        licence="MIT",
        adapt=_s1k,
    ),
}
