"""What is checked before a GRPO run loads its model, so that it does not fail, or train nothing, hours
later."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from data.did_you_mean import did_you_mean
from data.processes import world
from data.prompts import PLAIN_TEMPLATES, Prompter, with_suffix
from data.schema import Problem, Rejected, problem_row, rejected
from data.store import read_problems
from inference.draw import render_prompts
from inference.models import locate
from rewards.length import KimiLength
from rewards.registry import Reward
from rewards.texts import FROM_TRAINER
from training.questions import Question

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from trl import GRPOConfig

logger = logging.getLogger(__name__)

SHOWN = 5
"""Rejected rows that an error lists."""


def check_arguments(args: GRPOConfig, rewards: Sequence[Reward]) -> None:
    """Refuse settings of trl.GRPOConfig that this stage does not have, or that would train something else.

    Raises:
        ValueError: names the key and the fix.
    """
    if args.reward_weights is not None:
        raise ValueError("reward_weights: give each entry of `rewards:` its own `weight:` instead")
    if not args.shuffle_dataset:
        raise ValueError("shuffle_dataset: `curriculum:` says in which order questions are drawn; drop it")
    if args.chat_template_kwargs:
        raise ValueError(
            "chat_template_kwargs: prompts are rendered by `prompt_style:` and `system_prompt:` alone; drop "
            "it, or put what it sets into the model's chat template"
        )
    if args.log_completions:
        raise ValueError(
            "log_completions: drop it; every completion is in rollouts/ of the stage's folder, which "
            "`slowthink show STAGE --rollouts` shows"
        )
    if args.mixed_precision == "fp16":
        raise ValueError(
            "fp16: its loss scaling makes gradients that are not finite again and again, which stop_on_nan "
            "takes for failures; use `bf16: true`, or `bf16: false` for float32"
        )
    if args.use_transformers_continuous_batching:
        raise ValueError(
            "use_transformers_continuous_batching: it turns the weights to bfloat16 for good (TRL 1.16); "
            "drop it: this stage generates with continuous batching of its own, or with use_vllm"
        )
    if not args.use_vllm:
        given = {
            "min_p": args.min_p,
            "generation_kwargs": args.generation_kwargs,
            "cache_implementation": args.cache_implementation,
            "repetition_penalty": None if args.repetition_penalty == 1 else args.repetition_penalty,
        }
        for key in (key for key, value in given.items() if value is not None):
            raise ValueError(
                f"{key}: only with use_vllm: true; without it there are temperature, top_p and top_k"
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


def context_tokens(model: str, args: GRPOConfig) -> int | None:
    """Longest prompt + completion by the model's config.json (and vllm_max_model_length); None if unknown."""
    from transformers import PretrainedConfig

    try:
        values, _ = PretrainedConfig.get_config_dict(locate(model))
    except OSError:
        return None
    text = values.get("text_config", values)
    limits = [text.get("max_position_embeddings"), args.vllm_max_model_length if args.use_vllm else None]
    return min((limit for limit in limits if limit), default=None)


def usable(
    problems: Sequence[Problem],
    prompter: Prompter,
    rewards: Sequence[Reward],
    *,
    longest_prompt: int,
    suffix: str = "",
) -> tuple[list[Question], list[Rejected]]:
    """What can be trained on, and the other problems with the reason: no prompt of at most `longest_prompt`
    tokens, no reward for its domain, or a reward for it that cannot judge it."""
    prompts, bad = render_prompts(problems, prompter, longest_prompt, suffix)
    kept = [problem for problem in problems if problem.id in prompts]
    names = dict.fromkeys(key for problem in kept for key in columns(problem))
    rows = [{**names, **columns(problem)} for problem in kept]
    faults: dict[str, tuple[str, str]] = {}
    for problem in kept:
        if not any(reward.applies_to(problem.domain) for reward in rewards):
            why = f"no entry of `rewards:` applies to the domain {problem.domain!r}; add one that does"
            faults[problem.id] = ("no_reward", why)
    for reward in rewards:
        judged = [(p, row) for p, row in zip(kept, rows, strict=True) if reward.applies_to(p.domain)]
        find = getattr(reward.function, "row_faults", lambda rows: [""] * len(rows))
        for (problem, _), fault in zip(judged, find([row for _, row in judged]), strict=True):
            if fault:
                faults.setdefault(problem.id, ("unjudgeable", f"{reward.name}: {fault}"))
    bad += [rejected(problem_row(p), *faults[p.id]) for p in kept if p.id in faults]
    questions = []
    for problem, row in zip(kept, rows, strict=True):
        if problem.id not in faults:
            prompt, asked = prompts[problem.id], with_suffix(problem.question, suffix)
            shown = prompter.messages(asked) if prompter.is_chat else prompt.text
            questions.append(Question(problem=problem, prompt=prompt, columns={**row, "prompt": shown}))
    return questions, bad


def check_domains(problems: Sequence[Problem], rewards: Sequence[Reward]) -> None:
    """Refuse rewards for (or not for) a domain that no question has.

    Raises:
        ValueError: names the reward, and the nearest domain.
    """
    present = sorted({problem.domain for problem in problems if problem.domain})
    fix = "give them one where they are collected (`domain:` of a source), or by stage label_domains"
    named = [
        (reward.name, key, domain)
        for reward in rewards
        for key in ("domains", "except_domains")
        for domain in getattr(reward, key)
    ]
    for name, key, domain in named:
        if problems and domain and domain not in present:
            hint = did_you_mean(domain, present) if present else f"none has any: {fix}"
            raise ValueError(f"rewards: {name}: {key}: no question has the domain {domain!r}; {hint}")


def columns(problem: Problem) -> dict[str, Any]:
    """The columns of a problem for rewards: its fields, and the keys of its metadata."""
    extra = {key: value for key, value in problem.metadata.items() if key not in FROM_TRAINER}
    return {**extra, **problem_row(problem)}


def check_rejected(
    key: str, kept: int, bad: Sequence[Rejected], max_rejected_fraction: float | None = None
) -> None:
    """Refuse questions of which too many are unusable, or none at all.

    Args:
        key: the recipe's key that they are from.
        max_rejected_fraction: share that may be left out; None if that is none, whatever the recipe says.

    Raises:
        ValueError: lists the first unusable ones.
    """
    total = kept + len(bad)
    if not total:
        raise ValueError(f"{key}: no questions there")
    if len(bad) > (max_rejected_fraction or 0) * total:
        rules = ", ".join(f"{count} {rule}" for rule, count in Counter(row.rule for row in bad).most_common())
        shown = "\n".join(f"  {row.id}: {row.evidence}" for row in bad[:SHOWN])
        raised = f", or raise max_rejected_fraction={max_rejected_fraction}"
        raise ValueError(
            f"{key}: {len(bad)} of {total} cannot be used ({rules}); leave them out when curating"
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
