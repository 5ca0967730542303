"""What a distillation run trains on: questions, and where the teacher wrote them its completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.chat import IGNORED, TemplateError, render_trace
from data.prompts import Prompter, with_suffix
from data.schema import Attempt, Problem, Rejected, attempt_row, problem_row, rejected
from inference.draw import render_prompts
from training.questions import Question


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillRow(Question):
    """A question as the student is asked it."""

    target: tuple[int, ...] | None = None
    """The teacher's recorded completion with its end token, behind the prompt's tokens."""


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
