"""What a training stage would train on, as far as it is there: rows and lengths, template, loss mask."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from data.prompts import Prompter
from data.recipe import RUN_PREFIX
from data.run_folder import pipeline_folder, read_manifest
from launch.findings import Data, Examined

ASSUMED_PROMPT_TOKENS = 512
"""Of a prompt where no data is at hand."""


def data_of(found: Examined) -> Data:
    """What the stage trains on; what is wrong with it is added to the findings."""
    tokenizer = tokenizer_of(found)
    read = {"sft": _traces, "grpo": _questions, "distill": _questions}.get(found.recipe.stage, _solutions)
    return read(found, tokenizer)


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
    from training.grpo_arguments import check_questions
    from training.grpo_questions import usable
    from training.learned_reward import LEARNED_REWARDS
    from training.preflight import check_rejected, check_tokenizer, context_tokens

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
    from training.preflight import check_rejected
    from training.prm import make_rows, read_solutions

    with found.looking_at("data"):
        made = make_rows(own, tokenizer, read_solutions(own.dataset))
        check_rejected("dataset", len(made.rows), made.rejected, own.max_rejected_fraction)
        return _told(found, [len(row.ids) for row in made.rows], len(made.rejected), "solutions")
    return unknown


def _told(found: Examined, lengths: Sequence[int], rejected: int, what: str) -> Data:
    share = rejected / (rejected + len(lengths))
    data = Data(rows=len(lengths), longest_tokens=max(lengths), mean_tokens=fmean(lengths), measured=True)
    mean, most = f"{data.mean_tokens:,.0f} tokens in the mean", f"{data.longest_tokens:,} at most"
    left_out = f"{rejected:,} left out ({share:.1%})"
    found.say("ok", "data", f"{len(lengths):,} {what}, {mean}, {most}; {left_out}")
    return data
