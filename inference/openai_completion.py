"""Requests and answers of OpenAI's completions endpoint, with what vLLM adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from inference.engine import Request
from inference.generations import prompt_text, stream_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_BIASED_TOKENS = 1024
"""Longest `logit_bias` that every vLLM takes (vllm@v0.31.0:vllm/v1/worker/gpu/sample/logit_bias.py)."""
_EXTRAS: dict[str, Any] = {
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""Fields of vLLM, some also of SGLang. Sampling is said in full: what is not, a vLLM server takes from the
model's generation_config.json (vllm@v0.31.0:vllm/entrypoints/openai/completion/protocol.py)."""


class Abilities(NamedTuple):
    """What a server was found to do."""

    ids_prompt: bool
    """Takes prompts as token ids."""
    extras: bool
    """Takes the fields of vLLM."""
    logprobs: int | None
    """Value of `logprobs` that brings one number per token; None where none does."""
    ids_from: Literal["token_ids", "logprobs"] | None = None
    """Where completions have their token ids; None: nowhere, they are made from the text."""
    bias: bool = False
    """Keeps tokens out by `logit_bias`."""
    stop_reason: bool = False
    """Says which stop text ended a completion; otherwise it is not told any, and completions are cut here."""


def completion_body(
    model: str,
    request: Request,
    abilities: Abilities,
    tokenizer: PreTrainedTokenizerBase,
    unknown_ids: frozenset[int],
) -> dict[str, Any]:
    """The request as a server with these abilities understands it, without `unknown_ids`."""
    params, ids = request.params, request.prompt_ids
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(ids) if abilities.ids_prompt else prompt_text(tokenizer, ids),
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    if params.temperature:
        body["seed"] = stream_seed(request) % (2**63 if abilities.extras else 2**31)
    if params.stop and abilities.stop_reason:
        body["stop"] = list(params.stop)
    if abilities.logprobs is not None and (params.logprobs or abilities.ids_from == "logprobs"):
        body["logprobs"] = abilities.logprobs
    if abilities.extras:
        body |= {**_EXTRAS, "top_k": params.top_k or -1}
    banned = unknown_ids.union(params.banned_ids)
    if len(banned) > MAX_BIASED_TOKENS and abilities.extras:
        body["allowed_token_ids"] = sorted(set(tokenizer.get_vocab().values()) - banned)
    elif banned:
        body["logit_bias"] = {str(token): -100 for token in sorted(banned)}
    return body


def reported_ids(choice: Mapping[str, Any], place: str | None) -> list[int] | None:
    """Token ids of a completion: its own field, or tokens of its log-probabilities written as token_id:5."""
    if place == "token_ids":
        return choice.get("token_ids")
    tokens = (choice.get("logprobs") or {}).get("tokens") or [""]
    marked = all(token.startswith("token_id:") for token in tokens)
    return [int(token.removeprefix("token_id:")) for token in tokens] if marked else None


def has_logprobs(choice: Mapping[str, Any]) -> bool:
    numbers = (choice.get("logprobs") or {}).get("token_logprobs")
    return bool(numbers) and all(isinstance(number, float | int) for number in numbers)
