"""The default engine: transformers' generate, in batches of similar length.

Suffixes: B rows of a batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from inference.engine import Generation, Request, SamplingParams
from inference.models import load_model, load_tokenizer


class SeededChoice(LogitsProcessor):
    """Chooses each row's next token with the row's own random stream and records its log-probability.

    One uniform number per row and token inverts the cumulative distribution, so a row's tokens do not depend
    on its neighbours. All other tokens get -inf: greedy decoding then takes the choice.
    """

    def __init__(self, requests: Sequence[Request], params: SamplingParams) -> None:
        self.params = params
        self.logprobs: list[Tensor] = []
        self.warpers: list[LogitsProcessor] = []
        if params.top_k:
            self.warpers.append(TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            self.warpers.append(TopPLogitsWarper(params.top_p))
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        uniforms = [torch.rand(params.max_tokens, generator=g, dtype=torch.float64) for g in generators]
        self.uniforms_TB = torch.stack(uniforms, dim=1)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logprobs_BV = scores.float().log_softmax(-1)
        chosen_B1 = self._choose(input_ids, scores)
        self.logprobs.append(logprobs_BV.gather(1, chosen_B1).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen_B1, 0.0)

    def _choose(self, input_ids: Any, scores: Any) -> Tensor:
        if self.params.temperature == 0:
            return scores.argmax(-1, keepdim=True)
        scores = scores.float() / self.params.temperature
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        cumulative_BV = scores.softmax(-1).double().cumsum(-1)
        uniforms_B1 = self.uniforms_TB[len(self.logprobs)].to(scores.device).unsqueeze(1)
        # the last cumulative value stands for 1, so that rounding never picks an impossible token
        target_B1 = uniforms_B1 * cumulative_BV[:, -1:]
        return torch.searchsorted(cumulative_BV, target_B1, right=True).clamp(max=scores.shape[-1] - 1)


class StopTexts(StoppingCriteria):
    """Ends a row when a stop text appears in what it generated.

    transformers' own `stop_strings` also match across the prompt's end.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], prompt_width: int) -> None:
        self.tokenizer = tokenizer
        self.stop = stop
        self.prompt_width = prompt_width
        self.window = (
            max(map(len, stop)) + 4
        )  # tokens that surely cover the longest stop text, and a split character

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        tails = input_ids[:, self.prompt_width :][:, -self.window :]
        texts = self.tokenizer.batch_decode(tails)
        found = [any(stop in text for stop in self.stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)


class TransformersEngine:
    """An `Engine` on one device: sorts by prompt length, generates `batch_size` rows at a time."""

    def __init__(self, model: str, *, dtype: str, batch_size: int, trust_remote_code: bool = False) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: {batch_size} must be at least 1")
        self.name = model
        self.batch_size = batch_size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = load_tokenizer(model, trust_remote_code=trust_remote_code)
        loaded = load_model(model, dtype=dtype, trust_remote_code=trust_remote_code)
        self.model = loaded.to(self.device)
        self.max_model_tokens = int(getattr(self.model.config, "max_position_embeddings", None) or 1 << 20)
        self.end_ids = _end_ids(self.model, self.tokenizer)

    def generate(
        self, requests: Sequence[Request], params: SamplingParams
    ) -> Iterator[list[tuple[int, Generation]]]:
        """See `Engine.generate`."""
        for index, request in enumerate(requests):
            length = len(request.prompt_ids)
            if not length or length + params.max_tokens > self.max_model_tokens:
                raise ValueError(
                    f"request {index}: prompt of {length} + {params.max_tokens} max_tokens does not fit "
                    f"the model's {self.max_model_tokens} tokens (or is empty)"
                )
        order = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt_ids), reverse=True)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield list(zip(rows, self._batch([requests[i] for i in rows], params), strict=True))

    @torch.inference_mode()
    def _batch(self, requests: Sequence[Request], params: SamplingParams) -> list[Generation]:
        width = max(len(r.prompt_ids) for r in requests)
        pad = self.end_ids[0]
        ids_BT = torch.tensor([[pad] * (width - len(r.prompt_ids)) + list(r.prompt_ids) for r in requests])
        mask_BT = torch.tensor(
            [[0] * (width - len(r.prompt_ids)) + [1] * len(r.prompt_ids) for r in requests]
        )
        choice = SeededChoice(requests, params)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=params.max_tokens,
            eos_token_id=self.end_ids,
            pad_token_id=pad,
        )
        ids_BT, mask_BT = ids_BT.to(self.device), mask_BT.to(self.device)
        output_BT = self.model.generate(
            ids_BT,
            attention_mask=mask_BT,
            past_key_values=self._prefill(requests, ids_BT, mask_BT),
            generation_config=config,
            logits_processor=LogitsProcessorList([choice]),
            stopping_criteria=StoppingCriteriaList(
                [StopTexts(self.tokenizer, params.stop, width)] if params.stop else []
            ),
        )[:, width:].cpu()
        logprobs_BT = torch.stack(choice.logprobs, dim=1).cpu()
        rows = zip(output_BT.tolist(), logprobs_BT.tolist(), strict=True)
        return [self._generation(tokens, logprobs, params) for tokens, logprobs in rows]

    def _prefill(self, requests: Sequence[Request], ids_BT: Tensor, mask_BT: Tensor) -> DynamicCache | None:
        """Keys and values of the prompts but for their last token, each different prompt computed once.

        None where there is nothing to share.
        """
        first = {request.prompt_ids: row for row, request in reversed(list(enumerate(requests)))}
        if len(first) == len(requests) or ids_BT.shape[1] == 1:
            return None
        rows = sorted(first.values())
        mask_UT = mask_BT[rows, :-1]
        cache = DynamicCache(config=self.model.config)
        self.model(
            input_ids=ids_BT[rows, :-1],
            attention_mask=mask_UT,
            position_ids=(mask_UT.cumsum(-1) - 1).clamp(min=0),
            past_key_values=cache,
            logits_to_keep=1,
        )
        places = {row: place for place, row in enumerate(rows)}
        cache.batch_select_indices(
            torch.tensor([places[first[request.prompt_ids]] for request in requests], device=self.device)
        )
        return cache

    def _generation(self, tokens: list[int], logprobs: list[float], params: SamplingParams) -> Generation:
        end = next((i for i, token in enumerate(tokens) if token in self.end_ids), len(tokens))
        text, stopped = str(self.tokenizer.decode(tokens[:end])), end < len(tokens)
        length = end + stopped
        if any(stop in text for stop in params.stop):  # the end token behind it is then only padding
            length, text, stopped = *self._cut_at_stop(tokens[:end], text, params.stop), True
        return Generation(
            token_ids=tokens[:length],
            logprobs=logprobs[:length],
            text=text,
            finish_reason="stop" if stopped else "length",
        )

    def _cut_at_stop(self, tokens: list[int], text: str, stop: tuple[str, ...]) -> tuple[int, str]:
        """Length in tokens and text up to and with the first stop text."""
        cut = text[: min(text.find(s) + len(s) for s in stop if s in text)]
        prefixes = range(1, len(tokens) + 1)
        length = (
            bisect_left(prefixes, len(cut), key=lambda n: len(str(self.tokenizer.decode(tokens[:n])))) + 1
        )
        return length, cut


def _end_ids(model: Any, tokenizer: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    ids = [ends] if isinstance(ends, int) else list(ends or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in ids:
        ids.insert(0, tokenizer.eos_token_id)
    if not ids:
        raise ValueError("the model has no end token: set eos_token in its tokenizer")
    return ids
