"""A completion server that fails as it is told, for the tests of engine `openai`."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from inference.engine import Generation, Request, SamplingParams
from inference.openai_engine import PROBE, OpenAIEngine

Fault = Callable[["Endpoint"], None]


class Endpoint(BaseHTTPRequestHandler):
    """Plays its server's faults, one per request, and answers well when there are no more."""

    server: CompletionServer

    def do_GET(self) -> None:
        self.reply(self.server.listing_status, {"data": self.server.models})

    def do_POST(self) -> None:
        server = self.server
        body = self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = server.refused & body.keys()
        if refused or isinstance(body["prompt"], list) > server.takes_ids:
            self.reply(400, {"message": f"unknown: {refused or 'ids'}"})
            return
        with server.lock:
            server.requests.append({**body, "headers": dict(self.headers), "at": time.monotonic()})
            server.busy += 1
            server.most_busy = max(server.busy, server.most_busy)
            fault = server.faults.pop(0) if server.faults and not server.is_probe(body) else None
        if fault:
            fault(self)
        else:
            answers(self)
        with server.lock:
            server.busy -= 1

    def reply(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class CompletionServer(ThreadingHTTPServer):
    """Answers like vLLM; what it takes and gives can be reduced."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, tokenizer: Any, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Endpoint)
        self.tokenizer = tokenizer
        self.models: list[dict[str, Any]] = [{"id": "tiny", "max_model_len": 64}, {"id": "lora"}]
        self.listing_status = 200
        self.answers_as = "tiny"
        self.takes_ids = True
        self.refused: set[str] = set()
        """Fields that it does not know."""
        self.lacks: set[str] = set()
        """Keys that its choices lack."""
        self.changes: dict[str, Any] = {}
        """Keys of its choices that are wrong."""
        self.faults: list[Fault] = []
        self.requests: list[dict[str, Any]] = []
        self.lock, self.released = threading.Lock(), threading.Event()
        self.busy = self.most_busy = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = self.ids(body["prompt"]) if isinstance(body["prompt"], str) else body["prompt"]
        ids = answer(prompt, body["max_tokens"])
        biased, allowed = body.get("logit_bias", {}), body.get("allowed_token_ids", ids)
        ids = [token - 1 if str(token) in biased or token not in allowed else token for token in ids]
        text, reason = str(self.tokenizer.decode(ids)), None
        for stop in body.get("stop", []):
            if stop in text:
                text, reason = text[: text.index(stop)], stop
        choice: dict[str, Any] = {"text": text, "finish_reason": "stop" if reason else "length"}
        choice |= {"token_ids": ids, "stop_reason": reason, "matched_stop": reason}
        choice["prompt_token_ids"] = prompt
        if "logprobs" in body:
            tokens = [f"token_id:{token}" for token in ids]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": [-0.5] * len(ids)}
        choice = {key: value for key, value in (choice | self.changes).items() if key not in self.lacks}
        return {"model": self.answers_as, "choices": [choice], "usage": {"prompt_tokens": len(prompt)}}

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text)["input_ids"]

    def is_probe(self, body: dict[str, Any]) -> bool:
        return body["prompt"] in (PROBE, self.tokenizer(PROBE)["input_ids"])

    def generated(self) -> list[dict[str, Any]]:
        """Requests but for those that only ask what the server can do."""
        return [request for request in self.requests if not self.is_probe(request)]


def answer(prompt: Sequence[int], max_tokens: int) -> list[int]:
    """The completion of a prompt: its own ids, changed, again and again."""
    return [5 + (token + 1) % 200 for token in (list(prompt) * max_tokens)[:max_tokens]]


def rows(count: int, **params: Any) -> list[Request]:
    """Requests with different prompts."""
    sampling = SamplingParams(**{"max_tokens": 4, **params})
    return [Request(prompt_ids=(20 + i, 30, 40), params=sampling, seed=i) for i in range(count)]


def run(engine: OpenAIEngine, requests: Sequence[Request], follow: Any = None) -> list[Generation]:
    """Generations in the order of the requests, each of them there once."""
    pairs = [pair for batch in engine.generate(requests, follow) for pair in batch]
    assert sorted(index for index, _ in pairs) == list(range(len(requests)))
    return [generation for _, generation in sorted(pairs, key=lambda pair: pair[0])]


def fails(status: int, body: Any = b"", **headers: str) -> Fault:
    return lambda endpoint: endpoint.reply(status, body, **headers)


def answers(endpoint: Endpoint) -> None:
    endpoint.reply(200, endpoint.server.complete(endpoint.body))


def hangs(endpoint: Endpoint) -> None:
    endpoint.server.released.wait(20)


def hangs_up(endpoint: Endpoint) -> None:
    endpoint.connection.shutdown(socket.SHUT_RDWR)


def sends_half(endpoint: Endpoint) -> None:
    endpoint.send_response(200)
    endpoint.send_header("Content-Length", "1000")
    endpoint.end_headers()
    endpoint.wfile.write(b'{"choices": [{"text"')
