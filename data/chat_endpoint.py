"""One request to an OpenAI-compatible chat endpoint: what it answered, or why not and how long to wait."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

MAX_WAIT_SECONDS = 60.0
"""Longest wait of the doubling back-off; a Retry-After may ask for more."""
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_JITTER = random.SystemRandom()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """The outcome of one request."""

    text: str | None = None
    """What the model said behind its thinking; None where it said nothing."""
    reason: str = ""
    """Why there is no text."""
    answered: bool = False
    """Whether the server said 200, whatever it sent."""
    final: bool = False
    """Whether asking again cannot help."""
    retry_after_seconds: float = 0.0
    """Shortest wait that the server asks for."""


def chat_client(api_key_env: str, timeout_seconds: float, concurrency: int) -> httpx.AsyncClient:
    """A client with the key of that environment variable, where it is set."""
    key = os.environ.get(api_key_env)
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=timeout_seconds,
        limits=httpx.Limits(max_connections=concurrency),
    )


def chat_body(model: str, prompt: str, max_tokens: int, extra_body: Mapping[str, Any]) -> dict[str, Any]:
    """A greedy request; `extra_body` adds fields, and leaves one out by null."""
    messages = [{"role": "user", "content": prompt}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
    return {name: value for name, value in (body | dict(extra_body)).items() if value is not None}


async def ask(
    client: httpx.AsyncClient, base_url: str, body: Mapping[str, Any], timeout_seconds: float
) -> Reply:
    """Send one request. Never raises for what the network or the server does."""
    try:
        async with asyncio.timeout(timeout_seconds):
            reply = await client.post(base_url.rstrip("/") + "/chat/completions", json=body)
    except (TimeoutError, httpx.RequestError) as error:
        return Reply(reason=f"{type(error).__name__} {error}".strip())
    if reply.status_code == 200:
        return _read(reply)
    if reply.status_code not in _RETRIED:
        return Reply(reason=f"HTTP {reply.status_code} {reply.text[:200]}", final=True)
    wait = retry_after_seconds(reply.headers.get("Retry-After", ""))
    return Reply(reason=f"HTTP {reply.status_code}", retry_after_seconds=wait)


def backoff_pause(backoff_seconds: float, attempt: int) -> float:
    """Seconds to wait after so many failures, with jitter that leaves the seeded generators alone."""
    return min(backoff_seconds * 2**attempt, MAX_WAIT_SECONDS) * _JITTER.uniform(0.5, 1.0)


def _read(reply: httpx.Response) -> Reply:
    try:
        text = reply.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return Reply(reason="reply is not a chat completion", answered=True)
    if not isinstance(text, str):
        return Reply(reason="reply is not a chat completion", answered=True)
    return Reply(text=text.rpartition("</think>")[2], answered=True)


def retry_after_seconds(value: str) -> float:
    """Seconds that a Retry-After header (seconds or a date) asks for; 0 where it cannot be read."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value.strip()):
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return 0.0
