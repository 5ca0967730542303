"""What `benchmarks.engines` compares with, transformers' own two ways to generate, and the work for all.

Both get the requests in arrival order and the same temperature, and no token ends a sequence.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data.small_world import build_tokenizer
from data.small_world_texts import pretraining_texts
from inference.engine import Request, SamplingParams
from training.pretrain import PretrainConfig, build_model

SAMPLES = 4
"""Samples of one prompt, for half of the requests."""
PAGE_TOKENS = 32
"""Tokens of one block of the cache of continuous batching."""
NO_END = -1


def save_small_model(folder: Path) -> Path:
    """The model of the quickstart with random weights, and its tokenizer."""
    config, tokenizer = PretrainConfig(), build_tokenizer()
    torch.manual_seed(0)
    build_model(config, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def log_uniform(rng: random.Random, low: int, high: int) -> int:
    return round(low * (high / low) ** rng.random())


def make_requests(
    tokenizer: Any, count: int, prompt: tuple[int, int], output: tuple[int, int], *, temperature: float = 1.0
) -> list[Request]:
    """Requests whose `max_tokens` is log-uniform in `output`, for prompts with lengths uniform in `prompt`.

    Prompts are cut from texts of the small world. One prompt in five is asked for `SAMPLES` times, one after
    the other, so that about half of the requests share theirs.
    """
    rng = random.Random(0)
    texts = [f"{question}\n{text}\n" for question, text in pretraining_texts(200, seed=0)]
    ids = [id for of_text in tokenizer(texts, add_special_tokens=False)["input_ids"] for id in of_text]
    requests: list[Request] = []
    while len(requests) < count:
        length = rng.randint(*prompt)
        first = rng.randrange(len(ids) - length)
        for _ in range(min(count - len(requests), SAMPLES if rng.random() < 1 / (1 + SAMPLES) else 1)):
            params = SamplingParams(max_tokens=log_uniform(rng, *output), temperature=temperature)
            ids_of_prompt = tuple(ids[first : first + length])
            requests.append(Request(prompt_ids=ids_of_prompt, params=params, seed=len(requests)))
    return requests


def sampling(temperature: float) -> dict[str, Any]:
    """Arguments of transformers' generation for a temperature."""
    if not temperature:
        return {"do_sample": False}
    return {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}


def generate_padded(model: Any, requests: Sequence[Request], batch_size: int) -> list[list[int]]:
    """Plain `generate` on batches padded on the left; each goes on to its longest output."""
    outputs = []
    for first in range(0, len(requests), batch_size):
        batch = requests[first : first + batch_size]
        width = max(len(request.prompt_ids) for request in batch)
        pads = [width - len(request.prompt_ids) for request in batch]
        ids_RT = torch.tensor([[0] * pad + list(r.prompt_ids) for pad, r in zip(pads, batch, strict=True)])
        mask_RT = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        longest = max(request.params.max_tokens for request in batch)
        made_RT = model.generate(
            ids_RT,
            attention_mask=mask_RT,
            max_new_tokens=longest,
            eos_token_id=None,
            pad_token_id=0,
            **sampling(batch[0].params.temperature),
        )
        outputs += [
            row[: request.params.max_tokens]
            for row, request in zip(made_RT[:, width:].tolist(), batch, strict=True)
        ]
    return outputs


class ContinuousBatching:
    """transformers' continuous batching, with room for all of `batch_size` rows of `longest` tokens.

    A context: starting it (its cache, its thread) is no part of what is timed.
    """

    def __init__(self, model: Any, batch_size: int, longest: int, temperature: float) -> None:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        self.context = model.continuous_batching_context_manager(
            generation_config=GenerationConfig(
                max_new_tokens=longest, eos_token_id=NO_END, pad_token_id=0, **sampling(temperature)
            ),
            continuous_batching_config=ContinuousBatchingConfig(
                block_size=PAGE_TOKENS,
                num_blocks=batch_size * -(-longest // PAGE_TOKENS),
                max_batch_tokens=max(256, batch_size),
                max_requests_per_batch=batch_size,
            ),
            block=True,
            timeout=5,
        )

    def __enter__(self) -> ContinuousBatching:
        self.manager = self.context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)

    def generate(self, requests: Sequence[Request]) -> list[list[int]]:
        """As `generate_batch`, but with the limit of each request."""
        names = [
            self.manager.add_request(list(r.prompt_ids), max_new_tokens=r.params.max_tokens) for r in requests
        ]
        done: dict[str, list[int]] = {}
        while len(done) < len(names):
            result = self.manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                if result.error is not None:
                    raise RuntimeError(f"continuous batching: {result.error}")
                done[result.request_id] = result.generated_tokens
            elif result is None and not self.manager.is_running():
                raise RuntimeError("continuous batching ended early")
        return [done[name] for name in names]
