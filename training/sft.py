"""Stage `sft`: supervised fine-tuning on reasoning traces with `trl.SFTTrainer`.

The loss covers the target alone (thinking, answer, end token). Rows are tokenised and masked here, exactly as
prompts are at sampling time; packing, LoRA, DeepSpeed and the loop itself are TRL's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from data.chat import Example
from data.prompts import Prompter, PromptStyle
from data.reporting import set_reporting_defaults
from data.sources import refuse_eval_rows
from data.stage import run_stage
from data.store import read_attempts, write_json, write_rejected
from data.thinking import thinking_format
from inference.models import locate
from training.lint import Rendered, lint, render_traces
from training.loading import model_init_kwargs, training_tokenizer
from training.preflight import check_training
from training.useful_context import context_warnings

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import ModelConfig, SFTConfig, SFTTrainer

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SftConfig:
    """Fields of stage `sft` beside those of trl.SFTConfig and trl.ModelConfig."""

    dataset: str
    """Stage folder (run:03_curate) or parquet file with the traces."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags, s1 or s1_steps: how thinking and response become the target."""
    prompt_style: PromptStyle = "direct"
    """direct, zero_shot_cot, r1_zero, tinyzero or s1 (see data/prompts.py); evaluate with the same."""
    system_prompt: str | None = None
    """System message; the chat template's own default where it is not given."""
    max_overlong_fraction: float = 0.0
    """Traces longer than max_length are left out; more of them than this is an error."""
    eval_rows: int = 0
    """Traces (the last ones, and the others of their problems) that are held out; their loss is measured
    before and after."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        if self.prompt_style == "few_shot":
            raise ValueError("prompt_style: few_shot is for sampling and evaluation; train with direct")
        if not 0 <= self.max_overlong_fraction <= 1:
            raise ValueError(f"max_overlong_fraction: {self.max_overlong_fraction} must be between 0 and 1")


def sft(config: SftConfig, args: SFTConfig, model: ModelConfig, folder: Path) -> dict[str, Any]:
    """Train, resuming from the last complete checkpoint, and save model and tokenizer in `folder`."""
    from training.checkpoints import newest_complete_checkpoint, resume_or_train

    check_training(args)
    set_reporting_defaults(folder)
    traces = read_attempts(config.dataset, "traces")
    refuse_eval_rows([trace.problem for trace in traces], config.dataset)
    tokenizer = training_tokenizer(
        model,
        trust_remote_code=args.trust_remote_code,
        eos_token=args.eos_token,
        pad_token=args.pad_token,
        chat_template_path=args.chat_template_path,
    )
    prompter = Prompter.of(config, tokenizer)
    rendered = render_traces(prompter, traces, max_length=args.max_length)
    if args.process_index == 0:
        lint(prompter, rendered, max_overlong_fraction=config.max_overlong_fraction)
        write_rejected(folder, rendered.rejected)
    told = context_facts(model, args, rendered.examples)
    train, held_out = split(rendered, config.eval_rows)
    trainer = make_trainer(args, model, prompter, train, held_out)

    # not by evaluate() beforehand, behind which DeepSpeed trains nothing
    args.eval_on_start = bool(held_out) and newest_complete_checkpoint(folder) is None
    result = resume_or_train(trainer, folder)
    if held_out:
        trainer.evaluate()
    history = trainer.state.log_history
    if args.process_index == 0:
        write_json(folder / "log_history.json", history)
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    return {
        "rows": len(train),
        "rejected": len(rendered.rejected),
        **train_metrics(history, result),
        **({"held_out_loss_before": losses[0], "held_out_loss_after": losses[-1]} if losses else {}),
        **told,
    }


def context_facts(model: ModelConfig, args: SFTConfig, examples: list[Example]) -> dict[str, Any]:
    """Warnings about traces that are too long for the student, and their lengths; empty where there are
    none."""
    given = args.model_init_kwargs
    lengths = [len(example.input_ids) for example in examples]
    warnings = context_warnings(
        str(model.model_name_or_path), lengths, given if isinstance(given, dict) else None
    )
    if args.process_index == 0:
        for warning in warnings:
            logger.warning("%s", warning)
    told = {"tokens_median": median(lengths), "tokens_longest": max(lengths), "warnings": warnings}
    return told if warnings else {}


def split(rendered: Rendered, held_out: int) -> tuple[list[Example], list[Example]]:
    """Training examples, and the last `held_out` ones with all others of their problems.

    Raises:
        ValueError: nothing would be left to train on.
    """
    apart = set(rendered.problems[max(0, len(rendered.problems) - held_out) :])
    parts: tuple[list[Example], list[Example]] = [], []
    for problem, example in zip(rendered.problems, rendered.examples, strict=True):
        parts[problem in apart].append(example)
    if not parts[0]:
        raise ValueError(
            f"eval_rows: {held_out} of {len(rendered.examples)} traces leave none of another problem to "
            "train on"
        )
    return parts


def make_trainer(
    args: SFTConfig, model: ModelConfig, prompter: Prompter, train: list[Example], held_out: list[Example]
) -> SFTTrainer:
    """TRL's trainer on pre-tokenised rows."""
    from trl import SFTTrainer, get_peft_config

    args.model_init_kwargs = model_init_kwargs(model, args.model_init_kwargs)
    args.chat_template_path = None  # the tokenizer has it
    if args.padding_free and not args.packing:
        args.max_length = None  # overlong rows are out already, and TRL refuses a limit here
    return SFTTrainer(
        model=locate(str(model.model_name_or_path)),
        args=args,
        train_dataset=_dataset(train),
        eval_dataset=_dataset(held_out) if held_out else None,
        processing_class=prompter.tokenizer,
        peft_config=get_peft_config(model),
    )


def _dataset(examples: list[Example]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_dict(
        {"input_ids": [e.input_ids for e in examples], "labels": [e.labels for e in examples]}
    )


def train_metrics(history: list[dict[str, Any]], result: dict[str, float]) -> dict[str, Any]:
    """Steps, first and last logged loss, tokens and seconds of a training run."""
    logs = [entry for entry in history if "loss" in entry]
    tokens = next((int(entry["num_tokens"]) for entry in reversed(logs) if "num_tokens" in entry), None)
    return {
        "steps": logs[-1]["step"] if logs else 0,
        "loss_first": logs[0]["loss"] if logs else None,
        "loss_last": logs[-1]["loss"] if logs else None,
        "tokens": tokens,
        "train_seconds": result["train_runtime"],
    }


if __name__ == "__main__":
    from trl import ModelConfig, SFTConfig

    run_stage(sft, SftConfig, SFTConfig, ModelConfig)
