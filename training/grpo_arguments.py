"""What of trl.GRPOConfig stage `grpo` cannot do, or would ignore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewards.length import KimiLength
from rewards.registry import Reward
from training.refused_keys import ENGINE_LACKS, TEMPLATE, refuse

if TYPE_CHECKING:
    from trl import GRPOConfig

REFUSED = {
    "reward_weights": "give each entry of `rewards:` its own `weight:` instead",
    "shuffle_dataset": "`curriculum:` says in which order questions are drawn; drop it",
    "chat_template_kwargs": TEMPLATE,
    "log_completions": "drop it; every completion is in rollouts/ of the stage's folder, which "
    "`slowthink show STAGE --rollouts` shows",
    "use_transformers_continuous_batching": "it turns the weights to bfloat16 for good (TRL 1.16); drop it: "
    "this stage generates with continuous batching of its own, or with use_vllm",
}
"""Keys that must have their default, and what to do instead."""


def check_arguments(args: GRPOConfig, rewards: Sequence[Reward]) -> None:
    """Refuse settings that this stage does not have, or that would train something else.

    Raises:
        ValueError: names the key and the fix.
    """
    refuse(args, REFUSED)
    if not args.use_vllm:
        refuse(args, ENGINE_LACKS)
    if args.mixed_precision == "fp16":
        raise ValueError(
            "fp16: its loss scaling makes gradients that are not finite again and again, which stop_on_nan "
            "takes for failures; use `bf16: true`, or `bf16: false` for float32"
        )
    served = int(args.steps_per_generation or 1) * args.num_iterations
    needed = args.gradient_accumulation_steps
    if served < needed:
        raise ValueError(
            f"steps_per_generation: a generation serves {served} micro-batches and an optimizer step has "
            f"{needed} (gradient_accumulation_steps); set steps_per_generation to {needed} or more, and "
            "rollout_batch_size where fewer completions are to be drawn at a time"
        )
    rows = args.per_device_train_batch_size * int(args.steps_per_generation or 1)
    if rows % int(args.num_generations or 1) and compares_groups(rewards):
        raise ValueError(
            "rewards: kimi_length compares the completions of a group, and groups of "
            f"{args.num_generations} do not fit whole into the {rows} completions of a process; make "
            "per_device_train_batch_size x steps_per_generation (or gradient_accumulation_steps) a "
            "multiple of num_generations"
        )


def compares_groups(rewards: Sequence[Reward]) -> bool:
    """Whether a reward compares the completions of a group, so that a process must have all of them."""
    return any(isinstance(reward.function, KimiLength) for reward in rewards)


def check_questions(kept: int, args: GRPOConfig) -> None:
    """Refuse fewer questions than one generation needs.

    Raises:
        ValueError: names the numbers and the fix.
    """
    needed = groups_per_generation(args)
    if kept < needed:
        raise ValueError(
            f"problems: {kept} questions are fewer than the {needed} of one generation "
            f"(generation_batch_size {args.generation_batch_size} / num_generations "
            f"{args.num_generations}), and nothing would be trained; take more questions, or lower "
            "per_device_train_batch_size or gradient_accumulation_steps"
        )


def groups_per_generation(args: GRPOConfig) -> int:
    """Groups that are generated at a time, over all processes."""
    return int(args.generation_batch_size or 0) // int(args.num_generations or 1)
