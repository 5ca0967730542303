"""The one protocol through which everything generates text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from data.schema import FinishReason

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EngineName = Literal["transformers", "vllm", "openai"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are chosen and where a completion ends. Names and meanings are those of vLLM."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps all tokens."""
    stop: tuple[str, ...] = ()
    """Texts at which a completion ends; they stay in its text."""
    banned_ids: tuple[int, ...] = ()
    """Tokens that are never generated."""
    logprobs: bool = False
    """Whether generations carry the log-probability of each token."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens: {self.max_tokens} must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature: {self.temperature} must not be negative; 0 is greedy")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: {self.top_p} must be in (0, 1]")
        if self.top_k < 0:
            raise ValueError(f"top_k: {self.top_k} must not be negative; 0 keeps all tokens")
        if "" in self.stop:
            raise ValueError("stop: holds an empty text, which would end every completion at once")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One completion to generate."""

    prompt_ids: tuple[int, ...]
    params: SamplingParams
    seed: int = 0
    """Of its own random stream, which depends on the length of the prompt too, so that what follows a
    generation may keep its seed; greedy requests ignore it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One generated sequence."""

    token_ids: list[int]
    """Generated tokens, the end token included where there is one, up to the token that completes a stop."""
    text: str
    """Decoded tokens without the end token, up to and with the stop text."""
    finish_reason: FinishReason
    stop_reason: str | None = None
    """The stop text that ended it; None for the end token or the limit (as in vLLM)."""
    logprobs: list[float] | None = None
    """Log-probability of each token under the model at temperature 1, before top-p and top-k, where asked."""


Follow = Callable[[int, Generation], Request | None]
"""What comes after a finished generation: the request that goes on in its place, or None to yield it."""


class Engine(Protocol):
    """Generates completions for many requests at once."""

    name: str
    """Model name, as recorded with every completion."""
    tokenizer: PreTrainedTokenizerBase
    max_model_tokens: int
    """Longest prompt + completion."""
    has_logprobs: bool
    """Whether generations can carry log-probabilities."""
    repeatable: bool
    """Whether the same call gives the same tokens; then an interrupted call is made again as a whole, since a
    part of it might be rounded in another way."""

    def check(self, requests: Sequence[Request]) -> None:
        """Refuse what this engine cannot answer: `check_requests`, and limits of its own.

        Raises:
            ValueError: names the request and the limit.
        """
        ...

    def generate(
        self, requests: Sequence[Request], follow: Follow | None = None
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Yield lists of (index into `requests`, generation) as they finish, each index exactly once.

        The same request gets the same tokens whatever else is in the call, up to floating-point rounding of
        differently shaped batches. Tokens that the tokenizer does not know are never generated.

        Args:
            follow: called with every generation as it finishes. A request that it returns goes on at once in
                the same place while others are still being generated, and what its prompt shares with the
                sequence so far is not computed again (tree search, budget forcing); the generation is not
                yielded.
        Raises:
            ValueError: `check`, before anything is generated; or a following request does not fit.
        """
        ...


def check_requests(engine: Engine, requests: Sequence[Request]) -> None:
    """Refuse what an engine cannot answer.

    Raises:
        ValueError: a prompt is empty, prompt + max_tokens exceeds `max_model_tokens`, or log-probabilities
            are asked of an engine that has none.
    """
    for index, request in enumerate(requests):
        length, wanted = len(request.prompt_ids), request.params.max_tokens
        if not length:
            raise ValueError(f"request {index}: the prompt is empty")
        if length + wanted > engine.max_model_tokens:
            raise ValueError(
                f"request {index}: prompt of {length} + {wanted} max_tokens does not fit the "
                f"{engine.max_model_tokens} tokens of {engine.name}"
            )
        if request.params.logprobs and not engine.has_logprobs:
            raise ValueError(f"logprobs: {engine.name} gives none through this engine")


def check_prefix_cache_tokens(tokens: int) -> None:
    """Refuse a negative bound.

    Raises:
        ValueError: it is negative.
    """
    if tokens < 0:
        raise ValueError(f"prefix_cache_tokens: {tokens} must not be negative; 0 keeps none")


@dataclass(kw_only=True)
class EngineOptions:
    """Which engine generates, with which model; shared by every stage that generates."""

    model_name_or_path: str
    """Folder or hub id of the model; for engine openai the name that the server knows it by."""
    engine: EngineName = "transformers"
    """transformers, vllm (in this process) or openai (any OpenAI-compatible server)."""
    dtype: str = "auto"
    """Weights: auto (as stored), float32, bfloat16, float16."""
    batch_size: int = 32
    """Rows that are generated together (engine openai: requests under way at once)."""
    max_kv_tokens: int | None = None
    """Tokens whose keys and values may be in memory at once (engine transformers); null: batch_size times
    the longest row, as the rows grow."""
    prefix_cache_tokens: int = 0
    """Tokens whose keys and values are kept of finished completions, besides max_kv_tokens, so that prompts
    that begin alike are not computed again (engine transformers; for tree search). 0: none. Engines vllm and
    openai ignore it: vLLM and servers have prefix caching of their own."""
    trust_remote_code: bool = False
    """Whether code from the model's repository may run."""
    engine_options: dict = field(default_factory=dict)
    """Further arguments of the engine: those of vllm.LLM (engine vllm: tensor_parallel_size, ...), or
    base_url, tokenizer, api_key_env, timeout_seconds, retries, patience_seconds and max_model_tokens
    (engine openai)."""

    def __post_init__(self) -> None:
        check_prefix_cache_tokens(self.prefix_cache_tokens)


def load_engine(options: EngineOptions) -> Engine:
    """Load a model into an engine.

    Raises:
        ValueError: the model folder is incomplete, the model cannot be found, or a bad `engine_options`.
    """
    model, trust = options.model_name_or_path, options.trust_remote_code
    if options.engine == "openai":
        from inference.openai_engine import OpenAIEngine

        return OpenAIEngine(
            model, concurrency=options.batch_size, options=options.engine_options, trust_remote_code=trust
        )
    if options.engine == "vllm":
        from inference.vllm_engine import VLLMEngine

        return VLLMEngine(model, dtype=options.dtype, options=options.engine_options, trust_remote_code=trust)
    if options.engine_options:
        raise ValueError(
            f"engine_options: engine transformers has none, not {', '.join(options.engine_options)}"
        )
    from inference.transformers_engine import TransformersEngine

    return TransformersEngine.load(
        model,
        dtype=options.dtype,
        batch_size=options.batch_size,
        max_kv_tokens=options.max_kv_tokens,
        prefix_cache_tokens=options.prefix_cache_tokens,
        trust_remote_code=trust,
    )
