"""Stage `prm`: a reward model from labelled steps, on transformers' Trainer.

A process reward model (PRM) judges each step that has a label, an outcome reward model (ORM) the last step by
whether the answer is right. Token ids come from `data/step_formats.py`, which scoring uses too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data.reporting import set_reporting_defaults
from data.sources import refuse_eval_rows
from data.stage import run_stage
from data.steps import LabelledSolution, labelled_from_row
from data.store import iterate_rows, table_path, write_json, write_rejected
from inference.scorers.reward_model import RewardModelOptions, load_weights, save_options
from training.loading import training_tokenizer
from training.preflight import check_rejected, check_training
from training.prm_adapter import merge_adapter
from training.prm_arguments import check_arguments, check_lengths
from training.step_rows import (
    Mode,
    StepRow,
    StepRows,
    class_weights,
    held_out_problems,
    step_rows,
    steps_shown,
)

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from trl import ModelConfig

    from training.prm_trainer import PrmTrainer

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class PrmConfig(RewardModelOptions):
    """Fields of stage `prm` beside those of transformers.TrainingArguments and trl.ModelConfig."""

    dataset: list[str] = field(default_factory=list)
    """Stage folders (run:04_label_steps) or parquet files with labelled steps."""
    mode: Mode = "prm"
    """prm: every step that has a label is judged; orm: the last step, by whether the answer is right."""
    soft_labels: bool = False
    """Whether labels are targets as they are (shares of right rollouts); else they are rounded to 0 and 1."""
    until_first_error: bool = False
    """Whether the labels behind a solution's first error are left out."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: wrong and right steps have the same weight in all."""
    max_length: int = 2048
    """Tokens of question and steps; steps that end behind it are left out."""
    max_rejected_fraction: float = 0.0
    """Solutions that cannot be trained on are left out and kept in rejected/; more of them than this is an
    error."""
    held_out_fraction: float = 0.05
    """Problems whose solutions are held out; measured before and after."""
    muon_learning_rate: float | None = None
    """Muon for the matrices of the layers at this rate, AdamW at learning_rate for the rest; for small models
    that have to learn much."""

    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dataset:
            raise ValueError("dataset: name at least one stage folder or parquet file with labelled steps")
        for key in ("max_rejected_fraction", "held_out_fraction"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"{key}: {getattr(self, key)} must be in [0, 1)")
        if self.max_length < 1:
            raise ValueError(f"max_length: {self.max_length} must be at least 1")
        if self.mode == "orm" and (self.soft_labels or self.until_first_error):
            raise ValueError("mode: orm has no step labels; drop soft_labels and until_first_error")


def prm(config: PrmConfig, args: TrainingArguments, model: ModelConfig, folder: Path) -> dict[str, Any]:
    """Train, resuming from the last complete checkpoint, and save a plain model folder that scorers load."""
    from tqdm import tqdm

    from training.checkpoints import newest_complete_checkpoint, resume_or_train

    muon = config.muon_learning_rate is not None
    check_arguments(args, model, held_out=config.held_out_fraction > 0, muon=muon)
    check_training(args)
    set_reporting_defaults(folder)
    tokenizer = training_tokenizer(model, trust_remote_code=config.trust_remote_code)
    solutions = tqdm(
        read_solutions(config.dataset), desc="encode", unit="solution", disable=args.process_index > 0
    )
    made = make_rows(config, tokenizer, solutions)
    if args.process_index == 0:
        write_rejected(folder, made.rejected)
    check_rejected("dataset", len(made.rows), made.rejected, config.max_rejected_fraction)
    train, held_out = split_by_problem(made.rows, config.held_out_fraction, args.seed)
    weights = class_weights(train)  # refuses a single class
    if args.process_index == 0:
        logger.info("a solution and its targets:")
        print(steps_shown(tokenizer, train[0]), flush=True)
    trainer = make_trainer(config, args, model, tokenizer, train, held_out, weights)
    args.eval_on_start = bool(held_out) and newest_complete_checkpoint(folder) is None
    result = resume_or_train(trainer, folder)
    before, after = (_before(trainer), trainer.evaluate()) if held_out else ({}, {})
    if args.process_index == 0:
        write_json(folder / "log_history.json", trainer.state.log_history)
        save_options(folder, config)
        if model.use_peft:
            merge_adapter(lambda: _network(config, model), folder)
    targets = [target for row in train for target in row.targets]
    return {
        "solutions": len(train),
        "held_out": len(held_out),
        "rejected": len(made.rejected),
        "shortened": made.shortened,
        "labels": len(targets),
        "right_share": sum(targets) / len(targets),
        **{f"{key}_before": before[f"eval_{key}"] for key in MEASURES if before},
        **{key: after[f"eval_{key}"] for key in MEASURES if after},
        "train_seconds": result["train_runtime"],
    }


MEASURES = ("loss", "step_accuracy", "step_auc", "last_auc")
"""Of the held-out solutions."""


def _before(trainer: PrmTrainer) -> dict[str, Any]:
    """The measures of the untrained model, which the log keeps through checkpoints."""
    return next(entry for entry in trainer.state.log_history if "eval_loss" in entry)


def read_solutions(sources: Sequence[str]) -> Iterator[LabelledSolution]:
    """The labelled solutions of all sources, one after the other.

    Raises:
        ValueError: a file is missing or unreadable, holds none, or rows of role eval.
    """
    for source in sources:
        solution = None
        for solution in map(
            labelled_from_row, iterate_rows(table_path(source, "step_labels"), "step_labels")
        ):
            refuse_eval_rows([solution.problem], source)
            yield solution
        if solution is None:
            raise ValueError(f"dataset: {source} holds no labelled solution")


def make_rows(config: PrmConfig, tokenizer: Any, solutions: Iterable[LabelledSolution]) -> StepRows:
    """The solutions as training rows."""
    from data.step_formats import MarkerFormat

    return step_rows(
        solutions,
        MarkerFormat(tokenizer, config),
        separator=config.step_separator,
        mode=config.mode,
        soft=config.soft_labels,
        until_first_error=config.until_first_error,
        max_length=config.max_length,
    )


def split_by_problem(
    rows: Sequence[StepRow], fraction: float, seed: int
) -> tuple[list[StepRow], list[StepRow]]:
    """Rows to train on and held-out ones, of at least one problem; no problem is in both.

    Raises:
        ValueError: nothing would be left to train on.
    """
    out = held_out_problems((row.problem for row in rows), fraction, seed)
    return [row for row in rows if row.problem not in out], [row for row in rows if row.problem in out]


def make_trainer(
    config: PrmConfig,
    args: TrainingArguments,
    model: ModelConfig,
    tokenizer: Any,
    train: Sequence[StepRow],
    held_out: Sequence[StepRow],
    weights: tuple[float, float],
) -> PrmTrainer:
    """The trainer around a freshly loaded network."""
    from transformers import set_seed
    from trl import get_quantization_config

    from training.prm_trainer import PrmTrainer

    set_seed(args.seed)  # for the new head
    quantization = get_quantization_config(model)
    more = {} if quantization is None else {"quantization_config": quantization}
    network = _network(config, model, **more)
    check_lengths([*train, *held_out], network)
    if model.use_peft:
        network = _with_adapter(network, config, args, model)
    return PrmTrainer(
        network,
        args,
        rows=train,
        held_out=held_out,
        tokenizer=tokenizer,
        answers=config.answer_ids(tokenizer),
        weights=weights if config.class_weights == "balanced" else (1.0, 1.0),
        muon_learning_rate=config.muon_learning_rate,
    )


def _network(config: PrmConfig, model: ModelConfig, **options: Any) -> Any:
    return load_weights(
        str(model.model_name_or_path),
        config,
        trust_remote_code=config.trust_remote_code,
        revision=model.model_revision,
        attn_implementation=model.attn_implementation,
        dtype=model.dtype,
        **options,
    )


def _with_adapter(network: Any, config: PrmConfig, args: TrainingArguments, model: ModelConfig) -> Any:
    """The network with an adapter to be trained; the head of a classifier is trained whole."""
    from peft import get_peft_model
    from trl import get_peft_config

    classifier = config.head == "classifier"
    model.lora_task_type = "TOKEN_CLS" if classifier else "CAUSAL_LM"
    adapter: Any = get_peft_config(model)
    if classifier:
        adapter.exclude_modules = [name for name in ("score", "classifier") if hasattr(network, name)]
    sharded = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    if sharded:  # one dtype, and checkpointing as trl's trainers have it there
        given: Any = args.gradient_checkpointing_kwargs or {}
        args.gradient_checkpointing_kwargs = {**given, "use_reentrant": True}
    made = get_peft_model(network, adapter, autocast_adapter_dtype=not sharded)
    if args.gradient_checkpointing:
        made.enable_input_require_grads()
    return made


if __name__ == "__main__":
    from transformers import TrainingArguments
    from trl import ModelConfig

    run_stage(prm, PrmConfig, TrainingArguments, ModelConfig)
