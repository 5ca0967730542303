"""What of transformers.TrainingArguments the stages that train reward models cannot do, or would ignore."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from training.refused_keys import default_of, refuse

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from trl import ModelConfig

    from training.step_rows import StepRow

logger = logging.getLogger(__name__)

MEASURED = "held-out solutions are always measured whole and in the same way; drop it"
MADE = "rows are made by this stage; drop it"
REFUSED = {
    "label_smoothing_factor": "smooth the labels in the dataset, and use soft_labels: true",
    "prediction_loss_only": MEASURED,
    "include_for_metrics": MEASURED,
    "batch_eval_metrics": MEASURED,
    "eval_do_concat_batches": MEASURED,
    "eval_use_gather_object": MEASURED,
    "eval_on_start": "the untrained model is measured anyway; drop it",
    "label_names": MADE,
    "length_column_name": MADE,
    "parallelism_config": "rows are split over processes alone; use `launch: zero3` for large models",
}
"""Keys that must have their default, and what to do instead."""


def check_arguments(args: TrainingArguments, model: ModelConfig, *, held_out: bool, muon: bool) -> None:
    """Refuse settings that would be ignored, or would train something else; warn of coarse weights.

    Args:
        held_out: whether solutions are held out.
        muon: whether muon_learning_rate is given.
    Raises:
        ValueError: names the key and the fix.
    """
    refuse(args, REFUSED)
    if args.train_sampling_strategy == "batch_rebalance":
        raise ValueError("train_sampling_strategy: use group_by_length, which pads little too")
    if args.n_gpu > 1:
        raise ValueError(
            f"launch: one process sees {args.n_gpu} GPUs; use `launch: {{config: ddp, num_processes: "
            f"{args.n_gpu}}}`, or show it one by CUDA_VISIBLE_DEVICES"
        )
    if args.eval_strategy != "no" and not held_out:
        raise ValueError("eval_strategy: there is nothing to measure; raise held_out_fraction or drop it")
    if model.dtype in ("bfloat16", "float16") and not model.use_peft and args.deepspeed_plugin is None:
        logger.warning(
            "dtype: in %s a step of less than 1/256 of a weight is lost; use dtype: float32 with bf16: true, "
            "or DeepSpeed, which moves a copy in float32",
            model.dtype,
        )
    if muon:
        _check_muon(args, model)


def _check_muon(args: TrainingArguments, model: ModelConfig) -> None:
    """Refuse what Muon would ignore or break."""
    if model.use_peft:
        raise ValueError("muon_learning_rate: adapters are trained by AdamW; drop it or use_peft")
    if args.deepspeed_plugin is not None or args.fsdp:
        raise ValueError("muon_learning_rate: it needs whole matrices; use `launch: ddp`, or drop it")
    defaults = {each.name: default_of(each) for each in fields(args)}
    for key in ("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"):
        if getattr(args, key) != defaults[key]:
            raise ValueError(f"muon_learning_rate: {key} is not used with it; drop one of them")


def check_lengths(rows: Sequence[StepRow], network: Any) -> None:
    """Refuse rows that are longer than the model.

    Raises:
        ValueError: names the fix.
    """
    most = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(row.ids) for row in rows)
    if most is not None and longest > most:
        raise ValueError(
            f"max_length: rows of {longest} tokens are longer than the model's {most}; set {most}"
        )
