"""The rewards inside a real GRPOTrainer: one step on a small real model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from rewards.registry import build_rewards

pytestmark = pytest.mark.slow

SPECS: list[Any] = [
    "accuracy",
    {"name": "format", "weight": 0.5},
    {"name": "tag_count", "thinking_format": "answer_tags", "label": "r1_tags"},
    "reasoning_steps",
    {"name": "overlong", "max_completion_tokens": 16, "cache_tokens": 8},
    {"name": "cosine_length", "max_tokens": 16},
    "kimi_length",
    {"name": "repetition", "n": 2},
]
QUESTIONS = ["What is 12 + 30?", "What is 1 + 1?"]


@pytest.mark.parametrize("conversational", [False, True], ids=["text", "conversational"])
def test_one_step(tiny_model: Path, tmp_path: Path, conversational: bool) -> None:
    rewards = build_rewards(SPECS)
    prompts = [[{"role": "user", "content": q}] for q in QUESTIONS] if conversational else QUESTIONS
    arguments = GRPOConfig(
        output_dir=str(tmp_path),
        reward_weights=[reward.weight for reward in rewards],
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=16,
        max_steps=1,
        logging_steps=1,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        seed=0,
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        reward_funcs=[reward.function for reward in rewards],
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": prompts, "answer": ["42", None]}),
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    for reward in rewards:
        assert f"rewards/{reward.name}/mean" in logged
    assert logged["accuracy/unverifiable"] >= 0.5
    assert logged["rewards/format/mean"] == 0.0
    assert -1 <= logged["rewards/overlong/mean"] < 0
    assert -1 <= logged["rewards/repetition/mean"] <= 0
