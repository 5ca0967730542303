"""Engine `openai`: any server with OpenAI's completions endpoint (vLLM, SGLang, transformers serve, ...).

What a server can do is found out by asking it when the engine starts. What it cannot do is made up for here
where that gives the same completions (prompts as text, token ids from text, cutting at stop texts), and
refused otherwise.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from threading import Thread
from typing import Any

import httpx

from data.heartbeat import phase
from inference.engine import Follow, Generation, Request, SamplingParams, check_requests
from inference.generations import (
    Ending,
    finished_generation,
    number_of_outputs,
    prompt_text,
    unknown_ids,
)
from inference.models import load_tokenizer
from inference.openai_client import OpenAIClient, OpenAIOptions, RefusedError
from inference.openai_completion import Abilities, completion_body, has_logprobs, reported_ids

logger = logging.getLogger(__name__)

PROBE = "The answer is 42."
THREAD = "completions"
"""Name of the thread that waits for the server."""


class OpenAIEngine:
    """An `Engine` that asks a server, `concurrency` requests at a time.

    Every request is answered once, however often it has to be sent (see `OpenAIClient`). Computing what
    prompts share only once is the server's part (prefix caching). A server that reports no token ids
    (`exact_ids` is False) loses what decoding loses, such as special tokens; one that does not say which stop
    text ended a completion is told none, so that it generates on to its end or `max_tokens`.
    Log-probabilities are those at temperature 1 where the server runs in vLLM's default mode (raw_logprobs).

    Args:
        model: the name by which the server knows it.
        concurrency: requests under way at once.
        options: fields of `OpenAIOptions`.
    Raises:
        ValueError: an option is wrong; the server has no such model, another tokenizer, or refuses every form
            of request.
        ConnectionError: the server cannot be reached.
    """

    repeatable = False

    def __init__(
        self, model: str, *, concurrency: int, options: Mapping[str, Any], trust_remote_code: bool = False
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"batch_size: {concurrency} must be at least 1")
        self.name = model
        self.options = OpenAIOptions.parse(options)
        self.client = OpenAIClient(self.options, concurrency)
        self.tokenizer = load_tokenizer(self.options.tokenizer, trust_remote_code=trust_remote_code)
        self.unknown_ids = unknown_ids(self.tokenizer, number_of_outputs(self.options.tokenizer))
        with ThreadPoolExecutor(1) as pool:  # the caller may have an event loop of its own
            self.max_model_tokens, self.abilities = pool.submit(asyncio.run, self._discover()).result()
        self.has_logprobs = self.abilities.logprobs is not None and self.abilities.ids_from is not None
        self.exact_ids = self.abilities.ids_from is not None
        """Whether token ids are those that were generated, not made from the text."""
        level = logging.INFO if self.exact_ids and self.abilities.stop_reason else logging.WARNING
        logger.log(level, "%s at %s: %s", model, self.options.base_url, self.abilities)

    def generate(
        self, requests: Sequence[Request], follow: Follow | None = None
    ) -> Iterator[list[tuple[int, Generation]]]:
        """See `Engine.generate`. `follow` is called in the caller's thread, for which the place is kept."""
        self.check(requests)
        results: SimpleQueue[Any] = SimpleQueue()
        resent = self.client.resent.total()
        loop = asyncio.new_event_loop()
        work = loop.create_task(self._work(requests, results, follow is not None))
        thread = Thread(target=_run, args=(loop, work, results), name=THREAD, daemon=True)
        thread.start()
        left = len(requests)
        try:
            while left:
                finished: list[tuple[int, Generation]] = []
                with phase("generate"):
                    arrived = [results.get(), *(results.get() for _ in range(results.qsize()))]
                failure: BaseException | None = None
                for item in arrived:
                    if isinstance(item, BaseException):
                        failure = item
                        break
                    index, generation, decision = item
                    following = follow(index, generation) if follow else None
                    if following is None:
                        finished.append((index, generation))
                    else:
                        self.check([following])
                    if decision:
                        loop.call_soon_threadsafe(_decide, decision, following)
                left -= len(finished)
                if finished:
                    yield finished
                if failure:
                    raise failure
        finally:
            loop.call_soon_threadsafe(work.cancel)
            thread.join()
            loop.close()
            if self.client.resent.total() > resent:
                logger.warning("%s: sent again so far: %s", self.options.base_url, dict(self.client.resent))

    async def _work(self, requests: Sequence[Request], results: SimpleQueue[Any], follows: bool) -> None:
        waiting = deque(enumerate(requests))

        async def place() -> None:
            while waiting:
                index, request = waiting.popleft()
                while request is not None:
                    reply = await self.client.ask(
                        connections, "/completions", self._body(request, self.abilities)
                    )
                    generation = self._generation(request, reply)
                    decision = asyncio.get_running_loop().create_future() if follows else None
                    results.put((index, generation, decision))
                    request = await decision if decision else None

        async with self.client.connections() as connections, asyncio.TaskGroup() as group:
            for _ in range(min(self.client.concurrency, len(requests))):
                group.create_task(place())

    def check(self, requests: Sequence[Request]) -> None:
        """See `Engine.check`: also what cannot be sent to this server."""
        check_requests(self, requests)
        for index, request in enumerate(requests):
            if request.params.top_k and not self.abilities.extras:
                raise ValueError(f"top_k: {self.options.base_url} does not know it; set it to 0")
            if request.params.banned_ids and not self.abilities.bias:
                raise ValueError(f"banned_ids: {self.options.base_url} does not keep tokens out (logit_bias)")
            if not self.abilities.ids_prompt and prompt_text(self.tokenizer, request.prompt_ids) is None:
                raise ValueError(
                    f"request {index}: {self.options.base_url} takes prompts as text alone, and the text of "
                    "this one has other tokens; use a server that takes token ids, such as vLLM"
                )

    def _body(self, request: Request, abilities: Abilities) -> dict[str, Any]:
        return completion_body(self.name, request, abilities, self.tokenizer, self.unknown_ids)

    def _generation(self, request: Request, reply: Mapping[str, Any]) -> Generation:
        self._check_reply(reply, len(request.prompt_ids))
        choice, params = reply["choices"][0], request.params
        reason = choice.get("stop_reason", choice.get("matched_stop"))
        ending = Ending(choice["finish_reason"], reason if isinstance(reason, str) else None)
        if not self.exact_ids:
            text = choice["text"]
            if ending.stop and not text.endswith(ending.stop):
                text += ending.stop
            ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            ids += [self.tokenizer.eos_token_id] * ending.of_itself
            return finished_generation(self.tokenizer, ids, ending, params.stop)
        ids = reported_ids(choice, self.abilities.ids_from)
        if not ids:
            raise ValueError(f"{self.options.base_url} reports no token ids now, which it did at the start")
        if ending.reason == "length" and len(ids) < params.max_tokens:
            raise ValueError(
                f"{self.options.base_url} ends completions at {len(ids)} tokens, before max_tokens "
                f"{params.max_tokens}: raise the server's own limit"
            )
        if banned := self.unknown_ids.union(params.banned_ids).intersection(ids):
            raise ValueError(
                f"{self.options.base_url} generated tokens that are banned or that the tokenizer does not "
                f"know: {sorted(banned)}"
            )
        logprobs = choice["logprobs"]["token_logprobs"] if params.logprobs else None
        return finished_generation(self.tokenizer, ids, ending, params.stop, logprobs)

    def _check_reply(self, reply: Mapping[str, Any], prompt_tokens: int) -> None:
        model = str(reply.get("model", self.name))
        if model.removesuffix("@main") != self.name:  # transformers serve adds the revision
            raise ValueError(
                f"model_name_or_path: asked {self.name}, {self.options.base_url} answers as {model}"
            )
        counted = (reply.get("usage") or {}).get("prompt_tokens", prompt_tokens)
        if counted != prompt_tokens:
            raise ValueError(
                f"engine_options: tokenizer: {self.options.tokenizer} makes {prompt_tokens} tokens of a "
                f"prompt, {self.name} makes {counted}; give the tokenizer of the served model"
            )

    async def _check_vocabulary(self, connections: httpx.AsyncClient, body: Mapping[str, Any]) -> None:
        """Compare with the tokens that the server makes of a text, where it tells them."""
        reply = await self.client.ask(connections, "/completions", body)
        theirs = reply["choices"][0].get("prompt_token_ids")
        if theirs and self.tokenizer.decode(theirs, skip_special_tokens=True) != body["prompt"]:
            raise ValueError(
                f"engine_options: tokenizer: {self.options.tokenizer} has other tokens than {self.name}; "
                "give the tokenizer of the served model"
            )

    async def _keeps_out(
        self,
        connections: httpx.AsyncClient,
        request: Request,
        abilities: Abilities,
        choice: Mapping[str, Any],
    ) -> bool:
        """Whether another token comes than the greedy one of this answer when that is banned."""

        def tokens(choice: Mapping[str, Any]) -> list[int]:
            reported = reported_ids(choice, abilities.ids_from)
            return reported or list(self.tokenizer(choice["text"], add_special_tokens=False)["input_ids"])

        greedy = tokens(choice)
        params = replace(request.params, banned_ids=tuple(greedy))
        body = self._body(replace(request, params=params), abilities)
        try:
            reply = await self.client.ask(connections, "/completions", body)
        except RefusedError:
            return False
        return bool(greedy) and tokens(reply["choices"][0]) != greedy

    async def _discover(self) -> tuple[int, Abilities]:
        """Longest sequence of the served model, and what the server can do."""
        async with self.client.connections() as connections:
            card = await self.client.model_card(connections, self.name)
            longest = self.options.max_model_tokens or card.get("max_model_len")
            if longest is None:
                raise ValueError(
                    f"engine_options: max_model_tokens is missing; {self.options.base_url} does not say it"
                )
            return int(longest), await self._probe(connections)

    async def _probe(self, connections: httpx.AsyncClient) -> Abilities:
        """The most that the server takes, tried from the best form of request down."""
        params = SamplingParams(max_tokens=1, temperature=0, logprobs=True)
        request = Request(prompt_ids=tuple(self.tokenizer(PROBE)["input_ids"]), params=params)
        refused = None
        for ids_prompt, extras, logprobs in itertools.product((True, False), (True, False), (0, 1, None)):
            abilities = Abilities(ids_prompt, extras, logprobs)
            body = self._body(request, abilities)
            try:
                reply = await self.client.ask(connections, "/completions", body)
            except RefusedError as refusal:
                if refusal.status not in (400, 422):
                    raise
                refused = refusal
                continue
            self._check_reply(reply, len(request.prompt_ids))
            choice = reply["choices"][0]
            if logprobs is not None and not has_logprobs(choice):
                continue
            if ids_prompt and extras:
                await self._check_vocabulary(connections, body | {"prompt": PROBE})
            abilities = abilities._replace(
                ids_from=next((at for at in ("token_ids", "logprobs") if reported_ids(choice, at)), None),
                stop_reason="stop_reason" in choice or "matched_stop" in choice,
            )
            bias = await self._keeps_out(connections, request, abilities, choice)
            return abilities._replace(bias=bias)
        raise ValueError(f"{self.options.base_url} refuses every form of request; the last: {refused}")


def _run(loop: asyncio.AbstractEventLoop, work: asyncio.Task[None], results: SimpleQueue[Any]) -> None:
    try:
        loop.run_until_complete(work)
    except asyncio.CancelledError:
        return
    except Exception as error:
        results.put(error.exceptions[0] if isinstance(error, ExceptionGroup) else error)


def _decide(decision: asyncio.Future[Request | None], following: Request | None) -> None:
    if not decision.done():
        decision.set_result(following)
