"""Stage `reward_model`: a reward model of whole solutions from pairs of a better and a worse one of the same
problem, with `trl.RewardTrainer` (Bradley-Terry; InstructGPT, arXiv 2203.02155, equation 1).

Pairs are of a right and a wrong attempt, or of what people (or a judge) have chosen and rejected. Solutions
are read step by step through `data/step_formats.py`, as scoring reads them; the output at the last token is
their score.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.preferences import PreferenceSource, parse_preference_sources
from data.reporting import set_reporting_defaults
from data.stage import run_stage
from data.step_formats import MarkerFormat, StepFormatOptions
from data.store import write_json, write_rejected
from data.thinking import thinking_format
from inference.models import locate
from inference.scorers.outcome_scorer import save_pairwise_options
from training.loading import model_init_kwargs, training_tokenizer
from training.preflight import check_rejected, check_training
from training.prm_adapter import merge_adapter
from training.prm_arguments import check_arguments
from training.reward_pairs import (
    PairReader,
    make_pairs,
    read_preferences,
    read_solved,
    split_by_problem,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import ModelConfig, RewardConfig, RewardTrainer

    from training.reward_pairs import Pair

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RewardModelConfig(StepFormatOptions):
    """Fields of stage `reward_model` beside those of trl.RewardConfig and trl.ModelConfig."""

    attempts: list[str] = field(default_factory=list)
    """Stage folders (run:02_sample) or parquet files with attempts, right and wrong ones."""
    preferences: list[dict[str, Any]] = field(default_factory=list)
    """Sources of preference data (prompt, chosen, rejected), for example {path: pairs.jsonl, role: train,
    columns: {question: prompt}}; see data/preferences.py."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags, s1 or s1_steps: whose tags are no part of a step."""
    pairs_per_problem: int | None = None
    """At most so many pairs of a problem, drawn at random; all of them where it is not given."""
    max_rejected_fraction: float = 0.0
    """Attempts that cannot be read, are too long or have no verdict, and preferences that cannot be read, are
    left out and kept in rejected/; more of them than this, of either, is an error."""
    held_out_fraction: float = 0.05
    """Problems whose pairs are held out; measured before and after."""

    def __post_init__(self) -> None:
        super().__post_init__()
        thinking_format(self.thinking_format)
        if not self.attempts and not self.preferences:
            raise ValueError(
                "attempts: name at least one stage folder or parquet file with attempts, or give preferences"
            )
        for source in self.preference_sources:
            if source.role == "eval":
                raise ValueError(
                    f"{source.key}: {source.name} has role eval, which may not train; leave it out"
                )
        if self.pairs_per_problem is not None and self.pairs_per_problem < 1:
            raise ValueError(f"pairs_per_problem: {self.pairs_per_problem} must be at least 1")
        for key in ("max_rejected_fraction", "held_out_fraction"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key}: {getattr(self, key)} must be in [0, 1)")

    @property
    def preference_sources(self) -> list[PreferenceSource]:
        return parse_preference_sources(self.preferences, "preferences")


def reward_model(
    config: RewardModelConfig, args: RewardConfig, model: ModelConfig, folder: Path
) -> dict[str, Any]:
    """Train, resuming from the last complete checkpoint, and save a plain model folder that scorers load."""
    from training.checkpoints import newest_complete_checkpoint, resume_or_train

    check_arguments(args, model, held_out=config.held_out_fraction > 0, muon=False)
    if args.train_sampling_strategy == "group_by_length":
        raise ValueError("train_sampling_strategy: trl.RewardTrainer does not know lengths; drop it")
    check_training(args)
    set_reporting_defaults(folder)
    tokenizer = training_tokenizer(
        model,
        trust_remote_code=args.trust_remote_code,
        eos_token=args.eos_token,
        pad_token=args.pad_token,
        chat_template_path=args.chat_template_path,
    )
    reader = PairReader(
        step_format=MarkerFormat(tokenizer, config),
        separator=config.step_separator,
        form=thinking_format(config.thinking_format),
        max_length=args.max_length,
    )
    solved, bad_attempts = read_solved(config.attempts, reader)
    preferred, bad_preferences = read_preferences(config.preference_sources, reader)
    used = sum(len(each.right) + len(each.wrong) for each in solved.values())
    preference_pairs = sum(map(len, preferred.values()))
    if args.process_index == 0:
        write_rejected(folder, [*bad_attempts, *bad_preferences])
    if config.attempts:
        check_rejected("attempts", used, bad_attempts, config.max_rejected_fraction)
    if config.preferences:
        check_rejected("preferences", preference_pairs, bad_preferences, config.max_rejected_fraction)
    pairs = make_pairs(solved, config.pairs_per_problem, args.seed, preferred)
    train, held_out = split_by_problem(pairs, config.held_out_fraction, args.seed)
    trainer = make_trainer(args, model, tokenizer, train, held_out)
    args.eval_on_start = bool(held_out) and newest_complete_checkpoint(folder) is None
    result = resume_or_train(trainer, folder)
    if held_out:
        trainer.evaluate()
    history = trainer.state.log_history
    if args.process_index == 0:
        write_json(folder / "log_history.json", history)
        save_pairwise_options(folder, config)
        if model.use_peft:
            merge_adapter(lambda: _network(args, model), folder)
    return {
        "attempts": used,
        "preference_pairs": preference_pairs,
        "rejected": len(bad_attempts) + len(bad_preferences),
        "problems": len(solved.keys() | preferred.keys()),
        "one_class": sum(not (each.right and each.wrong) for each in solved.values()),
        "pairs": len(train),
        "held_out_pairs": len(held_out),
        **_measures(history),
        "train_seconds": result["train_runtime"],
    }


def _measures(history: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Held-out loss and share of pairs in the right order, before and after training."""
    entries = [entry for entry in history if "eval_loss" in entry]
    if not entries:
        return {}
    names = ("loss", "accuracy")
    before = {f"{name}_before": entries[0][f"eval_{name}"] for name in names}
    return {**before, **{name: entries[-1][f"eval_{name}"] for name in names}}


def make_trainer(
    args: RewardConfig, model: ModelConfig, tokenizer: Any, train: Sequence[Pair], held_out: Sequence[Pair]
) -> RewardTrainer:
    """TRL's trainer on pairs of token ids."""
    from trl import RewardTrainer, get_peft_config

    args.model_init_kwargs = model_init_kwargs(model, args.model_init_kwargs)
    args.chat_template_path = None  # the tokenizer has it
    model.lora_task_type = "SEQ_CLS"  # keeps the new head trainable, and saves it
    return RewardTrainer(
        model=locate(str(model.model_name_or_path)),
        args=args,
        train_dataset=_dataset(train),
        eval_dataset=_dataset(held_out) if held_out else None,
        processing_class=tokenizer,
        peft_config=get_peft_config(model),
    )


def _dataset(pairs: Sequence[Pair]) -> Dataset:
    from datasets import Dataset

    right, wrong = ([np.frombuffer(pair[side], np.intc) for pair in pairs] for side in (0, 1))
    return Dataset.from_dict({"chosen_ids": right, "rejected_ids": wrong})


def _network(args: RewardConfig, model: ModelConfig) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(
        locate(str(model.model_name_or_path)),
        num_labels=1,
        trust_remote_code=args.trust_remote_code,
        revision=model.model_revision,
        dtype=model.dtype,
    )


if __name__ == "__main__":
    from trl import ModelConfig, RewardConfig

    run_stage(reward_model, RewardModelConfig, RewardConfig, ModelConfig)
