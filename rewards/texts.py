"""What a completion says: its text and its thinking, whichever form TRL hands it over in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data.thinking import Split, ThinkingFormat, thinking_format

Turn = str | Sequence[dict[str, Any]]
"""A completion as TRL gives it to a reward: a text, or for conversational prompts a list of messages."""
FROM_TRAINER = (
    *("prompt", "completion", "prompts", "completions", "completion_ids"),
    *("trainer_state", "log_extra", "log_metric", "environments"),
)
"""What TRL itself gives to rewards beside the dataset's columns."""
_SEPARATED = ("reasoning_content", "thinking")


def completion_text(completion: Turn) -> str:
    """Text of one completion: of a conversation, the content of its last message.

    Raises:
        ValueError: the thinking was already parsed out of the content, so its format cannot be judged.
    """
    if isinstance(completion, str):
        return completion
    message = completion[-1]
    for key in _SEPARATED:
        if message.get(key):
            raise ValueError(
                f"completions keep their thinking in {key!r}, apart from the content, since the tokenizer "
                "parses responses; set its response_template and response_schema to None"
            )
    return message.get("content") or ""


def written_text(completion: Turn, form: ThinkingFormat, prefilled: bool) -> str:
    """`completion_text`, behind the thinking's opening where the chat template had already written that."""
    text = completion_text(completion)
    return form.start + text if prefilled else text


def graded_text(split: Split, form: ThinkingFormat) -> str:
    """What the verifier reads: the response, in its answer tags where the format has them and they were
    whole."""
    return (
        f"<answer>{split.response}</answer>" if split.complete and "<answer>" in form.tags else split.response
    )


def splits(completions: Sequence[Turn], format_name: str, prefilled: bool = False) -> list[Split]:
    """Thinking and response of each completion."""
    form = thinking_format(format_name)
    return [form.split(written_text(completion, form, prefilled)) for completion in completions]
