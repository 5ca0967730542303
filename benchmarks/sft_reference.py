"""The way s1 trains, which `benchmarks.sft` measures ours against.

simplescaling/s1@77272c6:train/sft.py in our own words: one trace per row, every batch padded to its longest
row (DataCollatorForCompletionOnlyLM), the loss from the stock trainer's full logits as in the TRL 0.12 that
s1 pins.

Its batch is 8 rows: s1 puts one row on each of 8 or 16 GPUs, and in every step all wait for the GPU with the
longest row (train/sft.sh). On one device the padding of a batch of 8 is that idle time. A micro-batch of one
on a single device neither pads nor waits; `benchmarks.sft` measures it too.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.sft_rows import PAD_NUMBER, Work
from data.chat import IGNORED

ROWS_PER_STEP = 8


def settings(folder: Path, max_length: int) -> dict[str, Any]:
    """What both sides share; optimizer as in s1's train/sft.sh. `sequential`: the rows come shuffled."""
    return {
        "output_dir": str(folder / "output"),
        "max_length": max_length,
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 1e-4,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def batches(rows_per_forward: int) -> dict[str, int]:
    return {
        "per_device_train_batch_size": rows_per_forward,
        "gradient_accumulation_steps": ROWS_PER_STEP // rows_per_forward,
    }


def as_s1(folder: Path, job: Work, options: dict[str, Any]) -> Any:
    """s1's trainer in our own words."""
    import torch
    from transformers import AutoModelForCausalLM, Trainer
    from trl import SFTConfig

    args = SFTConfig(**settings(folder, job.max_length), **options)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Trainer(
        model=model,
        args=args,
        train_dataset=unmasked(job),
        data_collator=completion_only(job.response_template),
    )


def unmasked(job: Work) -> Any:
    """The rows as s1 has them: tokens without labels."""
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": [row.input_ids for row in job.rows]})


def completion_only(response_template: list[int]) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Pads to the longest row; loss behind the response template, as DataCollatorForCompletionOnlyLM has it.

    That class left TRL in 0.20. Conversations of one turn.
    """
    import torch

    def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
        longest = max(len(example["input_ids"]) for example in examples)
        input_ids, labels, mask = [], [], []
        for example in examples:
            ids = list(example["input_ids"])
            padding = longest - len(ids)
            begin = _end_of(ids, response_template)
            input_ids.append(ids + [PAD_NUMBER] * padding)
            labels.append([IGNORED] * begin + ids[begin:] + [IGNORED] * padding)
            mask.append([1] * len(ids) + [0] * padding)
        return {
            "input_ids": torch.tensor(input_ids),
            "labels": torch.tensor(labels),
            "attention_mask": torch.tensor(mask),
        }

    return collate


def _end_of(ids: list[int], template: list[int]) -> int:
    width = len(template)
    for start in range(len(ids) - width + 1):
        if ids[start : start + width] == template:
            return start + width
    raise ValueError("a row has no response template: it is not a conversation of this tokenizer")


def as_peer(checkout: Path) -> Callable[[Path, Work, dict[str, Any]], Any]:
    """s1's own train/sft.py up to its call of `train()`, with the collator that TRL no longer has.

    Its model name must contain `Qwen`, which is how it chooses the chat template's markers.
    """

    def build(folder: Path, job: Work, options: dict[str, Any]) -> Any:
        import trl
        from datasets import DatasetDict

        held = []

        class Held(trl.SFTTrainer):
            def train(self, *_: Any, **__: Any) -> Any:
                held.append(self)

            def save_model(self, *_: Any, **__: Any) -> None:
                """Nothing is trained yet."""

        def collator(**_: Any) -> Any:
            return completion_only(job.response_template)

        qwen = folder.parent / "Qwen"
        if not qwen.exists():
            qwen.symlink_to(folder)
        keys = {**settings(folder, job.max_length), **options}
        arguments = ["--block_size", str(job.max_length), "--model_name", str(qwen)]
        arguments += [part for key, value in keys.items() for part in (f"--{key}", str(value))]
        with (
            mock.patch.object(trl, "SFTTrainer", Held),
            mock.patch.object(trl, "DataCollatorForCompletionOnlyLM", collator, create=True),
            mock.patch.object(sys, "argv", ["sft.py", *arguments]),
        ):
            spec = importlib.util.spec_from_file_location("s1_sft", checkout / "train" / "sft.py")
            assert spec is not None
            assert spec.loader is not None
            module: Any = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            module.load_dataset = lambda _: DatasetDict({"train": unmasked(job)})
            module.train()
        return held[0]

    return build
