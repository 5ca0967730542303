"""Small GRPO runs for tests: questions, rewards and a stage call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trl import GRPOConfig, ModelConfig

from data.schema import Problem, problem_id
from data.store import read_json, write_problems
from training.grpo import GrpoConfig, grpo

DIGITS = frozenset("0123456789")


def problems(count: int = 12) -> list[Problem]:
    questions = [f"What is {i} + {i % 5}?" for i in range(count)]
    return [
        Problem(id=problem_id(q), question=q, answer=str(i + i % 5), source="sums")
        for i, q in enumerate(questions)
    ]


def digits(*, completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """Share of characters that are digits: something that a random model can learn in seconds."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [sum(letter in DIGITS for letter in text) / max(1, len(text)) for text in texts]


def parity(*, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float | None]:
    """0 or 1, at random for a random model: a quarter of groups of 3 have no advantage."""
    return [float(sum(ids) % 2) for ids in completion_ids]


def tenth(*, completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """The same for everything, and no power of two: the mean of a group is another number."""
    return [0.1 for _ in completions]


def nothing(*, completions: Sequence[Any], **columns: Any) -> list[float | None]:
    """No reward for anything."""
    return [0.0 for _ in completions]


def reward(function: Any) -> dict[str, Any]:
    """A recipe's entry for a function of this module."""
    return {"function": f"tests.training.grpo_runs:{function.__name__}"}


def run(
    model: Path,
    folder: Path,
    *,
    rewards: Sequence[Any] = (),
    questions: Sequence[Problem] = (),
    stage: dict[str, Any] | None = None,
    loading: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The stage in this process; `options` are of trl.GRPOConfig. Returns its metrics."""
    sys.modules.setdefault("tests.training.grpo_runs", sys.modules[__name__])
    source = folder.with_name(folder.name + "-problems")
    write_problems(source, list(questions) or problems())
    defaults: dict[str, Any] = {
        "num_generations": 4,
        "per_device_train_batch_size": 16,
        "max_completion_length": 12,
        "max_steps": 4,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        "save_steps": 2,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "seed": 1,
        "disable_tqdm": True,
    }
    args = GRPOConfig(output_dir=str(folder), **{**defaults, **options})
    config = GrpoConfig(
        problems=str(source), rewards=list(rewards) or [reward(digits)], **{"language": None, **(stage or {})}
    )
    loaded = ModelConfig(
        model_name_or_path=str(model), **{"attn_implementation": "documents", **(loading or {})}
    )
    return grpo(config, args, loaded, folder)


def curve(folder: Path, *names: str) -> list[tuple[Any, ...]]:
    """Step and named metrics of every logged step of a finished run."""
    names = names or ("loss", "grad_norm", "rollouts/reward", "rollouts/length")
    history = read_json(folder / "log_history.json")
    return [(step["step"], *(step.get(name) for name in names)) for step in history if "loss" in step]
