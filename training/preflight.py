"""What training stages check before they load a model, so that none fails hours later, or trains nothing.

What one stage alone refuses is in grpo_arguments.py, distill_arguments.py and prm_arguments.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from data.processes import world
from data.prompts import PLAIN_TEMPLATES
from data.schema import Problem, Rejected
from data.store import read_problems
from inference.models import locate
from training.questions import Question
from training.refused_keys import NOT_RESUMED, refuse

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from trl import DistillationConfig, GRPOConfig

SHOWN = 5
"""Rejected rows that an error lists."""


def check_training(args: TrainingArguments) -> None:
    """Refuse keys with which a killed run would not go on as it was, and see `check_processes`.

    Raises:
        ValueError: names the key and the fix.
    """
    refuse(args, NOT_RESUMED)
    check_processes(args)


def check_processes(args: TrainingArguments) -> None:
    """Refuse a launch whose processes would not train one model together, or not in the recipe's precision;
    accelerate 1.15 says nothing of any of it.

    Raises:
        ValueError: names the fix.
    """
    from accelerate.utils import DistributedType

    launched = world()
    if args.world_size != launched:
        raise ValueError(
            f"launch: {launched} processes were started and each sees {args.world_size}: every one would "
            "train a model of its own; on a CPU set `use_cpu: true`, with every launcher"
        )
    on_cpu = args.device.type == "cpu"
    if on_cpu and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise ValueError(
            "launch: FSDP needs GPUs, and on a CPU it would be left out; use zero3 or ddp_cpu there instead "
            "of fsdp2"
        )
    assert args.distributed_state is not None, "it is made with the device"
    if launched > 1 and args.distributed_state.distributed_type == DistributedType.NO:
        raise ValueError(
            f"launch: the gradients of {launched} processes would not be put together; on a CPU set "
            "`use_cpu: true` instead of ddp_backend"
        )
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    own = "bf16" if args.bf16 else "fp16" if args.fp16 else "no"
    if asked not in ("no", own):
        raise ValueError(
            f"launch: mixed_precision is {asked} in the launch and {own} in the recipe; set `{asked}: true` "
            'in the recipe, or `mixed_precision: "no"` in its `launch:`'
        )


def check_tokenizer(tokenizer: Any, style: str) -> None:
    """Refuse a tokenizer with which no completion would end, or no prompt be what the model was trained on.

    Raises:
        ValueError: names the fix.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "model_name_or_path: the tokenizer has no end token, so no completion would ever end; set "
            "`eos_token:` to the token with which its texts end, for example <|endoftext|>"
        )
    if style not in PLAIN_TEMPLATES and tokenizer.chat_template is None:
        raise ValueError(
            f"prompt_style: {style} needs a chat template and this tokenizer has none (a base model?); use "
            "`prompt_style: r1_zero`"
        )


def context_tokens(model: str, args: GRPOConfig | DistillationConfig) -> int | None:
    """Longest prompt + completion by the model's config.json (and vllm_max_model_length); None if unknown."""
    from transformers import PretrainedConfig

    try:
        values, _ = PretrainedConfig.get_config_dict(locate(model))
    except OSError:
        return None
    text = values.get("text_config", values)
    limits = [text.get("max_position_embeddings"), args.vllm_max_model_length if args.use_vllm else None]
    return min((limit for limit in limits if limit), default=None)


def check_rejected(
    key: str, kept: int, bad: Sequence[Rejected], max_rejected_fraction: float | None = None
) -> None:
    """Refuse rows of which too many are unusable, or none at all.

    Args:
        key: the recipe's key that they are from.
        max_rejected_fraction: share that may be left out; None if that is none, whatever the recipe says.

    Raises:
        ValueError: lists the first unusable ones.
    """
    total = kept + len(bad)
    if not total:
        raise ValueError(f"{key}: there is nothing in it")
    if len(bad) > (max_rejected_fraction or 0) * total:
        rules = ", ".join(f"{count} {rule}" for rule, count in Counter(row.rule for row in bad).most_common())
        shown = "\n".join(f"  {row.id}: {row.rule}: {row.evidence}" for row in bad[:SHOWN])
        raised = f", or raise max_rejected_fraction={max_rejected_fraction}"
        raise ValueError(
            f"{key}: {len(bad)} of {total} cannot be used ({rules}); mend them or leave them out"
            f"{'' if max_rejected_fraction is None else raised}; the first:\n{shown}"
        )


def read_held_out(path: str, limit: int | None, questions: Iterable[Question]) -> list[Problem]:
    """The problems of `eval_problems`.

    Raises:
        ValueError: one of them is among the questions that are trained on.
    """
    problems = read_problems(path)[:limit]
    trained = {question.problem.id for question in questions}
    for problem in problems:
        if problem.id in trained:
            raise ValueError(f"eval_problems: {problem.id} is in problems too; collect the two apart")
    return problems
