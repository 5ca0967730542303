"""Stage `distill`: a student learns from a teacher's distribution over tokens, by default on what the student
writes itself (on-policy distillation, GKD: arXiv 2306.13649), on TRL's trainer.

`beta` chooses the divergence: 0 is KL(teacher || student), 1 is KL(student || teacher), 0.5 the
Jensen-Shannon divergence. `temperature` is that of completions and of both distributions in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from data.prompts import Prompter, PromptStyle
from data.reporting import set_reporting_defaults
from data.stage import run_stage
from data.store import write_json
from data.thinking import thinking_format
from inference.models import locate
from training.distill_arguments import TeacherDtype, check_arguments, check_teacher_server
from training.distill_rows import DistillRow, load_rows
from training.loading import model_init_kwargs, training_tokenizer
from training.preflight import check_tokenizer, check_training
from training.servers import check_server
from training.sft import train_metrics
from training.teacher import (
    check_output_rows,
    check_vocabulary,
    load_teacher,
    output_rows,
    teacher_tokenizer,
)

if TYPE_CHECKING:
    from trl import DistillationConfig, ModelConfig

MEASURES = ("agreement", "kl", "reverse_kl", "accuracy", "completion_length")


@dataclass(kw_only=True)
class DistillConfig:
    """Fields of stage `distill` beside those of trl.DistillationConfig and trl.ModelConfig."""

    problems: str
    """Stage folder (run:01_collect) or parquet file with the questions; their answers are not used."""
    teacher: str
    """The teacher's folder, run: reference or hub id; with teacher_server the model that it serves, of which
    only the tokenizer is loaded."""
    teacher_dtype: TeacherDtype = "auto"
    """The teacher's weights: auto (as stored), float32, bfloat16, float16."""
    teacher_server: str | None = None
    """URL of a vLLM server with the teacher, in place of its weights here. It tells of few tokens, so that
    the divergence is over these and the rest as one (see teacher_top_k); temperature must be 1."""
    teacher_top_k: int = 1
    """With teacher_server and beta 0: most likely tokens of the teacher in the divergence. With a larger beta
    it must be 1: the teacher's most likely token and the one that was drawn."""
    on_policy_fraction: float = 1.0
    """Share of rows whose completion the student draws itself (lambda of GKD); the others have the teacher's
    recorded one."""
    traces: str | None = None
    """Stage folder (run:03_curate) or parquet file with the teacher's traces, for an on_policy_fraction below
    1. A row is then a trace and not a question: questions without trace are left out."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags, s1 or s1_steps: how traces are rendered, and thinking and response told
    apart."""
    prompt_style: PromptStyle = "direct"
    """direct, zero_shot_cot, r1_zero (base models), tinyzero or s1 (see data/prompts.py)."""
    system_prompt: str | None = None
    """System message; the chat template's own default where it is not given."""
    question_suffix: str = ""
    """Text behind every question."""
    eos_token: str | None = None
    """End token, where it is not the tokenizer's own."""
    allow_other_template: bool = False
    """Whether the teacher may be given prompts that are not those of its own chat template."""
    rollout_batch_size: int | None = None
    """Rows that a process generates together without vLLM; null: all of an optimizer step."""
    limit: int | None = None
    """Only the first so many problems."""
    max_rejected_fraction: float = 0.0
    """Problems and traces that cannot be trained on (a prompt or completion that is too long) are left out;
    more of them than this is an error."""
    eval_problems: str | None = None
    """Stage folder or parquet file with held-out problems: the student's completions of them are compared
    with the teacher before and after training, and by eval_strategy; none of them is trained on. All logits
    of per_device_eval_batch_size rows are in memory."""
    eval_limit: int | None = None
    """Only the first so many of them."""

    def __post_init__(self) -> None:
        thinking_format(self.thinking_format)
        if self.prompt_style == "few_shot":
            raise ValueError("prompt_style: few_shot is for sampling and evaluation; train with direct")
        if self.teacher_dtype not in get_args(TeacherDtype):
            known = ", ".join(get_args(TeacherDtype))
            raise ValueError(f"teacher_dtype: {self.teacher_dtype!r} is not one of {known}")
        if not 0 <= self.on_policy_fraction <= 1:
            raise ValueError(f"on_policy_fraction: {self.on_policy_fraction} must be between 0 and 1")
        if self.on_policy_fraction < 1 and self.traces is None:
            raise ValueError(
                f"traces: on_policy_fraction {self.on_policy_fraction} needs the teacher's recorded "
                "completions; give a stage folder with traces, or set on_policy_fraction to 1"
            )
        if self.on_policy_fraction == 1 and self.traces is not None:
            raise ValueError(
                "traces: with on_policy_fraction 1 the student draws every completion; drop it, or lower "
                "on_policy_fraction"
            )
        if not 0 <= self.max_rejected_fraction < 1:
            raise ValueError(f"max_rejected_fraction: {self.max_rejected_fraction} must be in [0, 1)")
        for key in ("limit", "eval_limit", "rollout_batch_size", "teacher_top_k"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}: {value} must be at least 1")
        if self.eval_limit is not None and self.eval_problems is None:
            raise ValueError("eval_limit: there are no eval_problems; give them or drop it")
        if self.teacher_top_k > 1 and self.teacher_server is None:
            raise ValueError("teacher_top_k: a teacher in this process gives all tokens; drop it")
        if self.teacher_server is not None and self.teacher_dtype != "auto":
            raise ValueError("teacher_dtype: the server has loaded the teacher; drop it")


def distill(
    config: DistillConfig, args: DistillationConfig, model: ModelConfig, folder: Path
) -> dict[str, Any]:
    """Train, resuming from the last complete checkpoint, and save model and tokenizer in `folder`."""
    from training.checkpoints import newest_complete_checkpoint, resume_or_train

    set_reporting_defaults(folder)
    check_training(args)
    check_arguments(args, model, held_out=config.eval_problems is not None)
    prompter = make_prompter(config, args, model)
    tokenizer = teacher_tokenizer(config.teacher, trust_remote_code=args.trust_remote_code)
    check_vocabulary(prompter.tokenizer, tokenizer)
    check_output_rows(str(model.model_name_or_path), config.teacher)
    rows, held_out, left_out = load_rows(config, args, model, prompter, tokenizer, folder)
    longest = max(len(row.prompt.ids) for row in [*rows, *held_out])
    check_teacher_server(config.teacher_server, args, config.teacher_top_k, longest)
    check_server(args)
    trainer = make_trainer(config, args, model, prompter, rows, held_out)
    args.eval_on_start = bool(held_out) and newest_complete_checkpoint(folder) is None
    result = resume_or_train(trainer, folder)
    history = trainer.state.log_history
    saved = _saved_step(trainer)
    if held_out and not _measured_at(saved, history):
        trainer.evaluate()
    if args.process_index == 0:
        write_json(folder / "log_history.json", history)
    return {
        "rows": len(rows),
        "left_out": left_out,
        "held_out": len(held_out),
        **train_metrics(history, result),
        "generated_tokens": trainer.generated_tokens,
        "recorded_tokens": trainer.recorded_tokens,
        **held_out_measures(history, saved),
    }


def make_prompter(config: DistillConfig, args: DistillationConfig, model: ModelConfig) -> Prompter:
    """How questions are put to the student."""
    tokenizer = training_tokenizer(
        model, trust_remote_code=args.trust_remote_code, eos_token=config.eos_token
    )
    check_tokenizer(tokenizer, config.prompt_style)
    return Prompter.of(config, tokenizer)


def make_trainer(
    config: DistillConfig,
    args: DistillationConfig,
    model: ModelConfig,
    prompter: Prompter,
    rows: list[DistillRow],
    held_out: list[DistillRow],
) -> Any:
    """The trainer, with its teacher."""
    from trl import get_peft_config

    from training.distill_trainer import DistillTrainer, ServerDistillTrainer

    args.model_init_kwargs = model_init_kwargs(model, args.model_init_kwargs)
    student = str(model.model_name_or_path)
    options: dict[str, Any] = {
        "model": locate(student),
        "args": args,
        "rows": rows,
        "held_out": held_out,
        "prompter": prompter,
        "on_policy_fraction": config.on_policy_fraction,
        "batch_size": config.rollout_batch_size,
        "peft_config": get_peft_config(model),
    }
    if config.teacher_server is not None:
        return ServerDistillTrainer(**options)
    teacher = load_teacher(
        config.teacher,
        dtype=config.teacher_dtype,
        trust_remote_code=args.trust_remote_code,
        rows=output_rows(student),
    )
    return DistillTrainer(teacher_model=teacher, **options)


def _saved_step(trainer: Any) -> int:
    """After how many steps the student was as it is saved: all of them, or those of the best checkpoint."""
    best = trainer.state.best_model_checkpoint
    if trainer.args.load_best_model_at_end and best is not None:
        return int(Path(best).name.removeprefix("checkpoint-"))
    return trainer.state.global_step


def _measured_at(step: int, history: list[dict[str, Any]]) -> bool:
    return any("eval_agreement" in entry and entry["step"] == step for entry in history)


def held_out_measures(history: list[dict[str, Any]], saved: int) -> dict[str, float]:
    """Measures of the held-out questions before training and after step `saved`."""
    entries = [entry for entry in history if "eval_agreement" in entry]
    if not entries:
        return {}
    after = next(entry for entry in reversed(entries) if entry["step"] == saved)
    return {
        f"{name}_{when}": entry[f"eval_{name}"]
        for name in MEASURES
        for when, entry in (("before", entries[0]), ("after", after))
        if f"eval_{name}" in entry
    }


if __name__ == "__main__":
    from trl import DistillationConfig, ModelConfig

    run_stage(distill, DistillConfig, DistillationConfig, ModelConfig)
