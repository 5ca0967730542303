"""Completions from the policy as it is now: by the transformers engine, or by what TRL generates with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import torch
from trl.models import unwrap_model_for_generation

from data.heartbeat import phase
from inference.engine import Generation, Request, SamplingParams
from inference.generations import Ending, finished_generation
from inference.transformers_engine import TransformersEngine

logger = logging.getLogger(__name__)


class GeneratingTrainer(Protocol):
    """What is needed of one of TRL's trainers whose model writes completions (GRPO, distillation)."""

    args: Any
    accelerator: Any
    model: Any
    model_wrapped: Any
    use_vllm: Any
    is_fsdp_enabled: Any
    _dist: Any
    _tokenizer: Any


class PolicyEngine:
    """The transformers engine around the model that a trainer trains.

    It needs the whole model on every process: FSDP, and ZeRO-3 that does not gather for generation, have
    none.

    Args:
        batch_size: rows under way at once.
    """

    def __init__(self, trainer: GeneratingTrainer, *, batch_size: int) -> None:
        self.trainer = trainer
        self.batch_size = batch_size
        self.engine: TransformersEngine | None = None

    @staticmethod
    def can_run(trainer: GeneratingTrainer) -> bool:
        """Whether this engine can generate for the trainer; it says why not."""
        gathers = trainer.args.ds3_gather_for_generation or not trainer._dist.is_zero3
        if trainer.use_vllm:
            return False
        if trainer.is_fsdp_enabled or not gathers:
            logger.warning(
                "generating with transformers' own generate: the model is sharded; use_vllm is faster"
            )
            return False
        return True

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        logprobs: bool,
        longest_row: int | None,
    ) -> list[Generation]:
        """A completion of each prompt, its own random numbers drawn from its seed.

        Args:
            logprobs: whether the log-probability of each token is wanted.
            longest_row: where given, first take the memory that rows of so many tokens would take, so that a
                lack of it shows at once.
        """
        args, trainer = self.trainer.args, self.trainer
        params = SamplingParams(
            max_tokens=args.max_completion_length,
            temperature=args.temperature,
            top_p=args.top_p,
            top_k=args.top_k,
            logprobs=logprobs,
        )
        requests = [
            Request(prompt_ids=tuple(ids), params=params, seed=seed)
            for ids, seed in zip(prompts, seeds, strict=True)
        ]
        weights = unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs,
        )
        with ExitStack() as stack:
            with phase("sync"):
                model = stack.enter_context(weights)
            self.engine = self.engine or self._around(model)
            if longest_row is not None:
                self._run(self._rows_of(longest_row - 1, requests[0].prompt_ids, len(requests)))
            return self._run(requests)

    def _around(self, model: Any) -> TransformersEngine:
        tokenizer = self.trainer._tokenizer
        name = str(self.trainer.model.config._name_or_path)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        return TransformersEngine(base, tokenizer, name=name, batch_size=self.batch_size)

    def _rows_of(self, tokens: int, ids: tuple[int, ...], rows: int) -> list[Request]:
        """Requests whose prompts fill the cache, for one more token each."""
        ids = (ids * (1 + tokens // len(ids)))[:tokens]
        return [Request(prompt_ids=ids, params=SamplingParams(max_tokens=1))] * rows

    def _run(self, requests: Sequence[Request]) -> list[Generation]:
        assert self.engine is not None
        done = dict(pair for part in self.engine.generate(requests) for pair in part)
        return [done[index] for index in range(len(requests))]


def finished(tokenizer: Any, ids: list[int], ends: Sequence[int], logprobs: list[float] | None) -> Generation:
    """The generation of tokens that TRL's own ways of generating return."""
    ending = Ending("stop" if ids and ids[-1] in ends else "length")
    return finished_generation(tokenizer, ids, ending, (), logprobs)


def computes_in_float32(trainer: GeneratingTrainer) -> bool:
    """Whether training rounds as generation does, so that log-probabilities of the one serve the other."""
    return trainer.model.dtype == torch.float32 and trainer.accelerator.mixed_precision == "no"
