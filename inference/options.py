"""Fields that every stage has which generates text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from data.prompts import PromptStyle
from data.sources import parse_source
from data.thinking import thinking_format
from inference.budget import Budget
from inference.engine import EngineOptions, SamplingParams
from rewards.policy import parse_policy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(kw_only=True)
class GenerationOptions(EngineOptions):
    """How completions are generated; shared by every stage that generates."""

    max_tokens: int = 1024
    """Longest completion."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus sampling; 1 keeps everything."""
    top_k: int = 0
    """0 keeps everything."""
    bad_words: list[str] = field(default_factory=list)
    """Words that are never generated, each one token of the tokenizer; other tokens that hold the same text
    stay possible. Engine openai needs a server that knows logit_bias."""
    prompt_style: PromptStyle = "direct"
    """direct, zero_shot_cot, few_shot, r1_zero, tinyzero or s1 (see data/prompts.py)."""
    system_prompt: str | None = None
    """System message; the chat template's own default where it is not given."""
    few_shot: list[dict] = field(default_factory=list)
    """Worked examples of prompt_style few_shot: `question` and `response` of each, or sources with
    solutions."""
    thinking_format: str = "think_tags"
    """think_tags, answer_tags, s1 or s1_steps: how thinking and response are told apart."""
    question_suffix: str = ""
    """Text behind every question, for example "Think for up to 1024 tokens."."""
    max_thinking_tokens: int | None = None
    """Budget forcing: at most so many thinking tokens, then the answer is asked for. This,
    min_thinking_tokens or waits turn budget forcing on (inference/budget.py)."""
    min_thinking_tokens: int = 0
    """Budget forcing: the thinking may not end before."""
    waits: int = 0
    """Budget forcing: how many ends of the thinking are ignored."""
    wait_text: str = "Wait"
    """Budget forcing: what stands in the place of an ignored end; may be empty."""
    answer_tokens: int = 512
    """Budget forcing: tokens of max_tokens that are kept for the answer."""
    resample_longer_than: int | None = None
    """Length rejection sampling: a completion that thinks longer is drawn again."""
    resample_tries: int = 16
    """Draws of one completion in length rejection sampling; the last one stays."""
    policy: dict[str, Any] = field(default_factory=dict)
    """What counts as a right answer where people disagree: options of rewards/policy.py."""
    seed: int = 0
    """Every completion's own seed follows from this, its problem and its index."""

    def __post_init__(self) -> None:
        EngineOptions.__post_init__(self)
        thinking_format(self.thinking_format)
        parse_policy(self.policy)
        self._sampling()
        self.budget()
        if self.resample_longer_than is not None and (self.temperature == 0 or self.resample_tries < 1):
            raise ValueError(
                "resample_longer_than: needs temperature above 0 and resample_tries of 1 or more"
            )
        if (self.prompt_style == "few_shot") != bool(self.few_shot):
            raise ValueError("few_shot: give examples exactly when prompt_style is few_shot")
        for index, entry in enumerate(self.few_shot):
            if not is_inline(entry):
                parse_source(entry, f"few_shot[{index}]")

    def sampling(self, tokenizer: PreTrainedTokenizerBase) -> SamplingParams:
        """How the tokens of this tokenizer's model are chosen.

        Raises:
            ValueError: see `bad_ids`.
        """
        return replace(self._sampling(), banned_ids=bad_ids(tokenizer, self.bad_words))

    def _sampling(self) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.max_tokens, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k
        )

    def budget(self) -> Budget | None:
        """The budget of every completion; None where none is asked for."""
        if self.max_thinking_tokens is None and not self.min_thinking_tokens and not self.waits:
            return None
        if self.resample_longer_than is not None:
            raise ValueError("resample_longer_than: is another control than budget forcing; use one of them")
        budget = Budget(
            max_thinking_tokens=self.max_thinking_tokens,
            min_thinking_tokens=self.min_thinking_tokens,
            waits=self.waits,
            wait_text=self.wait_text,
            answer_tokens=self.answer_tokens,
        )
        budget.room(self.max_tokens)
        return budget


def is_inline(entry: dict) -> bool:
    """Whether a few-shot entry is an example itself, not a source of examples."""
    return set(entry) == {"question", "response"}


def bad_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> tuple[int, ...]:
    """The token of each word, and that of the word behind a space where this is one token too (as vLLM does,
    vllm@v0.31.0:vllm/sampling_params.py).

    Raises:
        ValueError: a word is not one token.
    """
    banned: dict[int, None] = {}
    for word in words:
        token = _single_token(tokenizer, word)
        if token is None:
            raise ValueError(
                f"bad_words: {word!r} is not one token of the tokenizer, so that it cannot be kept out; "
                "give words that are one token"
            )
        spaced = _single_token(tokenizer, " " + word.lstrip())
        banned |= dict.fromkeys(id for id in (token, spaced) if id is not None)
    return tuple(banned)


def _single_token(tokenizer: Any, text: str) -> int | None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids[0] if len(ids) == 1 and tokenizer.decode(ids) == text else None
