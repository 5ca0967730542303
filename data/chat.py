"""Traces as token ids with an exact loss mask.

The prompt is tokenised exactly as at sampling time and the target by itself, so that what is trained is what
is later generated. The loss covers the target: thinking, answer and the end token.
"""

from __future__ import annotations

from dataclasses import dataclass

from data.prompts import Prompter, refuse_special_tokens

IGNORED = -100
"""Label of a token without loss (PyTorch's cross entropy ignores it)."""


class TemplateError(ValueError):
    """The chat template cannot render traces: no row of the data would do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One training row. `labels[i]` is `input_ids[i]`, or IGNORED where there is no loss."""

    input_ids: list[int]
    labels: list[int]


def render_trace(prompter: Prompter, question: str, thinking: str, response: str) -> Example:
    """Token ids and labels of one trace.

    Raises:
        ValueError: the texts contain tags or special tokens.
        TemplateError: the chat template strips or changes the thinking.
    """
    tokenizer = prompter.tokenizer
    form, plain = prompter.thinking_format, thinking
    for token in form.inside:
        plain = plain.replace(token, "\n")
    for what, text in (("thinking", plain), ("response", response)):
        refuse_special_tokens(tokenizer, text, what)
    prompt = prompter.prompt(question)
    target = form.render(thinking, response)
    end = _end_text(prompter, question, prompt.text.removesuffix(prompt.prefill), target)
    ids = tokenizer(target.removeprefix(prompt.prefill) + end, add_special_tokens=False)["input_ids"]
    return Example(input_ids=[*prompt.ids, *ids], labels=[IGNORED] * len(prompt.ids) + list(ids))


def _end_text(prompter: Prompter, question: str, prompt: str, target: str) -> str:
    """What follows the target in the full conversation: the end token as text."""
    if not prompter.is_chat:
        return str(prompter.tokenizer.eos_token)
    messages = [*prompter.messages(question), {"role": "assistant", "content": target}]
    conversation = prompter.apply_template(messages, generate=False)
    if not conversation.startswith(prompt + target):
        raise TemplateError(
            "the chat template strips or changes the thinking (it does not render the target as it is); give "
            "a template that keeps it with `chat_template_path:`"
        )
    return conversation[len(prompt + target) :].rstrip()


def coloured(prompter: Prompter, example: Example) -> str:
    """An example as terminal text: tokens with loss in green, without loss dimmed, one `|` between tokens."""
    parts = []
    for token, label in zip(example.input_ids, example.labels, strict=True):
        text = (
            str(prompter.tokenizer.decode([token])).encode("unicode_escape").decode().replace("\\n", "\\n\n")
        )
        parts.append(f"\x1b[{2 if label == IGNORED else 32}m{text}\x1b[0m")
    return "|".join(parts)
