"""The default engine: any decoder model of transformers, many rows of different lengths at a time.

A row takes a slot of the cache as soon as one is free and leaves it when it is done; every step forwards one
token for each row under way and nothing else. Prompts that are alike are computed once, and so is whatever a
following request shares with its row; with a prefix cache so is what a request shares with any that is
finished. Suffixes: R rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data.heartbeat import phase
from inference.choice import choose
from inference.engine import Follow, Generation, Request, check_prefix_cache_tokens, check_requests
from inference.generations import unknown_ids
from inference.models import load_model, load_tokenizer, own_device
from inference.prefix_cache import PrefixCache
from inference.rows import Row, Rows
from inference.slot_cache import SlotCache, attending, rounded
from inference.stops import Stops

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


class TransformersEngine:
    """An `Engine` on one device.

    Args:
        model: it is used as it is, in training too; while it generates it has this engine's attention and no
            dropout.
        batch_size: rows under way at once.
        max_kv_tokens: bound of slots times capacity, the tokens whose keys and values are in memory; rows
            that do not fit any more wait and are computed again later. None: no bound but batch_size.
        prefix_cache_tokens: bound of the tokens whose keys and values are kept, besides those of the rows,
            when they are finished, for requests that begin alike (in later calls too). 0: none. While some
            are kept, `forget` whenever the weights change.
    Raises:
        ValueError: a batch_size below 1, a negative prefix_cache_tokens, a model without end token, or one
            whose attention this engine cannot run.
    """

    has_logprobs = True
    repeatable = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        batch_size: int,
        max_kv_tokens: int | None = None,
        prefix_cache_tokens: int = 0,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} must be at least 1")
        check_prefix_cache_tokens(prefix_cache_tokens)
        self.name = name
        self.batch_size = batch_size
        self.max_kv_tokens = max_kv_tokens
        self.tokenizer = tokenizer
        self.model: Any = model
        self.device = model.device
        text: Any = model.config.get_text_config()
        self.windows = attention_windows(text, name)
        if not model._supports_sdpa or getattr(text, "attn_logit_softcapping", None):
            raise ValueError(
                f"model_name_or_path: engine transformers cannot run the attention of {name}; "
                "use engine: vllm"
            )
        self.max_model_tokens = int(getattr(text, "max_position_embeddings", None) or 1 << 20)
        self.end_ids = end_ids(model, tokenizer)
        self.unknown_ids = sorted(unknown_ids(tokenizer, text.vocab_size))
        self.stops = Stops(tokenizer)
        kept = PrefixCache(text.num_hidden_layers, prefix_cache_tokens) if prefix_cache_tokens else None
        self.prefix_cache = kept
        self.forwarded_tokens = 0
        """Tokens that went through the model so far, padding not counted."""

    @classmethod
    def load(
        cls, name: str, *, dtype: str, trust_remote_code: bool = False, **options: Any
    ) -> TransformersEngine:
        """The engine of a model folder or hub id; `options` as in the constructor.

        Raises:
            ValueError: the model cannot be loaded, or see the constructor.
        """
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
        model = load_model(name, dtype=dtype, trust_remote_code=trust_remote_code).to(own_device())
        return cls(model, tokenizer, name=name, **options)

    def generate(
        self, requests: Sequence[Request], follow: Follow | None = None
    ) -> Iterator[list[tuple[int, Generation]]]:
        """See `Engine.generate`."""
        self.check(requests)
        batch = Rows(self, requests, follow)
        try:
            with attending(self.model):
                while batch.waiting or batch.rows:
                    with phase("generate"), torch.inference_mode():
                        finished = batch.step()
                    if finished:
                        yield finished
        finally:
            batch.release()

    def forget(self) -> None:
        """Free what the prefix cache keeps; it holds for the weights that computed it alone."""
        if self.prefix_cache is not None:
            self.prefix_cache.forget()

    def check(self, requests: Sequence[Request]) -> None:
        """See `Engine.check`: also what `max_kv_tokens` has no room for."""
        check_requests(self, requests)
        for index, request in enumerate(requests):
            longest = len(request.prompt_ids) + request.params.max_tokens
            if self.max_kv_tokens is not None and rounded(longest) > self.max_kv_tokens:
                raise ValueError(
                    f"max_kv_tokens: {self.max_kv_tokens} is less than the {rounded(longest)} tokens that "
                    f"request {index} may need"
                )

    def forward(self, cache: SlotCache, first: int, ids_RT: Tensor, starts: Sequence[int]) -> Tensor:
        """Logits (R, V) behind the last token of each row, from slot `first` on; row i goes on at starts[i].

        Rows with fewer tokens are padded: what that writes behind their end is written again before anything
        attends to it.
        """
        positions_RT = torch.tensor(starts).unsqueeze(1) + torch.arange(ids_RT.shape[1])
        positions_RT = positions_RT.clamp(max=cache.capacity - 1).to(self.device)
        cache.at(first, positions_RT)
        output = self.model(
            input_ids=ids_RT.to(self.device),
            attention_mask=cache.mask(self.windows),
            position_ids=positions_RT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1]

    def choose(self, logits_RV: Tensor, rows: Sequence[Row]) -> tuple[list[int], list[float]]:
        """The next token of each row and, where any of them asks for it, its log-probability (else 0)."""
        params = [row.request.params for row in rows]
        scores_RV = logits_RV
        if self.unknown_ids and rows:
            scores_RV = logits_RV.index_fill(
                1, torch.tensor(self.unknown_ids, device=self.device), -torch.inf
            )
        places = [len(row.ids) for row in rows]  # so that a row that goes on keeps its stream
        chosen_R = choose(scores_RV, params, [row.request.seed for row in rows], places)
        if not any(of_row.logprobs for of_row in params):
            return chosen_R.tolist(), [0.0] * len(rows)
        logprobs_RV = logits_RV.float().log_softmax(-1)
        return chosen_R.tolist(), logprobs_RV.gather(1, chosen_R.unsqueeze(1)).squeeze(1).tolist()


def attention_windows(text: Any, model: str) -> dict[str, int | None]:
    """Types of the model's layers by its text config, each with how many tokens it attends to (None: all).

    Raises:
        ValueError: a type whose state is no keys and values of single tokens.
    """
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds == {"full_attention"} and getattr(text, "layer_types", None) is None:
        window = getattr(text, "sliding_window", None)
        return {"full_attention": window if getattr(text, "use_sliding_window", True) else None}
    if unknown := kinds - {"full_attention", "sliding_attention"}:
        raise ValueError(
            f"model_name_or_path: {model} has layers of type {', '.join(sorted(unknown))}, which engine "
            "transformers does not run; use engine: vllm"
        )
    return {kind: text.sliding_window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def end_ids(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a completion: the tokenizer's end token and those of the model's generation config.

    Raises:
        ValueError: there is none.
    """
    ends = model.generation_config.eos_token_id
    ids = [ends] if isinstance(ends, int) else list(ends or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.insert(0, tokenizer.eos_token_id)
    if not ids:
        raise ValueError("the model has no end token: set eos_token in its tokenizer")
    return ids
