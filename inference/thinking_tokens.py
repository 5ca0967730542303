"""How many tokens a completion thinks: the one place that counts them.

Thinking tokens are the generated (and forced) ones before the tag that ends the thinking and its line break.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from data.thinking import ThinkingFormat
from inference.engine import Generation


def tokens_within(tokenizer: Any, ids: Sequence[int], characters: int) -> int:
    """How many of the first tokens have a text of at most so many characters."""
    lengths = range(1, len(ids) + 1)
    return bisect_right(lengths, characters, key=lambda n: len(str(tokenizer.decode(list(ids[:n])))))


def count_thinking(tokenizer: Any, generation: Generation, prefill: str, form: ThinkingFormat) -> int:
    """Thinking tokens of a generation: those before the tag that ends the thinking, all where none does, 0
    where there is no thinking.

    Args:
        prefill: the end of the prompt that belongs to the completion's text (`data.prompts.Prompt.prefill`).
    """
    split = form.split(prefill + generation.text)
    if not split.thinking_end:
        ended = generation.finish_reason == "stop" and generation.stop_reason is None
        return len(generation.token_ids) - ended if split.thinking else 0
    tag = split.thinking_end - len(form.end_of_thinking) - len(prefill)
    return tokens_within(tokenizer, generation.token_ids, end_of_text(generation.text, tag, form))


def end_of_text(text: str, tag: int, form: ThinkingFormat) -> int:
    """Where the thinking ends, given the place of the tag: before the line break that belongs to the tag."""
    return tag - (form.middle.startswith("\n") and text[:tag].endswith("\n"))
