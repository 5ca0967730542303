"""How a question becomes a prompt: one rendering for training, sampling, evaluation and search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from data.thinking import ThinkingFormat, thinking_format

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptStyle = Literal["direct", "zero_shot_cot", "few_shot", "r1_zero", "tinyzero", "s1"]

STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."
R1_ZERO_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
    "answer. The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
    "tags, "
    "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>. "
    "User: {question}. Assistant:"
)
"""DeepSeek-R1 (arXiv 2501.12948), table 1."""
TINYZERO_TEMPLATE = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. "
    "The assistant first thinks about the reasoning process in the mind and then provides the user with the "
    "answer.\n"
    "User: {question} Show your work in <think> </think> tags. And return the final answer in "
    "<answer> </answer> tags, for example <answer> (1 + 2) / 3 </answer>.\n"
    "Assistant: Let me solve this step by step.\n<think>"
)
"""Jiayi-Pan/TinyZero@95df88f:examples/data_preprocess/countdown.py, its `base` template; there the question
is "Using the numbers [44, 19, 35], create an equation that equals 98. You can use basic arithmetic operations
(+, -, *, /) and each number can only be used once."."""
PLAIN_TEMPLATES = {"r1_zero": R1_ZERO_TEMPLATE, "tinyzero": TINYZERO_TEMPLATE}
"""Styles that are plain text and not a chat, for base models."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A rendered prompt."""

    text: str
    prefill: str
    """End of `text` that belongs to the completion: the thinking's opening, where the prompt already has
    it."""
    ids: tuple[int, ...]


class PromptOptions(Protocol):
    """Fields that say in a stage's config how questions are put."""

    prompt_style: PromptStyle
    thinking_format: str
    system_prompt: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompter:
    """Renders questions for one tokenizer in one style.

    direct: the question alone. zero_shot_cot: the question and "reason step by step". few_shot: `examples`
    before the question. r1_zero: the paper's plain-text template, for base models. tinyzero: that of
    TinyZero, which opens the thinking. s1: direct, with the thinking already opened. All but r1_zero and
    tinyzero go through the tokenizer's chat template; a tokenizer without one gets `Question: .. Answer: ..`.
    """

    tokenizer: PreTrainedTokenizerBase
    style: PromptStyle
    thinking_format: ThinkingFormat
    system_prompt: str | None = None
    examples: Sequence[tuple[str, str]] = ()
    """(question, worked answer) pairs of the few_shot style."""

    def __post_init__(self) -> None:
        if (self.style == "few_shot") != bool(self.examples):
            raise ValueError("prompt_style few_shot needs examples, and no other style takes them")

    @classmethod
    def of(
        cls,
        options: PromptOptions,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[tuple[str, str]] = (),
    ) -> Prompter:
        """As a stage's config says."""
        return cls(
            tokenizer=tokenizer,
            style=options.prompt_style,
            thinking_format=thinking_format(options.thinking_format),
            system_prompt=options.system_prompt,
            examples=examples,
        )

    def prompt(self, question: str) -> Prompt:
        """Render one question.

        Raises:
            ValueError: the question contains a special token of the tokenizer.
        """
        refuse_special_tokens(self.tokenizer, question, "question")
        text = self._text(question)
        start = self.thinking_format.start
        if self.style == "s1" and not text.endswith(start):
            text += start
        # a template may open the thinking without the line break that the format has there
        prefill = next((opening for opening in (start, start.rstrip()) if text.endswith(opening)), "")
        ids = self.tokenizer(text, add_special_tokens=not self.is_chat)["input_ids"]
        return Prompt(text=text, prefill=prefill, ids=tuple(ids))

    @property
    def is_chat(self) -> bool:
        return self.style not in PLAIN_TEMPLATES and self.tokenizer.chat_template is not None

    def messages(self, question: str) -> list[dict[str, str]]:
        """The conversation up to and with the question."""
        asked = f"{question}\n\n{STEP_BY_STEP}" if self.style == "zero_shot_cot" else question
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt is not None else []
        shots = [
            {"role": role, "content": content}
            for pair in self.examples
            for role, content in zip(("user", "assistant"), pair, strict=True)
        ]
        return [*system, *shots, {"role": "user", "content": asked}]

    def apply_template(self, messages: list[dict[str, str]], *, generate: bool) -> str:
        rendered: Any = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=generate
        )
        return rendered

    def _text(self, question: str) -> str:
        if self.style in PLAIN_TEMPLATES:
            return PLAIN_TEMPLATES[self.style].format(question=question)
        messages = self.messages(question)
        if self.is_chat:
            return self.apply_template(messages, generate=True)
        names = {"system": "", "user": "Question: ", "assistant": "Answer: "}
        return "\n\n".join(names[m["role"]] + m["content"] for m in messages) + "\n\nAnswer:"


def with_suffix(question: str, suffix: str) -> str:
    """What is asked: the question, and the recipe's `question_suffix` behind it."""
    return f"{question} {suffix}".strip()


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Texts that the tokenizer turns into control tokens."""
    added = {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def refuse_special_tokens(tokenizer: PreTrainedTokenizerBase, text: str, what: str) -> None:
    """Refuse text that would become control tokens, such as `<|im_end|>` inside a question.

    Raises:
        ValueError: names the token.
    """
    for token in special_tokens(tokenizer):
        if token in text:
            raise ValueError(f"{what} contains the special token {token!r} of the tokenizer")
