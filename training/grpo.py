"""Stage `grpo`: reinforcement learning with rule-based rewards, as DeepSeek-R1-Zero does it, on TRL's
trainer.

From a base model (or any other) and questions with checkable answers; no traces. Questions that no rule can
judge may be among them, as in DeepSeek-R1's last stage (arXiv 2501.12948, section 2.3.4): an entry of
`rewards:` may be for some domains only, and it may be a reward model (`training/learned_reward.py`). Losses,
advantages, KL, vLLM, LoRA and DeepSpeed are TRL's (`training/grpo_trainer.py` says what is not).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.language import SCRIPT_OF
from data.prompts import Prompter, PromptStyle
from data.reporting import set_reporting_defaults
from data.sources import refuse_eval_rows
from data.stage import run_stage
from data.store import read_problems, write_json, write_rejected
from data.thinking import thinking_format
from rewards.registry import Reward, build_rewards
from training.grpo_arguments import check_arguments, check_questions
from training.grpo_questions import check_domains, usable
from training.learned_reward import LEARNED_REWARDS, load_models
from training.loading import model_init_kwargs, training_tokenizer
from training.preflight import (
    check_rejected,
    check_tokenizer,
    check_training,
    context_tokens,
    read_held_out,
)
from training.questions import Curriculum, Questions
from training.rollout_options import RolloutOptions
from training.rollouts import Reader
from training.servers import check_server

if TYPE_CHECKING:
    from trl import GRPOConfig, ModelConfig

    from training.grpo_trainer import GrpoTrainer

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class GrpoConfig(RolloutOptions):
    """Fields of stage `grpo` beside those of trl.GRPOConfig and trl.ModelConfig."""

    problems: str
    """Stage folder (run:01_collect) or parquet file with the questions."""
    rewards: list[Any] = field(default_factory=lambda: ["accuracy", "format"])
    """Rewards by name, or mappings with name (or function), weight, domains (or except_domains) and
    parameters; see docs/rewards.md."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags, s1 or s1_steps: how thinking and response are told apart."""
    prompt_style: PromptStyle = "direct"
    """direct, zero_shot_cot, r1_zero (base models), tinyzero or s1 (see data/prompts.py)."""
    system_prompt: str | None = None
    """System message; the chat template's own default where it is not given."""
    question_suffix: str = ""
    """Text behind every question."""
    eos_token: str | None = None
    """End token, where it is not the tokenizer's own."""
    limit: int | None = None
    """Only the first so many problems."""
    max_rejected_fraction: float = 0.0
    """Problems that cannot be trained on (a prompt that is too long, a gold answer that no rule reads) are
    left out; more of them than this is an error."""
    curriculum: Curriculum = "uniform"
    """uniform, or pass_rate: questions are drawn by how likely a group on them is mixed, from what was
    observed."""
    eval_problems: str | None = None
    """Stage folder or parquet file with problems for eval_strategy; none of them is trained on."""
    eval_limit: int | None = None
    """Only the first so many of them."""
    language: str | None = "en"
    """Language that the thinking is watched for (ISO 639-1), null for none; the reward `language` pays for
    it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        thinking_format(self.thinking_format)
        build_rewards(self.rewards, self.thinking_format, more=LEARNED_REWARDS)
        if self.language is not None and self.language not in SCRIPT_OF:
            raise ValueError(f"language: {self.language!r} is not one of {', '.join(sorted(SCRIPT_OF))}")
        if self.prompt_style == "few_shot":
            raise ValueError("prompt_style: few_shot is for sampling and evaluation; train with direct")
        if not 0 <= self.max_rejected_fraction < 1:
            raise ValueError(f"max_rejected_fraction: {self.max_rejected_fraction} must be in [0, 1)")
        for key in ("limit", "eval_limit"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}: {value} must be at least 1")


def grpo(config: GrpoConfig, args: GRPOConfig, model: ModelConfig, folder: Path) -> dict[str, Any]:
    """Train, resuming from the last complete checkpoint, and save model and tokenizer in `folder`."""
    from training.checkpoints import resume_or_train
    from training.learning_plot import draw_learning

    set_reporting_defaults(folder)
    check_training(args)
    tokenizer = training_tokenizer(
        model, trust_remote_code=args.trust_remote_code, eos_token=config.eos_token
    )
    check_tokenizer(tokenizer, config.prompt_style)
    prompter = Prompter.of(config, tokenizer)
    prefilled = bool(prompter.prompt("1 + 1").prefill)
    rewards = build_rewards(config.rewards, config.thinking_format, prefilled, more=LEARNED_REWARDS)
    check_arguments(args, rewards)
    questions, evaluation, left_out = load_questions(config, args, model, prompter, rewards, folder)
    load_models(rewards)
    check_server(args)
    trainer = make_trainer(config, args, model, prompter, rewards, questions, evaluation)
    try:
        result = resume_or_train(trainer, folder, stop_on_nan=config.stop_on_nan)
    finally:  # also of a run that has stopped itself
        history = [step for step in trainer.state.log_history if "rollouts/reward" in step]
        if args.process_index == 0 and history:
            write_json(folder / "log_history.json", trainer.state.log_history)
            draw_learning(history, folder / "plots" / "learning.png")
    return {
        "questions": len(questions),
        "left_out": left_out,
        **train_metrics(history, result),
        "completion_tokens": trainer.generated_tokens,
        "warnings": trainer.alarms.seen,
    }


def load_questions(
    config: GrpoConfig,
    args: GRPOConfig,
    model: ModelConfig,
    prompter: Prompter,
    rewards: list[Reward],
    folder: Path,
) -> tuple[Questions, Questions | None, int]:
    """The questions to train on, those to evaluate on, and how many were left out (in rejected/).

    Raises:
        ValueError: rows of role eval, rewards for a domain that none has, too many that cannot be used, or
            too few questions for one generation.
    """
    problems = read_problems(config.problems)[: config.limit]
    refuse_eval_rows(problems, config.problems)
    check_domains(problems, rewards)
    context = context_tokens(str(model.model_name_or_path), args)
    longest = (context or 1 << 30) - int(args.max_completion_length or 0)
    kept, bad = usable(problems, prompter, rewards, longest_prompt=longest, suffix=config.question_suffix)
    if args.process_index == 0:
        write_rejected(folder, bad)
        for row in bad:
            logger.warning("left out %s: %s: %s", row.id, row.rule, row.evidence)
    check_rejected("problems", len(kept), bad, config.max_rejected_fraction)
    check_questions(len(kept), args)
    size = int(args.num_generations or 2)
    questions = Questions(kept, curriculum=config.curriculum, num_generations=size, seed=args.seed)
    if config.eval_problems is None:
        return questions, None, len(bad)
    held_out = read_held_out(config.eval_problems, config.eval_limit, kept)
    good, bad_eval = usable(
        held_out, prompter, rewards, longest_prompt=longest, suffix=config.question_suffix
    )
    check_rejected("eval_problems", len(good), bad_eval)
    return questions, Questions(good), len(bad)


def make_trainer(
    config: GrpoConfig,
    args: GRPOConfig,
    model: ModelConfig,
    prompter: Prompter,
    rewards: list[Reward],
    questions: Questions,
    evaluation: Questions | None = None,
) -> GrpoTrainer:
    """The trainer with its watch."""
    from trl import get_peft_config

    from inference.models import locate
    from training.grpo_trainer import GrpoTrainer

    args.model_init_kwargs = model_init_kwargs(model, args.model_init_kwargs)
    prefilled = bool(questions[0].prompt.prefill)
    return GrpoTrainer(
        model=locate(str(model.model_name_or_path)),
        args=args,
        questions=questions,
        eval_questions=evaluation,
        prompter=prompter,
        rewards=rewards,
        reader=Reader(rewards, config.thinking_format, prefilled=prefilled, language=config.language),
        options=config,
        peft_config=get_peft_config(model),
    )


def train_metrics(history: list[dict[str, Any]], result: dict[str, float]) -> dict[str, Any]:
    """Reward and accuracy of the first and last steps (means of up to ten), and seconds."""
    part = max(1, min(10, len(history) // 3))

    def of(name: str, steps: list[dict[str, Any]]) -> float | None:
        values = [step[name] for step in steps if step.get(name) is not None]
        return sum(values) / len(values) if values else None

    return {
        "steps": history[-1]["step"] if history else 0,
        **{
            f"{name}_{when}": of(f"rollouts/{name}", steps)
            for name in ("reward", "right", "length")
            for when, steps in (("first", history[:part]), ("last", history[-part:]))
        },
        "train_seconds": result["train_runtime"],
    }


if __name__ == "__main__":
    from trl import GRPOConfig, ModelConfig

    run_stage(grpo, GrpoConfig, GRPOConfig, ModelConfig)
