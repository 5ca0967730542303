"""What can be known of one stage before it runs: recipe, inputs, data, template, rewards, batches, disk."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from data.prompts import Prompter
from data.recipe import RUN_PREFIX, Recipe, references
from data.run_folder import pipeline_folder, read_manifest, stage_folder
from launch.pipeline import check_stage, processes

Level = Literal["ok", "note", "bad"]
TRAINING = ("sft", "grpo", "distill", "prm", "reward_model")
"""Stages whose memory and time are predicted."""
ASSUMED_PROMPT_TOKENS = 512
"""Of a prompt where no data is at hand."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    """ok; note: may be meant so, or could not be looked at; bad: the stage will not work."""
    what: str
    text: str


@dataclass(kw_only=True)
class Data:
    """What a stage trains on, as far as it is known."""

    rows: int | None = None
    longest_tokens: int
    mean_tokens: float
    measured: bool = False
    """Whether the lengths are of data; else they are the most that the recipe allows."""


@dataclass(kw_only=True)
class Examined:
    """A stage and what was found."""

    recipe: Recipe
    findings: list[Finding] = field(default_factory=list)
    configs: tuple[Any, ...] = ()
    data: Data | None = None

    def say(self, level: Level, what: str, text: str) -> None:
        self.findings.append(Finding(level=level, what=what, text=text))

    @contextlib.contextmanager
    def looking_at(self, what: str) -> Iterator[None]:
        """What the project itself refuses is bad."""
        try:
            yield
        except ValueError as error:
            self.say("bad", what, str(error))


def examine(recipe: Recipe) -> Examined:
    """Look at everything but memory and time."""
    found = Examined(recipe=recipe)
    try:
        found.configs = check_stage(recipe)
    except ValueError as error:
        found.say("bad", "recipe", str(error))
        return found
    found.say("ok", "recipe", "keys, types and launch")
    _inputs(found)
    if recipe.stage not in TRAINING:
        if recipe.fields.get("rewards"):
            _rewards(found)
        return found
    tokenizer = tokenizer_of(found)
    found.data = {"sft": _traces, "grpo": _questions, "distill": _questions}.get(recipe.stage, _solutions)(
        found, tokenizer
    )
    if recipe.stage == "grpo":
        _rewards(found)
    _batches(found)
    return found


def _inputs(found: Examined) -> None:
    """Stages that are read are finished, or are made before."""
    made, waiting = [], []
    for name in references(found.recipe):
        manifest = read_manifest(pipeline_folder(found.recipe) / name)
        finished = manifest is not None and manifest["status"] == "finished"
        (made if finished else waiting).append(name)
    for text in _paths(found.recipe.fields):
        if not Path(text).exists():
            found.say("bad", "inputs", f"{text} does not exist")
    if made:
        found.say("ok", "inputs", f"finished: {', '.join(made)}")
    if waiting:
        found.say("note", "inputs", f"made by earlier stages, not there yet: {', '.join(waiting)}")


def _paths(value: Any) -> Iterator[str]:
    """Values that are run folders outside the pipeline, or paths of tables."""
    if isinstance(value, str):
        if value.startswith("runs/") or value.endswith((".parquet", ".jsonl")):
            yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _paths(part)


def ready(found: Examined, value: str | Sequence[str]) -> bool:
    """Whether what a key of the recipe names is there: a path, or a finished stage."""
    for name in [value] if isinstance(value, str) else value:
        path = (
            pipeline_folder(found.recipe) / name.removeprefix(RUN_PREFIX)
            if RUN_PREFIX in name
            else Path(name)
        )
        manifest = read_manifest(path) if path.is_dir() else None
        if not path.exists() or (manifest is not None and manifest["status"] != "finished"):
            return False
    return True


# ------------------------------------------------------------------ template and data


def tokenizer_of(found: Examined) -> Any | None:
    """The tokenizer that the stage trains with, where it is at hand."""
    from training.loading import training_tokenizer

    own, args, model = found.configs
    name = str(model.model_name_or_path)
    given = {"eos_token": getattr(own, "eos_token", None) or getattr(args, "eos_token", None)}
    for key in ("pad_token", "chat_template_path"):
        given[key] = getattr(args, key, None)
    if (
        str(found.recipe.fields.get("model_name_or_path", "")).startswith(RUN_PREFIX)
        and not Path(name).exists()
    ):
        found.say("note", "template", f"{name} is not there yet: tokenizer, template and mask not looked at")
        return None
    try:
        return training_tokenizer(model, trust_remote_code=False, **given)
    except ValueError as error:
        at_hand = Path(name).exists()
        reason = str(error) if at_hand else f"the tokenizer of {name} is not at hand: not looked at"
        found.say("bad" if at_hand else "note", "template", reason)
        return None


def _traces(found: Examined, tokenizer: Any | None) -> Data:
    """Rows of stage sft: template and loss mask on the traces, or where there are none on one of our own."""
    from data.chat import render_trace
    from data.store import read_attempts
    from training.lint import Rendered, lint, render_traces

    own, args, _ = found.configs
    most = int(args.max_length or 0)
    unknown = Data(longest_tokens=most, mean_tokens=most)
    if tokenizer is None:
        return unknown
    prompter = Prompter.of(own, tokenizer)
    there = ready(found, found.recipe.fields["dataset"])
    with found.looking_at("template and loss mask"):
        if there:
            rendered = render_traces(
                prompter, read_attempts(own.dataset, "traces"), max_length=args.max_length
            )
        else:
            example = render_trace(prompter, "What is 1 + 1?", "One and one make two.", "2")
            rendered = Rendered(examples=[example], problems=[""], rejected=[])
        with contextlib.redirect_stdout(io.StringIO()):  # the example that it shows
            lint(prompter, rendered, max_overlong_fraction=own.max_overlong_fraction)
        found.say("ok", "template and loss mask", "thinking kept, loss ends with the end token")
        if there:
            lengths = [len(example.input_ids) for example in rendered.examples]
            return _told(found, lengths, len(rendered.rejected), "traces")
    return unknown


def _questions(found: Examined, tokenizer: Any | None) -> Data:
    """Questions of stages grpo and distill: prompts that fit, gold answers that rewards can judge."""
    from data.store import read_problems
    from inference.draw import render_prompts
    from rewards.registry import build_rewards
    from training.model_reward import LEARNED_REWARDS
    from training.preflight import check_questions, check_rejected, check_tokenizer, context_tokens, usable

    own, args, model = found.configs
    drawn = int(args.max_completion_length or 0)
    limit = getattr(args, "vllm_max_model_length", None)
    longest = int(limit) if limit and args.use_vllm else drawn + ASSUMED_PROMPT_TOKENS
    unknown = Data(longest_tokens=longest, mean_tokens=longest)
    if tokenizer is None:
        return unknown
    with found.looking_at("template"):
        check_tokenizer(tokenizer, own.prompt_style)
        found.say("ok", "template", "prompts can be rendered and completions can end")
    if not ready(found, found.recipe.fields["problems"]):
        return unknown
    with found.looking_at("data"):
        problems, prompter = read_problems(own.problems)[: own.limit], Prompter.of(own, tokenizer)
        room = (context_tokens(str(model.model_name_or_path), args) or 1 << 30) - drawn
        if found.recipe.stage == "distill":
            prompts, bad = render_prompts(problems, prompter, room, own.question_suffix)
            lengths = [len(prompt.ids) for prompt in prompts.values()]
        else:
            prefilled = bool(prompter.prompt("1 + 1").prefill)
            rewards = build_rewards(own.rewards, own.thinking_format, prefilled, more=LEARNED_REWARDS)
            kept, bad = usable(problems, prompter, rewards, longest_prompt=room, suffix=own.question_suffix)
            lengths = [len(question.prompt.ids) for question in kept]
        check_rejected("problems", len(lengths), bad, own.max_rejected_fraction)
        if found.recipe.stage == "grpo":
            check_questions(len(lengths), args)
        told = _told(found, lengths, len(bad), "questions")
        told.longest_tokens += drawn
        told.mean_tokens += drawn
        return told
    return unknown


def _solutions(found: Examined, tokenizer: Any | None) -> Data:
    """Rows of reward models: labelled solutions where they are there."""
    own, args, _ = found.configs
    most = int(getattr(own, "max_length", 0) or args.max_length or 0)
    unknown = Data(longest_tokens=most, mean_tokens=most)
    if tokenizer is None or found.recipe.stage != "prm" or not ready(found, found.recipe.fields["dataset"]):
        return unknown
    from training.prm import check_rejected, make_rows, read_solutions

    with found.looking_at("data"):
        made = make_rows(own, tokenizer, read_solutions(own.dataset))
        check_rejected(made, own.max_rejected_fraction)
        return _told(found, [len(row.ids) for row in made.rows], len(made.rejected), "solutions")
    return unknown


def _told(found: Examined, lengths: Sequence[int], rejected: int, what: str) -> Data:
    share = rejected / (rejected + len(lengths))
    data = Data(rows=len(lengths), longest_tokens=max(lengths), mean_tokens=fmean(lengths), measured=True)
    mean, most = f"{data.mean_tokens:,.0f} tokens in the mean", f"{data.longest_tokens:,} at most"
    left_out = f"{rejected:,} left out ({share:.1%})"
    found.say("ok", "data", f"{len(lengths):,} {what}, {mean}, {most}; {left_out}")
    return data


# ------------------------------------------------------------------ rewards, batches, disk


def _rewards(found: Examined) -> None:
    """Whether known exploits are paid: a note, since a run works with them."""
    from rewards.doctor import doctor
    from training.model_reward import LEARNED_REWARDS

    try:
        said = io.StringIO()
        paid = doctor(found.recipe.path, file=said, more=LEARNED_REWARDS)
    except ValueError as error:
        found.say("note", "rewards", f"not examined: {error}")
        return
    line = said.getvalue().strip().splitlines()[-1].removeprefix(f"{found.recipe.path}: ")
    found.say(
        "note" if paid else "ok", "rewards", line + ("; see `slowthink doctor rewards`" if paid else "")
    )


def micro_batch(found: Examined) -> int:
    """Rows of a process; `check_stage` has those of all where processes share a generation."""
    args = found.configs[1]
    shared = hasattr(args, "num_generations")
    return args.per_device_train_batch_size // (processes(found.recipe) if shared else 1)


def steps(found: Examined) -> int | None:
    """Optimizer steps of the stage; None where that depends on data that is not there."""
    args, data = found.configs[1], found.data
    if args.max_steps > 0:
        return args.max_steps
    if data is None or data.rows is None:
        return None
    rows = data.rows * (args.num_generations if hasattr(args, "num_generations") else 1)
    return max(1, int(rows / _global_batch(found) * args.num_train_epochs))


def _global_batch(found: Examined) -> int:
    args = found.configs[1]
    return micro_batch(found) * processes(found.recipe) * args.gradient_accumulation_steps


def _batches(found: Examined) -> None:
    from rewards.registry import build_rewards
    from training.model_reward import LEARNED_REWARDS

    own, args, _ = found.configs
    number, whole = steps(found), _global_batch(found)
    rows = f"{processes(found.recipe)} processes x {micro_batch(found)} x {args.gradient_accumulation_steps}"
    text = f"{rows} = {whole:,} rows a step, {'?' if number is None else f'{number:,}'} steps"
    level: Level = "ok"
    if found.recipe.stage == "grpo":
        groups = int(args.generation_batch_size) // args.num_generations
        text += f"; {groups} groups of {args.num_generations} a generation"
        with found.looking_at("batches"):
            from training.preflight import check_arguments

            check_arguments(args, build_rewards(own.rewards, own.thinking_format, more=LEARNED_REWARDS))
    elif found.data is not None and found.data.rows is not None and whole > found.data.rows:
        level, text = "note", f"{text}: a step is larger than the data"
    if number is not None and args.warmup_steps >= max(1, number):
        level, text = "note", f"{text}: warmup_steps {args.warmup_steps:g} is all of it"
    found.say(level, "batches", text)


def disk(found: Examined, weights: float, optimizer: float, *, here: bool) -> None:
    """Whether the checkpoints fit on the disk of the run folders.

    Args:
        here: whether the stage can run on this machine; else its disk is another's.
        weights: bytes of the saved model.
        optimizer: bytes of the optimizer's states, over all processes.
    """
    args = found.configs[1]
    kept = 0 if str(args.save_strategy.value) == "no" else max(2, args.save_total_limit or 10)
    needed = weights + kept * (weights + (0 if args.save_only_model else optimizer))
    folder = stage_folder(found.recipe).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    limit = "no save_total_limit: 10 assumed" if kept and not args.save_total_limit else f"{kept} checkpoints"
    text = f"{needed / 1e9:,.1f} GB ({limit} and the model), {free / 1e9:,.1f} GB free at {folder}"
    found.say("ok" if needed < free else "bad" if here else "note", "disk", text)
