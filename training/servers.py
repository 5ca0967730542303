"""vLLM servers beside a training run: the one that generates, and a teacher's."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trl import DistillationConfig, GRPOConfig

logger = logging.getLogger(__name__)


def server_url(args: GRPOConfig | DistillationConfig) -> str:
    """Where the server of `vllm_mode: server` is."""
    return args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}"


def check_server(args: GRPOConfig | DistillationConfig) -> None:
    """Wait for the vLLM server of `vllm_mode: server` as long as TRL would, but before the model is loaded.

    Raises:
        ValueError: it does not answer in vllm_server_timeout seconds.
    """
    import httpx

    if not args.use_vllm or args.vllm_mode != "server" or args.process_index:
        return
    url = server_url(args)
    deadline = time.monotonic() + args.vllm_server_timeout
    while True:
        try:
            httpx.get(f"{url}/health", timeout=5).raise_for_status()
            return
        except httpx.HTTPError as error:
            reason = str(error)
        if time.monotonic() >= deadline:
            raise ValueError(
                f"vllm_server_base_url: no vLLM server answers at {url} ({reason}) after "
                f"{args.vllm_server_timeout:g} s; start one as recipes/r1_zero/README.md "
                "shows, or use vllm_mode: colocate"
            )
        logger.info("waiting for the vLLM server at %s (%s)", url, reason)
        time.sleep(min(5.0, max(0.1, deadline - time.monotonic())))


@contextmanager
def answering(key: str, url: str) -> Iterator[None]:
    """What asks a vLLM server by TRL's client, which has asked several times before it gives up.

    Args:
        key: the recipe's key that names the server.
    Raises:
        ConnectionError: the server does not answer any more, or with a failure; says how to go on.
    """
    import requests

    try:
        yield
    except Exception as error:
        failed = type(error) is Exception and str(error).startswith("Request failed")  # TRL's own
        if not failed and not isinstance(error, requests.RequestException):
            raise
        raise ConnectionError(
            f"{key}: {url} no longer answers ({str(error)[:300]}); start the server again, then this stage, "
            "which goes on from its last checkpoint"
        ) from error
