"""Talking to an OpenAI-compatible server: options, and requests that are sent until they are answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx

from data.chat_endpoint import backoff_pause, chat_client, retry_after_seconds
from data.field_values import parse_mapping

logger = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every single request

BACKOFF_SECONDS = 0.5
AWAY_PAUSE_SECONDS = 5.0
"""Longest pause between two tries to reach a server that is away."""
_AWAY = {502, 503, 504}
_NO_LISTING = {404, 405, 500, 501}
_RETRIED = {408, 409, 425, 429, 500, 529}


@dataclass(frozen=True, kw_only=True)
class OpenAIOptions:
    """`engine_options` of engine openai."""

    base_url: str
    """Address of the server up to and with /v1."""
    tokenizer: str
    """Folder or hub id of the tokenizer of the served model."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable with the key, where the server wants one."""
    timeout_seconds: float = 600.0
    """Longest wait for one completion; one that takes longer is asked for again, so leave room."""
    retries: int = 8
    """How often a request is sent again that the server answers with an error of its own, or too late."""
    patience_seconds: float = 300.0
    """How long the server may be away (refused or broken connections) before the run ends."""
    max_model_tokens: int | None = None
    """Longest prompt + completion; null: as the server says (vLLM does)."""

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"engine_options: base_url: {self.base_url!r} must start with http:// or https://"
            )
        for name in ("timeout_seconds", "max_model_tokens"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"engine_options: {name}: {value} must be above 0")
        for name in ("retries", "patience_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"engine_options: {name}: {getattr(self, name)} must not be negative")

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> OpenAIOptions:
        """Options from a recipe.

        Raises:
            ValueError: unknown key (with the nearest known one), wrong type or value, or a key is missing.
        """
        return parse_mapping(cls, options, "engine_options", "engine openai")


class RefusedError(ValueError):
    """The server's own refusal, which asking again cannot change."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Failure(NamedTuple):
    """Why a request is to be sent again."""

    reason: str
    away: bool = False
    wait_seconds: float = 0.0


class OpenAIClient:
    """Sends requests until they are answered.

    Sent again are requests that the server answers by 408, 409, 425, 429 (no sooner than its Retry-After),
    500 or 529, too late or by something that is no answer: `retries` times, with doubling pauses. A server
    that cannot be reached, breaks off or answers 502, 503 or 504 is waited for, `patience_seconds` long.
    """

    def __init__(self, options: OpenAIOptions, concurrency: int) -> None:
        self.options = options
        self.concurrency = concurrency
        self.resent: Counter[str] = Counter()
        """Requests that were sent again, by reason."""

    def connections(self) -> httpx.AsyncClient:
        """Connections for one event loop."""
        options = self.options
        return chat_client(options.api_key_env, options.timeout_seconds, self.concurrency)

    async def ask(
        self,
        connections: httpx.AsyncClient,
        path: str,
        body: Mapping[str, Any] | None = None,
        final: Container[int] = (),
    ) -> dict[str, Any]:
        """The answer to a POST of `body`, or to a GET. Statuses in `final` are refusals.

        Raises:
            RefusedError: any other status.
            ConnectionError: retries or patience are used up.
        """
        options, url = self.options, self.options.base_url.rstrip("/") + path
        tries, failures, away_since = 0, 0, None
        while True:
            outcome = await self._try(connections, url, body, final)
            if not isinstance(outcome, _Failure):
                return outcome
            if outcome.away:
                away_since = away_since or time.monotonic()
                limit = f"patience_seconds: {options.patience_seconds:g}"
                spent = time.monotonic() - away_since >= options.patience_seconds
            else:
                failures, away_since, limit = failures + 1, None, f"retries: {options.retries}"
                spent = failures > options.retries
            if spent:
                raise ConnectionError(f"base_url: {url}: {outcome.reason}; given up after {limit}")
            if not self.resent[outcome.reason]:
                logger.warning("%s: %s; trying again", url, outcome.reason)
            self.resent[outcome.reason] += 1
            pause = backoff_pause(BACKOFF_SECONDS, tries)
            await asyncio.sleep(
                max(min(pause, AWAY_PAUSE_SECONDS) if outcome.away else pause, outcome.wait_seconds)
            )
            tries += 1

    async def model_card(self, connections: httpx.AsyncClient, name: str) -> Mapping[str, Any]:
        """What the server's list of models says of one; nothing where it has no list.

        Raises:
            ValueError: the list has other models.
        """
        try:
            listing = (await self.ask(connections, "/models", final=_NO_LISTING))["data"]
        except RefusedError as refusal:
            if refusal.status not in _NO_LISTING:
                raise
            listing = []
        if not listing:
            logger.warning("%s lists no models; going by its answers", self.options.base_url)
            return {}
        cards = {card["id"]: card for card in listing}
        if name not in cards:
            raise ValueError(
                f"model_name_or_path: {self.options.base_url} has no {name!r}; it has {', '.join(cards)}"
            )
        return cards[name]

    async def _try(
        self,
        connections: httpx.AsyncClient,
        url: str,
        body: Mapping[str, Any] | None,
        final: Container[int],
    ) -> dict[str, Any] | _Failure:
        limit = self.options.timeout_seconds
        try:
            async with asyncio.timeout(limit):
                reply = await (connections.get(url) if body is None else connections.post(url, json=body))
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            return _Failure(f"no answer within timeout_seconds: {limit:g}")
        except httpx.RequestError as error:
            return _Failure(f"{type(error).__name__} {error}".strip(), away=True)
        status = reply.status_code
        if status != 200:
            if status in final or status not in _AWAY | _RETRIED:
                raise RefusedError(f"base_url: {url} answers HTTP {status}: {reply.text[:500]}", status)
            wait = retry_after_seconds(reply.headers.get("Retry-After", ""))
            return _Failure(f"HTTP {status}", away=status in _AWAY, wait_seconds=wait)
        try:
            answer = reply.json()
        except ValueError:
            return _Failure("the answer is not JSON")
        whole = _is_listing(answer) if body is None else self.is_answer(answer)
        return answer if whole else _Failure(f"the answer is no answer: {reply.text[:200]}")

    def is_answer(self, answer: Any) -> bool:
        """Whether a completion is there and ended of itself or at its limit, not by the server going down."""
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            return False
        reason = choices[0].get("finish_reason")
        return isinstance(choices[0].get("text"), str) and reason in ("stop", "length")


def _is_listing(answer: Any) -> bool:
    models = answer.get("data") if isinstance(answer, dict) else None
    return isinstance(models, list) and all(isinstance(m, dict) and "id" in m for m in models)
