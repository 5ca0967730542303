"""Known sets of labelled steps: published sets whose format, licence and role are on record."""

from __future__ import annotations

from dataclasses import dataclass

from data.known_sets import Split
from data.schema import Role


@dataclass(frozen=True, kw_only=True)
class KnownSteps:
    """A published set whose format, licence and role we know."""

    form: str
    split: Split
    licence: str
    labeller: str
    hub: str = ""
    """Dataset id, empty where the hub has no copy with these rows."""
    home: str = ""
    """Where the file is published, for sets that the hub has not."""


def _processbench(name: str) -> KnownSteps:
    return KnownSteps(
        form="processbench",
        split=Split(file=f"processbench/{name}.json", role="eval", hub=name),
        licence="Apache-2.0",
        labeller="human",
        hub="Qwen/ProcessBench",
    )


def _bigbench_mistake(name: str) -> KnownSteps:
    return KnownSteps(
        form="bigbench_mistake",
        split=Split(file=f"step_labels/bigbench_mistake_{name}.jsonl", role="eval"),
        licence="Apache-2.0",
        labeller="human",
        home=f"github.com/WHGTyen/BIG-Bench-Mistake, {name}.jsonl",
    )


def _prm800k(split: str, role: Role) -> KnownSteps:
    return KnownSteps(
        form="prm800k",
        split=Split(file=f"step_labels/prm800k_{split}.jsonl", role=role, hub=split),
        licence="MIT",
        labeller="human",
        hub="tasksource/PRM800K",
    )


KNOWN_STEPS: dict[str, KnownSteps] = {
    **{
        f"processbench/{name}": _processbench(name) for name in ("gsm8k", "math", "olympiadbench", "omnimath")
    },
    **{
        f"bigbench_mistake/{name}": _bigbench_mistake(name)
        for name in (
            "dyck_languages",
            "logical_deduction",
            "multistep_arithmetic",
            "tracking_shuffled_objects",
            "word_sorting",
        )
    },
    "mr_ben/math": KnownSteps(
        form="mr_ben",
        split=Split(file="step_labels/mr_ben_math.jsonl", role="eval"),
        licence="MIT",
        labeller="human",
        home="github.com/dvlab-research/Mr-Ben, data/math.json",
    ),
    "math_shepherd": KnownSteps(
        form="math_shepherd",
        split=Split(file="step_labels/math-shepherd.jsonl", role="train"),
        licence="unknown",
        labeller="monte_carlo",
        hub="peiyi9979/Math-Shepherd",
    ),
    "prm800k/train": _prm800k("train", "train"),
    "prm800k/test": _prm800k("test", "eval"),
    "prm800k/validation_decoded": KnownSteps(
        form="prm800k_decoded",
        split=Split(file="step_labels/prm800k_validation_decoded.jsonl", role="train"),
        licence="MIT",
        labeller="human",
        home="decoded from the token ids in github.com/tongyx361/reward-by-prm800k",
    ),
}
