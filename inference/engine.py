"""The one protocol through which everything generates text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from data.schema import FinishReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EngineName = Literal["transformers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are chosen. Names and meanings are those of vLLM."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    stop: tuple[str, ...] = ()
    """Texts at which a completion ends; they stay in its text."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: {self.max_tokens} must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature: {self.temperature} must not be negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p} must be in (0, 1]")
        if self.top_k < 0:
            raise ValueError(f"top_k: {self.top_k} must not be negative; 0 keeps all tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One completion to generate: prompt ids and the seed of its own random stream."""

    prompt_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One generated sequence."""

    token_ids: list[int]
    """Generated tokens, the end token included where there is one."""
    logprobs: list[float]
    """Log-probability of each token under the model at temperature 1, before top-p and top-k."""
    text: str
    """Decoded tokens without the end token."""
    finish_reason: FinishReason


class Engine(Protocol):
    """Generates completions for many requests at once."""

    name: str
    """Model name, as recorded with every completion."""
    tokenizer: PreTrainedTokenizerBase
    max_model_tokens: int
    """Longest prompt + completion."""

    def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Yield batches of (index into `requests`, generation) as they finish, each index exactly once.

        The same request (prompt, seed) gets the same tokens whatever else is in the call, up to
        floating-point rounding of differently shaped batches; greedy requests ignore the seed.

        Raises:
            ValueError: a prompt is empty, or prompt + max_tokens exceeds `max_model_tokens`.
        """
        ...


def load_engine(
    engine: EngineName, model: str, *, dtype: str, batch_size: int, trust_remote_code: bool = False
) -> Engine:
    """Load a model into an engine.

    Raises:
        ValueError: the model folder is incomplete or the model cannot be found.
    """
    from inference.transformers_engine import TransformersEngine

    assert engine == "transformers"
    return TransformersEngine(model, dtype=dtype, batch_size=batch_size, trust_remote_code=trust_remote_code)
