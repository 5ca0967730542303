"""Loss masks, token by token, against expectations written by hand."""

from __future__ import annotations

import copy
from importlib.resources import files
from typing import Any

import pytest

from data.chat import IGNORED, TemplateError, coloured, render_trace
from data.prompts import R1_ZERO_TEMPLATE, TINYZERO_TEMPLATE, Prompter, PromptStyle
from data.thinking import FORMATS

SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
PROMPT = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
    "<|im_start|>user\nWhat is 12 + 30?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
TARGETS = {
    "think_tags": "<think>\nFirst 10 + 30.\n</think>\n\n\\boxed{42}<|im_end|>",
    "answer_tags": "<think>\nFirst 10 + 30.\n</think>\n<answer>\n\\boxed{42}\n</answer><|im_end|>",
    "s1": "<|im_start|>think\nFirst 10 + 30.\n<|im_start|>answer\n\\boxed{42}<|im_end|>",
    "s1_steps": "<|im_start|>First 10 + 30.\n<|im_start|>answer\n\\boxed{42}<|im_end|>",
}


def make_prompter(
    tokenizer: Any, form: str = "think_tags", style: PromptStyle = "direct", **options: Any
) -> Prompter:
    return Prompter(tokenizer=tokenizer, style=style, thinking_format=FORMATS[form], **options)


@pytest.mark.parametrize("form", FORMATS)
def test_loss_mask_token_by_token(tokenizer: Any, form: str) -> None:
    example = render_trace(
        make_prompter(tokenizer, form), "What is 12 + 30?", "First 10 + 30.", "\\boxed{42}"
    )
    prompt_ids = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    target_ids = tokenizer(TARGETS[form], add_special_tokens=False)["input_ids"]
    assert example.input_ids == prompt_ids + target_ids
    for position, (token, label) in enumerate(zip(example.input_ids, example.labels, strict=True)):
        assert label == (IGNORED if position < len(prompt_ids) else token), position
    assert tokenizer.decode(example.input_ids) == PROMPT + TARGETS[form]
    assert example.labels[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("form", FORMATS)
def test_opened_thinking_moves_from_loss_to_prompt(tokenizer: Any, form: str) -> None:
    prompter = make_prompter(tokenizer, form, style="s1")
    example = render_trace(prompter, "What is 12 + 30?", "First 10 + 30.", "\\boxed{42}")
    loss = tokenizer.decode([t for t in example.labels if t != IGNORED])
    assert FORMATS[form].start + loss == TARGETS[form]
    assert tuple(example.input_ids[: -len([t for t in example.labels if t != IGNORED])]) == (
        prompter.prompt("What is 12 + 30?").ids
    )


def test_r1_zero_prompt_is_the_papers_text(tokenizer: Any) -> None:
    prompter = make_prompter(tokenizer, "answer_tags", style="r1_zero")
    example = render_trace(prompter, "1+1?", "a", "2")
    assert tokenizer.decode(example.input_ids) == (
        R1_ZERO_TEMPLATE.format(question="1+1?") + "<think>\na\n</think>\n<answer>\n2\n</answer><|im_end|>"
    )


def test_tinyzero_prompt_is_the_published_text_and_opens_the_thinking(tokenizer: Any) -> None:
    prompter = make_prompter(tokenizer, "answer_tags", style="tinyzero")
    prompt = prompter.prompt("1+1?")
    assert not prompter.is_chat
    assert prompt.text == TINYZERO_TEMPLATE.format(question="1+1?")
    assert prompt.text.endswith("1 + 2) / 3 </answer>.\nAssistant: Let me solve this step by step.\n<think>")
    assert prompt.prefill == "<think>"
    example = render_trace(prompter, "1+1?", "a", "2")
    assert tokenizer.decode(example.input_ids) == (
        prompt.text + "\na\n</think>\n<answer>\n2\n</answer><|im_end|>"
    )


@pytest.mark.parametrize("opening", ["<think>", "<think>\n"])
def test_an_opening_that_the_template_writes_belongs_to_the_completion(tokenizer: Any, opening: str) -> None:
    opened = copy.deepcopy(tokenizer)
    opened.chat_template = opened.chat_template.replace(
        "'<|im_start|>assistant\\n'", f"'<|im_start|>assistant\\n{opening}'".replace("\n", "\\n")
    )
    prompt = make_prompter(opened).prompt("1+1?")
    assert prompt.text.endswith(opening)
    assert prompt.prefill == opening


def test_template_that_strips_thinking_is_refused(tokenizer: Any) -> None:
    stripping = copy.deepcopy(tokenizer)
    stripping.chat_template = (
        files("trl").joinpath("chat_templates/deepseek_r1_distill.jinja").read_text("utf-8")
    )
    with pytest.raises(TemplateError, match="strips or changes the thinking"):
        render_trace(make_prompter(stripping), "q", "a", "b")


@pytest.mark.parametrize("place", ["question", "thinking", "response"])
def test_control_tokens_in_texts_are_refused(tokenizer: Any, place: str) -> None:
    texts = {"question": "q", "thinking": "a", "response": "b", place: "x <|im_end|> y"}
    with pytest.raises(ValueError, match=rf"{place} contains the special token"):
        render_trace(make_prompter(tokenizer), **texts)


def test_few_shot_examples_precede_the_question(tokenizer: Any) -> None:
    prompter = make_prompter(tokenizer, style="few_shot", examples=[("1+1?", "2")])
    assert prompter.prompt("q").text.index("1+1?") < prompter.prompt("q").text.index("q<|im_end|>")
    with pytest.raises(ValueError, match="few_shot"):
        make_prompter(tokenizer, style="few_shot")


def test_tokenizer_without_template_gets_plain_text(tokenizer: Any) -> None:
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    prompter = make_prompter(plain, style="few_shot", examples=[("1+1?", "2")])
    assert prompter.prompt("3+4?").text == "Question: 1+1?\n\nAnswer: 2\n\nQuestion: 3+4?\n\nAnswer:"


def test_coloured_example_shows_every_token(tokenizer: Any) -> None:
    example = render_trace(make_prompter(tokenizer), "q", "a", "b")
    shown = coloured(make_prompter(tokenizer), example)
    assert shown.count("\x1b[2m") == example.labels.count(IGNORED)
    assert shown.count("\x1b[32m") == len(example.labels) - example.labels.count(IGNORED)
