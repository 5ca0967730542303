"""What a distillation run trains on: questions, and where the teacher wrote them its completions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.chat import IGNORED, TemplateError, render_trace
from data.prompts import Prompter, with_suffix
from data.schema import Attempt, Problem, Rejected, attempt_row, problem_row, rejected
from data.sources import refuse_eval_rows
from data.store import read_attempts, read_problems, write_rejected
from inference.draw import render_prompts
from training.distill_arguments import longest_prompt
from training.preflight import check_rejected, read_held_out
from training.questions import Question
from training.teacher import check_template

if TYPE_CHECKING:
    from trl import DistillationConfig, ModelConfig

    from training.distill import DistillConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillRow(Question):
    """A question as the student is asked it."""

    target: tuple[int, ...] | None = None
    """The teacher's recorded completion with its end token, behind the prompt's tokens."""


def load_rows(
    config: DistillConfig,
    args: DistillationConfig,
    model: ModelConfig,
    prompter: Prompter,
    tokenizer: Any,
    folder: Path,
) -> tuple[list[DistillRow], list[DistillRow], int]:
    """Rows to train on, held-out ones, and how many problems and traces were left out (in rejected/).

    Args:
        tokenizer: the teacher's.
    Raises:
        ValueError: rows of role eval, too many that cannot be used, too few rows for one step, or prompts
            that the teacher does not know.
    """
    problems = read_problems(config.problems)[: config.limit]
    refuse_eval_rows(problems, config.problems)
    longest = int(args.max_completion_length or 0)
    room = longest_prompt(args, str(model.model_name_or_path), config.teacher)
    suffix = config.question_suffix
    questions, bad = question_rows(problems, prompter, suffix=suffix, longest_prompt=room)
    check_rejected("problems", len(questions), bad, config.max_rejected_fraction)
    asked = [with_suffix(question.problem.question, suffix) for question in questions]
    check_template(prompter, tokenizer, asked, allow_other=config.allow_other_template)
    rows, alone = questions, []
    if config.traces is not None:
        traces = read_attempts(config.traces, "traces")
        refuse_eval_rows([trace.problem for trace in traces], config.traces)
        rows, bad_traces, alone = trace_rows(questions, traces, prompter, suffix=suffix, longest=longest)
        check_rejected("traces", len(rows), bad_traces, config.max_rejected_fraction)
        bad = [*bad, *bad_traces]
    if args.process_index == 0:
        _report(folder, bad, alone)
    needed = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    if len(rows) < needed:
        raise ValueError(
            f"{'problems' if config.traces is None else 'traces'}: {len(rows)} rows are fewer than the "
            f"{needed} of an optimizer step, and nothing would be trained; take more of them, or lower "
            "per_device_train_batch_size or gradient_accumulation_steps"
        )
    held_out = held_out_rows(config, prompter, questions, room)
    return rows, held_out, len(bad) + len(alone)


def _report(folder: Path, bad: list[Rejected], alone: list[Rejected]) -> None:
    """Write and tell of what is left out."""
    write_rejected(folder, [*bad, *alone])
    for row in bad:
        logger.warning("left out %s: %s: %s", row.id, row.rule, row.evidence)
    for rule, what in (("no_trace", "questions without trace"), ("no_question", "traces of other questions")):
        if count := sum(row.rule == rule for row in alone):
            logger.warning("left out %d %s", count, what)


def held_out_rows(
    config: DistillConfig, prompter: Prompter, trained: list[DistillRow], room: int
) -> list[DistillRow]:
    """The held-out questions.

    Args:
        room: tokens of the longest prompt that can be asked.
    Raises:
        ValueError: one is trained on, none is there, or one cannot be asked.
    """
    if config.eval_problems is None:
        return []
    problems = read_held_out(config.eval_problems, config.eval_limit, trained)
    rows, bad = question_rows(problems, prompter, suffix=config.question_suffix, longest_prompt=room)
    check_rejected("eval_problems", len(rows), bad)
    return rows


def question_rows(
    problems: Sequence[Problem], prompter: Prompter, *, suffix: str, longest_prompt: int
) -> tuple[list[DistillRow], list[Rejected]]:
    """A row of each question, and the problems that cannot be asked (see `render_prompts`)."""
    prompts, bad = render_prompts(problems, prompter, longest_prompt, suffix)
    rows = [
        DistillRow(problem=problem, prompt=prompts[problem.id], columns={})
        for problem in problems
        if problem.id in prompts
    ]
    return rows, bad


def trace_rows(
    questions: Sequence[DistillRow],
    traces: Sequence[Attempt],
    prompter: Prompter,
    *,
    suffix: str,
    longest: int,
) -> tuple[list[DistillRow], list[Rejected], list[Rejected]]:
    """A row of each trace of the questions, rendered as stage sft does it.

    Args:
        longest: tokens of the longest completion that is trained on.
    Returns:
        the rows; traces that cannot be trained on (rules unrenderable, overlong); and what has no partner
        (rules no_trace of a question, no_question of a trace).
    Raises:
        ValueError: no trace is of one of the questions; or the chat template strips the thinking, or ends no
            trace with the end token.
    """
    asked = {question.problem.id: question for question in questions}
    if traces and not any(trace.problem.id in asked for trace in traces):
        raise ValueError(
            f"traces: none of the {len(traces)} is of one of the {len(questions)} questions in problems; "
            "give problems that the teacher was asked (with `limit:` only the first ones count)"
        )
    rows: list[DistillRow] = []
    bad: list[Rejected] = []
    alone: list[Rejected] = []
    for trace in traces:
        question = asked.get(trace.problem.id)
        if question is None:
            alone.append(rejected(attempt_row(trace), "no_question", "its question is not in problems"))
            continue
        try:
            target = _target(trace, question, prompter, suffix)
        except TemplateError:
            raise
        except ValueError as error:
            bad.append(rejected(attempt_row(trace), "unrenderable", str(error)))
            continue
        if target[-1] != prompter.tokenizer.eos_token_id:
            raise ValueError(
                f"eos_token: traces end with {prompter.tokenizer.decode([target[-1]])!r}, not with the end "
                f"token {prompter.tokenizer.eos_token!r}; set it to the token with which the chat template "
                "ends an answer"
            )
        if len(target) > longest:
            bad.append(
                rejected(
                    attempt_row(trace), "overlong", f"{len(target)} > max_completion_length {longest} tokens"
                )
            )
        else:
            rows.append(replace(question, target=target))
    traced = {trace.problem.id for trace in traces}
    alone += [
        rejected(problem_row(question.problem), "no_trace", "the teacher wrote nothing to it")
        for question in questions
        if question.problem.id not in traced
    ]
    return rows, bad, alone


def _target(trace: Attempt, question: DistillRow, prompter: Prompter, suffix: str) -> tuple[int, ...]:
    # not the trace's own question: one of the same id may be written otherwise
    text = with_suffix(question.problem.question, suffix)
    example = render_trace(prompter, text, trace.completion.thinking, trace.completion.response)
    target = tuple(label for label in example.labels if label != IGNORED)
    assert tuple(example.input_ids) == (*question.prompt.ids, *target)
    return target
