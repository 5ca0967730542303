"""How a process reward model reads a solution: token ids, and where each step is judged.

The one place for separator handling; labels, training and scoring all go through `encode`. What is judged
behind a step depends on nothing that follows it: the ids of some steps begin the ids of more steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from data.prompts import Prompter, special_tokens
from data.thinking import THINK_TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True, slots=True)
class StepIds:
    """A solution as a reward model reads it."""

    ids: list[int]
    ends: list[int]
    """Index in `ids` of the token at which each step is judged, increasing."""


class StepFormat(Protocol):
    """How questions and steps become token ids."""

    def encode(self, question: str, steps: Sequence[str]) -> StepIds:
        """Token ids of a question with some steps, and where each step is judged.

        For any k, encode(question, steps[:k]) begins encode(question, steps) up to and with ends[k - 1].

        Raises:
            ValueError: a blank step, or a special token in a text.
        """
        ...


@dataclass(kw_only=True)
class StepFormatOptions:
    """Fields of stages that train or load a reward model of this project; saved with its weights."""

    step_separator: str = "\n\n"
    """What a solution is split at into steps."""
    step_marker: str = ""
    """Text whose tokens stand behind each step, at the last of which it is judged: a token of its own such as
    <extra_0>, or a line break; empty: step_separator."""
    system_prompt: str | None = None
    """System message; the chat template's own default where it is not given."""

    def __post_init__(self) -> None:
        if not self.step_separator:
            raise ValueError('step_separator: is empty; "\\n\\n" makes each paragraph a step')


class StepTexts:
    """What a model reads of steps: their texts without the blanks around them.

    Args:
        tags: further texts that no step may have.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *tags: str) -> None:
        refused = [*special_tokens(tokenizer), *tags]
        self.refused = re.compile("|".join(map(re.escape, refused)) or "(?!)")

    def __call__(self, steps: Sequence[str]) -> list[str]:
        """The texts.

        Raises:
            ValueError: a step is blank or has a special token.
        """
        texts = [step.strip() for step in steps]
        for step, text in zip(steps, texts, strict=True):
            if not text:
                raise ValueError(f"a step has no text: {step!r}")
            if found := self.refused.search(text):
                raise ValueError(f"a step contains the special token {found.group()!r} of the tokenizer")
        return texts


class MarkerFormat:
    """The question as a chat, then each step with the marker behind it.

    Step and marker are tokenised apart, so that no token of a step depends on what follows it (as in TRL
    1.13's PRMTrainer). With `<extra_0>` and Qwen's system prompt it is the format of Qwen2.5-Math-PRM.

    Raises:
        ValueError: the tokenizer makes no token of the marker.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, options: StepFormatOptions) -> None:
        self.tokenizer: Any = tokenizer
        self.prompter = Prompter(
            tokenizer=tokenizer,
            style="direct",
            thinking_format=THINK_TAGS,
            system_prompt=options.system_prompt,
        )
        self.prompt_ids = lru_cache(maxsize=64)(lambda question: self.prompter.prompt(question).ids)
        self.texts = StepTexts(tokenizer)
        self.marker = options.step_marker or options.step_separator
        [self.marker_ids] = self._ids([self.marker])
        if not self.marker_ids:
            raise ValueError(f"step_marker: the tokenizer makes no token of {self.marker!r}")

    def encode(self, question: str, steps: Sequence[str]) -> StepIds:
        """See `StepFormat.encode`."""
        texts = self.texts(steps)
        ids, ends = list(self.prompt_ids(question)), []
        for step_ids in self._ids(texts) if texts else []:
            ids += step_ids + self.marker_ids
            ends.append(len(ids) - 1)
        return StepIds(ids=ids, ends=ends)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
