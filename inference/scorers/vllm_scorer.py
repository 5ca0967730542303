"""Scorer `vllm`: a reward model behind `vllm serve MODEL --runner pooling`.

The server gets token ids, so that it reads what a local model would read, and answers with what it says at
every token or at every step tag.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from data.heartbeat import beat
from data.step_formats import StepFormat
from inference.models import load_tokenizer
from inference.openai_client import OpenAIClient, OpenAIOptions
from inference.scorers.branches import Branch, branches_of
from inference.scorers.load import kind_of
from inference.scorers.step_scorer import encode_all

CONCURRENCY = 32
"""Requests under way at once."""


class VLLMScorer:
    """A `Scorer` that asks vLLM's pooling endpoint (vllm@v0.31.0:vllm/entrypoints/pooling).

    Solutions of one call that are alike, or of which one begins the other, are sent once; nothing is kept
    between calls. `forwarded_tokens` are those that were sent, whatever the server has kept.

    Args:
        model: the name by which the server knows it.
        options: fields of `OpenAIOptions`; and `format`, one of `inference.scorers.load.NAMES`: how the model
            reads solutions, by the files of `tokenizer` where it is not given.
    Raises:
        ValueError: a bad option, or a server that has another model.
        ConnectionError: the server cannot be reached.
    """

    def __init__(self, model: str, *, options: Mapping[str, Any], trust_remote_code: bool = False) -> None:
        self.name = model
        self.forwarded_tokens = 0
        chosen = dict(options)
        kind = chosen.pop("format", None)
        self.options = _parse(chosen)
        folder = self.options.tokenizer
        self.step_format = _step_format(kind or kind_of(folder), folder, trust_remote_code)
        root = self.options.base_url.rstrip("/").removesuffix("/v1")
        self.client = _PoolingClient(replace(self.options, base_url=root), CONCURRENCY)
        self._run(self._find_model())

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Scorer.score`.

        Raises:
            ConnectionError: the server is away for longer than the options allow.
        """
        encoded = encode_all(self.step_format, questions, solutions)
        branches = branches_of(encoded)
        self._run(self._ask_all(list({branch for branch in branches if branch.ends})))
        return [
            [branch.scores[end] for end in steps.ends]
            for branch, steps in zip(branches, encoded, strict=True)
        ]

    def _run(self, work: Any) -> None:
        with ThreadPoolExecutor(1) as pool:  # the caller may have an event loop of its own
            pool.submit(asyncio.run, work).result()

    async def _find_model(self) -> None:
        client = OpenAIClient(self.options, 1)
        async with client.connections() as connections:
            try:
                await client.model_card(connections, self.name)
            except ValueError as error:
                raise ValueError(str(error).replace("model_name_or_path:", "scorer_model:")) from error

    async def _ask_all(self, branches: Sequence[Branch]) -> None:
        places = asyncio.Semaphore(CONCURRENCY)

        async def ask(branch: Branch) -> None:
            async with places:
                body = {"model": self.name, "input": branch.ids}
                answer = await self.client.ask(connections, "/pooling", body)
            self.forwarded_tokens += len(branch.ids)
            beat()
            branch.scores = self._scores(branch, answer["data"][0]["data"])

        async with self.client.connections() as connections:
            await asyncio.gather(*(ask(branch) for branch in branches))

    def _scores(self, branch: Branch, said: list[Any]) -> dict[int, float]:
        """Probabilities by the index of the token, from what is said at every token or every step."""
        ends = sorted(branch.ends)
        if len(said) == len(branch.ids):
            said = [said[end] for end in ends]
        if len(said) != len(ends):
            raise ValueError(
                f"scorer_model: {self.name} at {self.options.base_url} says {len(said)} numbers of "
                f"{len(branch.ids)} tokens with {len(ends)} steps; serve it with --pooler-config "
                '\'{"tok_pooling_type": "ALL"}\''
            )
        return {end: self._probability(values) for end, values in zip(ends, said, strict=True)}

    def _probability(self, values: Any) -> float:
        """The last of one or two classes, (wrong, right)."""
        right = values[-1] if isinstance(values, list) and len(values) in (1, 2) else values
        if not isinstance(right, int | float) or math.isnan(right) or not 0 <= right <= 1:
            raise ValueError(
                f"scorer_model: {self.name} at {self.options.base_url} says {str(values)[:100]}, which is no "
                "probability of (wrong, right); serve it with --pooler-config '{\"use_activation\": true}'"
            )
        return float(right)


class _PoolingClient(OpenAIClient):
    """The client for answers of /pooling."""

    def is_answer(self, answer: Any) -> bool:
        try:
            answer["data"][0]["data"][0]
        except (LookupError, TypeError):
            return False
        return True


def _parse(options: Mapping[str, Any]) -> OpenAIOptions:
    try:
        return OpenAIOptions.parse(options)
    except ValueError as error:
        message = str(error).replace("engine_options:", "scorer_options:")
        raise ValueError(message.replace("engine openai", "scorer vllm")) from error


def _step_format(kind: str, folder: str, trust_remote_code: bool) -> StepFormat:
    from inference.scorers.foreign_models import FORMATS
    from inference.scorers.reward_model import read_options

    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    if kind == "slowthink":
        from data.step_formats import MarkerFormat

        return MarkerFormat(tokenizer, read_options(folder))
    if kind not in FORMATS:
        raise ValueError(
            f"scorer_options: format: there is no {kind!r}; give slowthink, {', '.join(FORMATS)}"
        )
    return FORMATS[kind](tokenizer)
