"""Small distillation runs for tests: a teacher, its traces and a stage call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import DistillationConfig, ModelConfig

from data.schema import Attempt, Problem, written_completion
from data.store import write_attempts, write_problems
from inference.models import load_tokenizer
from tests.training.grpo_runs import problems
from training.distill import DistillConfig, distill

UNUSED_ROWS = 16
"""Output rows of the teacher that no token uses."""


def make_teacher(folder: Path, student: Path, seed: int = 1) -> Path:
    """A wider random model that is sure of what it says, with the student's tokenizer."""
    tokenizer: Any = load_tokenizer(str(student))
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer) + UNUSED_ROWS,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.15,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def traces(of: Sequence[Problem]) -> list[Attempt]:
    """Two of each problem, of different lengths."""
    return [
        Attempt(
            problem=problem,
            index=index,
            completion=written_completion("add " * (1 + index), f"\\boxed{{{problem.answer}}}"),
            verdict="correct",
            extracted=problem.answer,
        )
        for problem in of
        for index in range(2)
    ]


def arguments(folder: Path, **options: Any) -> DistillationConfig:
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "max_completion_length": 24,
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
    return DistillationConfig(output_dir=str(folder), **{**defaults, **options})


def configured(
    folder: Path, teacher: Path, *, questions: Sequence[Problem] = (), **stage: Any
) -> DistillConfig:
    """The stage's own fields; with `on_policy_fraction` below 1 its traces are written too."""
    chosen = list(questions) or problems(12)
    source = folder.with_name(folder.name + "-problems")
    write_problems(source, chosen)
    if stage.get("on_policy_fraction", 1) < 1 and "traces" not in stage:
        write_attempts(source, traces(chosen), "traces")
        stage["traces"] = str(source)
    return DistillConfig(problems=str(source), teacher=str(teacher), **stage)


def run(
    student: Path,
    teacher: Path,
    folder: Path,
    *,
    questions: Sequence[Problem] = (),
    stage: dict[str, Any] | None = None,
    loading: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The stage in this process; `options` are of trl.DistillationConfig. Returns its metrics."""
    config = configured(folder, teacher, questions=questions, **(stage or {}))
    model = ModelConfig(model_name_or_path=str(student), **(loading or {}))
    return distill(config, arguments(folder, **options), model, folder)
