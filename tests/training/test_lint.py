from __future__ import annotations

import copy
from typing import Any

import pytest

from data.chat import TemplateError
from data.prompts import Prompter
from data.schema import Attempt, Completion, Problem, problem_id
from data.thinking import THINK_TAGS
from training.lint import lint, render_traces


def trace(question: str = "1+1?", thinking: str = "one and one", response: str = "2") -> Attempt:
    completion = Completion(
        text="",
        thinking=thinking,
        response=response,
        finish_reason="stop",
        prompt_tokens=0,
        thinking_tokens=0,
        completion_tokens=0,
        model="m",
        seed=0,
    )
    problem = Problem(id=problem_id(question), question=question, answer="2")
    return Attempt(problem=problem, index=0, completion=completion, verdict="correct", extracted="2")


@pytest.fixture
def prompter(tokenizer: Any) -> Prompter:
    own = copy.deepcopy(tokenizer)
    own.pad_token = "<|fim_pad|>"
    return Prompter(tokenizer=own, style="direct", thinking_format=THINK_TAGS)


def test_a_good_set_passes_and_an_example_is_shown(
    prompter: Prompter, capsys: pytest.CaptureFixture[str]
) -> None:
    rendered = render_traces(prompter, [trace()], max_length=512)
    lint(prompter, rendered, max_overlong_fraction=0)
    assert "\x1b[32m" in capsys.readouterr().out


def test_pad_equal_to_end_is_refused(prompter: Prompter) -> None:
    prompter.tokenizer.pad_token = prompter.tokenizer.eos_token
    rendered = render_traces(prompter, [trace()], max_length=512)
    with pytest.raises(ValueError, match=r"pad_token: .* is also the end token.*pad_token: '<\|fim_pad\|>'"):
        lint(prompter, rendered, max_overlong_fraction=0)


def test_loss_without_end_token_is_refused(prompter: Prompter) -> None:
    """Qwen2.5 base: the template ends answers with <|im_end|>, the tokenizer's end token is <|endoftext|>."""
    prompter.tokenizer.eos_token = "<|endoftext|>"
    rendered = render_traces(prompter, [trace()], max_length=512)
    with pytest.raises(
        ValueError, match=r"the loss ends with '<\|im_end\|>', not with the end token.*eos_token"
    ):
        lint(prompter, rendered, max_overlong_fraction=0)


def test_template_without_end_token_is_refused(prompter: Prompter) -> None:
    template = str(prompter.tokenizer.chat_template)
    prompter.tokenizer.chat_template = template.replace("+ '<|im_end|>'", "")
    rendered = render_traces(prompter, [trace()], max_length=512)
    with pytest.raises(ValueError, match="not with the end token"):
        lint(prompter, rendered, max_overlong_fraction=0)


def test_overlong_traces_are_rejected_and_too_many_refused(prompter: Prompter) -> None:
    traces = [trace(), trace("2+2?", thinking="long " * 300)]
    rendered = render_traces(prompter, traces, max_length=200)
    assert len(rendered.examples) == 1
    assert [row.rule for row in rendered.rejected] == ["overlong"]
    lint(prompter, rendered, max_overlong_fraction=0.5)
    with pytest.raises(ValueError, match="1 of 2 traces are longer"):
        lint(prompter, rendered, max_overlong_fraction=0.49)


def test_unrenderable_traces_are_rejected_with_the_reason(prompter: Prompter) -> None:
    rendered = render_traces(prompter, [trace(), trace("3?", thinking="a </think> b")], max_length=None)
    assert len(rendered.examples) == 1
    assert rendered.rejected[0].rule == "unrenderable"
    assert "</think>" in rendered.rejected[0].evidence
    with pytest.raises(ValueError, match="no trace can be trained on"):
        render_traces(prompter, [trace(response="<|im_end|>")], max_length=None)


def test_a_template_that_strips_thinking_stops_the_run(prompter: Prompter) -> None:
    template = str(prompter.tokenizer.chat_template)
    prompter.tokenizer.chat_template = template.replace(
        "message.content +", "message.content.split('</think>')[-1] +"
    )
    with pytest.raises(TemplateError, match="chat_template_path"):
        render_traces(prompter, [trace()], max_length=None)
