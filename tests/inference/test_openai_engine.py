"""Engine `openai` against a real HTTP server that fails in every way, and real ones that are killed."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference import openai_client
from inference.engine import Generation, Request, SamplingParams
from inference.openai_client import OpenAIOptions
from inference.openai_engine import THREAD, OpenAIEngine
from tests.inference.completions import (
    CompletionServer,
    Endpoint,
    Fault,
    answer,
    answers,
    fails,
    hangs,
    hangs_up,
    rows,
    run,
    sends_half,
)
from tests.inference.servers import Server, save_deciding_model, transformers_server, vllm_server


@pytest.fixture
def server(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[CompletionServer]:
    monkeypatch.setattr(openai_client, "BACKOFF_SECONDS", 0.01)
    with CompletionServer(tokenizer) as running:
        yield running
        running.released.set()
        running.shutdown()


@pytest.fixture(scope="module")
def tokenizer_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    return str(folder)


@pytest.fixture
def engine_at(tokenizer_folder: str) -> Callable[..., OpenAIEngine]:
    def make(server: CompletionServer, model: str = "tiny", **options: Any) -> OpenAIEngine:
        defaults = {"base_url": server.url, "tokenizer": tokenizer_folder, "timeout_seconds": 5.0}
        concurrency = options.pop("concurrency", 4)
        return OpenAIEngine(model, concurrency=concurrency, options={**defaults, **options})

    return make


Make = Callable[..., OpenAIEngine]
ABORTED = {"choices": [{"text": "half a", "finish_reason": "abort", "token_ids": [5]}]}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (fails(429, Retry_After="0"), "HTTP 429"),
        (fails(500, b"oops"), "HTTP 500"),
        (fails(503), "HTTP 503"),
        (fails(200, b"<html>"), "not JSON"),
        (fails(200, {"choices": []}), "no answer"),
        (fails(200, ABORTED), "no answer"),
        (sends_half, "RemoteProtocolError"),
        (hangs_up, "RemoteProtocolError"),
        (hangs, "timeout_seconds: 0.5"),
    ],
)
def test_a_fault_that_passes(
    server: CompletionServer, engine_at: Make, caplog: pytest.LogCaptureFixture, fault: Fault, reason: str
) -> None:
    engine = engine_at(server, timeout_seconds=0.5)
    server.faults = [fault, fault]
    requests = rows(6)
    generations = run(engine, requests)
    assert [g.token_ids for g in generations] == [answer(r.prompt_ids, 4) for r in requests]
    assert len(server.generated()) == 8
    assert engine.client.resent.total() == 2
    assert reason in next(iter(engine.client.resent))
    assert [reason in message for message in caplog.messages].count(True) == 2  # at once, and the sum


def test_a_wait_that_the_server_asks_for(server: CompletionServer, engine_at: Make) -> None:
    engine = engine_at(server)
    server.faults = [fails(429, Retry_After="0.4")]
    run(engine, rows(1))
    first, second = [request["at"] for request in server.generated()]
    assert second - first >= 0.4


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (fails(400, b"no such field"), "HTTP 400: no such field"),
        (fails(401, b"bad key"), "HTTP 401: bad key"),
        (fails(404, b"no such model"), "HTTP 404"),
        (
            fails(200, {"model": "big", "choices": [{"text": "a", "finish_reason": "length"}]}),
            "answers as big",
        ),
    ],
)
def test_a_refusal_ends_the_call(
    server: CompletionServer, engine_at: Make, fault: Fault, message: str
) -> None:
    engine = engine_at(server, concurrency=1)
    server.faults = [fault]
    with pytest.raises(ValueError, match=message):
        run(engine, rows(5))
    assert len(server.generated()) <= 2
    assert run(engine, rows(2))


def test_what_was_answered_before_a_refusal_is_kept(server: CompletionServer, engine_at: Make) -> None:
    engine = engine_at(server, concurrency=1)
    server.faults = [answers, answers, fails(400, b"enough")]
    call = engine.generate(rows(5))
    kept = [index for index, _ in next(call)]
    while waiting():
        time.sleep(0.01)
    with pytest.raises(ValueError, match="enough"):
        kept.extend(index for batch in call for index, _ in batch)
    assert kept == [0, 1]


def waiting() -> bool:
    """Whether a call still waits for its server."""
    return any(thread.name == THREAD for thread in threading.enumerate())


def test_retries_are_limited(server: CompletionServer, engine_at: Make) -> None:
    engine = engine_at(server, retries=2, concurrency=1)
    server.faults = [fails(500)] * 9
    with pytest.raises(ConnectionError, match=r"HTTP 500; given up after retries: 2"):
        run(engine, rows(1))
    assert len(server.generated()) == 3


def test_a_server_that_starts_uses_up_no_retries(server: CompletionServer, engine_at: Make) -> None:
    server.faults = [fails(503), hangs_up, fails(502), fails(504)]
    assert run(engine_at(server, retries=0), rows(2))
    assert len(server.generated()) == 6


def test_patience_is_limited(server: CompletionServer, engine_at: Make) -> None:
    engine = engine_at(server, patience_seconds=0.3, retries=0)
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=r"ConnectError.*given up after patience_seconds: 0\.3"):
        run(engine, rows(2))


def test_a_server_that_comes_back_is_used_again(
    server: CompletionServer, engine_at: Make, tokenizer: Any
) -> None:
    engine = engine_at(server, patience_seconds=30, retries=0)
    call = engine.generate(rows(40))
    pairs = list(next(call))
    server.faults = [hangs_up] * 50
    server.shutdown()
    server.server_close()
    with CompletionServer(tokenizer, server.server_address[1]) as again:
        pairs += [pair for batch in call for pair in batch]
        again.shutdown()
    assert sorted(index for index, _ in pairs) == list(range(40))


def test_the_model_must_be_there(server: CompletionServer, engine_at: Make) -> None:
    assert engine_at(server).max_model_tokens == 64
    assert engine_at(server, max_model_tokens=32).max_model_tokens == 32
    with pytest.raises(ValueError, match=r"has no 'tny'; it has tiny, lora"):
        engine_at(server, model="tny")
    server.answers_as = "lora"
    with pytest.raises(ValueError, match="max_model_tokens is missing"):
        engine_at(server, model="lora")
    assert engine_at(server, model="lora", max_model_tokens=9).max_model_tokens == 9
    with pytest.raises(ValueError, match=r"asked tiny, .* answers as lora"):
        engine_at(server)


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_without_a_list_of_models(server: CompletionServer, engine_at: Make, status: int) -> None:
    server.listing_status = status
    assert engine_at(server, max_model_tokens=9).max_model_tokens == 9
    assert server.requests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_ur": "http://x"}, "did you mean 'base_url'"),
        ({"zzz": 1}, "there are base_url, tokenizer"),
        ({"base_url": "x"}, "tokenizer is missing"),
        ({"base_url": "localhost:8000", "tokenizer": "x"}, "must start with http"),
        ({"base_url": "http://x", "tokenizer": "x", "retries": "many"}, "retries: 'many' is not"),
        ({"base_url": "http://x", "tokenizer": "x", "retries": -1}, "retries: -1"),
        ({"base_url": "http://x", "tokenizer": "x", "timeout_seconds": 0}, "timeout_seconds: 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OpenAIOptions.parse(options)


def test_the_key_is_sent(server: CompletionServer, engine_at: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    run(engine_at(server, api_key_env="MY_KEY"), rows(1))
    assert {r["headers"]["Authorization"] for r in server.requests} == {"Bearer secret"}


def test_sampling_is_said_in_full(server: CompletionServer, engine_at: Make) -> None:
    engine = engine_at(server)
    run(engine, rows(1, top_k=7, top_p=0.5, temperature=0.6, stop=("x",)))
    [sent] = server.generated()
    wanted = {
        "top_k": 7,
        "top_p": 0.5,
        "temperature": 0.6,
        "stop": ["x"],
        "repetition_penalty": 1.0,
        "min_p": 0.0,
    }
    assert wanted.items() <= sent.items()
    assert "logprobs" not in sent
    run(engine, rows(1, temperature=0, logprobs=True))
    greedy = server.generated()[-1]
    assert (greedy["top_k"], greedy["logprobs"]) == (-1, 0)
    assert "seed" not in greedy


def test_what_follows_has_random_numbers_of_its_own(server: CompletionServer, engine_at: Make) -> None:
    engine = engine_at(server, concurrency=1)
    params = SamplingParams(max_tokens=2)
    prompts = [(20,), (21,), (20, 30), (20, 30, 40)]
    run(engine, [Request(prompt_ids=ids, params=params, seed=2**62) for ids in prompts])
    first, same, longer, longest = [request["seed"] for request in server.generated()]
    assert first == same
    assert len({first, longer, longest}) == 3
    assert all(0 <= seed < 2**63 for seed in (first, longer, longest))


def test_token_ids_by_log_probabilities(server: CompletionServer, engine_at: Make) -> None:
    server.lacks = {"token_ids"}
    engine = engine_at(server)
    assert engine.abilities.ids_from == "logprobs"
    [generation] = run(engine, rows(1))
    assert generation.token_ids == answer((20, 30, 40), 4)
    assert generation.logprobs is None
    assert run(engine, rows(1, logprobs=True))[0].logprobs == [-0.5] * 4


def test_a_server_of_text_alone(server: CompletionServer, engine_at: Make) -> None:
    server.takes_ids, server.lacks = False, {"token_ids", "logprobs", "stop_reason", "matched_stop"}
    server.refused = {"return_token_ids", "logit_bias"}
    engine = engine_at(server)
    assert engine.abilities == (False, False, None, None, False, False)
    assert not engine.exact_ids
    assert not engine.has_logprobs
    prompt = tuple(server.ids("hello world. Wait"))
    params = SamplingParams(max_tokens=6)
    [free] = run(engine, [Request(prompt_ids=prompt, params=params, seed=2**62 + 1)])
    text = server.tokenizer.decode(answer(prompt, 6))
    assert (free.text, free.token_ids) == (text, server.ids(text))
    assert server.requests[-1]["prompt"] == "hello world. Wait"
    assert server.requests[-1]["seed"] < 2**31
    params = SamplingParams(max_tokens=6, stop=(text[2:4],))
    [stopped] = run(engine, [Request(prompt_ids=prompt, params=params)])
    assert (stopped.text, stopped.stop_reason) == (text[: text.index(text[2:4]) + 2], text[2:4])
    assert "stop" not in server.requests[-1]
    with pytest.raises(ValueError, match="banned_ids"):
        run(engine, rows(1, banned_ids=(3,)))
    with pytest.raises(ValueError, match="top_k"):
        run(engine, rows(1, top_k=3))


def test_a_stop_text_that_the_server_cuts_off_is_put_back(server: CompletionServer, engine_at: Make) -> None:
    server.lacks = {"token_ids", "logprobs", "stop_reason"}
    engine = engine_at(server)
    text = server.tokenizer.decode(answer((20, 30, 40), 8))
    [stopped] = run(engine, rows(1, max_tokens=8, stop=(text[3:5],)))
    assert server.generated()[-1]["stop"] == [text[3:5]]
    assert stopped.text == text[: text.index(text[3:5]) + 2]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", text[3:5])


def test_another_tokenizer_is_noticed(server: CompletionServer, engine_at: Make) -> None:
    ids = server.ids
    server.ids = lambda text: [30 + i for i, _ in enumerate(text)]
    with pytest.raises(
        ValueError, match=r"has other tokens than tiny; give the tokenizer of the served model"
    ):
        engine_at(server)
    server.ids = lambda text: [id for character in text for id in ids(character)]  # the same vocabulary
    assert run(engine_at(server), rows(1))
    server.takes_ids = False
    with pytest.raises(ValueError, match=r"of a prompt, tiny makes 17; give the tokenizer"):
        engine_at(server)


def test_a_server_with_a_limit_of_its_own(server: CompletionServer, engine_at: Make) -> None:
    engine = engine_at(server)
    server.changes = {"token_ids": [7, 8]}
    with pytest.raises(ValueError, match="ends completions at 2 tokens, before max_tokens 4"):
        run(engine, rows(1))


@pytest.mark.parametrize(("outputs", "key"), [(3, "logit_bias"), (2000, "allowed_token_ids")])
def test_unknown_tokens_are_kept_out(
    server: CompletionServer, engine_at: Make, tokenizer: Any, tmp_path: Path, outputs: int, key: str
) -> None:
    tokenizer.save_pretrained(tmp_path)
    known = len(tokenizer)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "vocab_size": known + outputs}))
    engine = engine_at(server, tokenizer=str(tmp_path))
    run(engine, rows(1))
    biased = {str(i): -100 for i in range(known, known + 3)}
    assert server.requests[-1][key] == (biased if outputs == 3 else list(range(known)))
    run(engine, rows(1, banned_ids=(0,)))
    assert server.requests[-1][key] == ({"0": -100} | biased if outputs == 3 else list(range(1, known)))
    server.changes = {"token_ids": [5, 6, 7, known]}
    with pytest.raises(ValueError, match=rf"tokenizer does not know: \[{known}\]"):
        run(engine, rows(1))


def test_no_more_requests_at_once_than_asked(server: CompletionServer, engine_at: Make) -> None:
    def slow(endpoint: Endpoint) -> None:
        time.sleep(0.05)
        endpoint.reply(500, b"")

    engine = engine_at(server, concurrency=3)
    server.faults = [slow] * 9
    followed: Counter[int] = Counter()

    def follow(index: int, generation: Generation) -> Request | None:
        followed[index] += 1
        prompt = (20 + index, 30, 40, *generation.token_ids)
        return (
            Request(prompt_ids=prompt, params=SamplingParams(max_tokens=2)) if followed[index] < 3 else None
        )

    generations = run(engine, rows(12), follow)
    assert server.most_busy == 3
    assert all(len(g.token_ids) == 2 for g in generations)
    assert followed == dict.fromkeys(range(12), 3)


def test_a_call_left_early_stops_sending(server: CompletionServer, engine_at: Make) -> None:
    engine = engine_at(server, concurrency=2)
    server.faults = [answers, *[hangs] * 49]
    call: Any = engine.generate(rows(50))
    assert next(call)
    call.close()
    assert not waiting()
    server.released.set()
    assert len(server.generated()) <= 3
    server.faults = []
    assert run(engine, rows(2))


def test_inside_a_running_event_loop(server: CompletionServer, engine_at: Make) -> None:
    async def main() -> list[Generation]:
        return run(engine_at(server), rows(3))

    assert len(asyncio.run(main())) == 3


KILLED = int(os.environ.get("SLOWTHINK_KILLED_REQUESTS", "200"))
"""Requests of the test that kills the server in the middle."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_a_server_killed_in_the_middle_loses_nothing(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    served_model = save_deciding_model(tokenizer, tmp_path / "model")
    make: Callable[[Path, Path], Server] = vllm_server if kind == "vllm" else transformers_server
    with make(served_model, tmp_path) as server:
        name = "tiny" if kind == "vllm" else str(served_model)
        options = {"base_url": server.url, "tokenizer": str(served_model), "max_model_tokens": 512}
        engine = OpenAIEngine(name, concurrency=8, options=options)
        params = SamplingParams(max_tokens=16, temperature=0)
        prompts = [tuple(engine.tokenizer("hello world " * (1 + i))["input_ids"]) for i in range(8)]
        expected = [g.text for g in run(engine, [Request(prompt_ids=p, params=params) for p in prompts])]
        requests = [Request(prompt_ids=prompts[i % 8], params=params) for i in range(KILLED)]
        texts: list[tuple[int, str]] = []
        for batch in engine.generate(requests):
            before = len(texts)
            texts += [(index, generation.text) for index, generation in batch]
            if before < KILLED // 4 <= len(texts):
                server.kill()
                server.start()
    assert sorted(texts) == [(i, expected[i % 8]) for i in range(KILLED)]
    assert engine.client.resent.total() >= 8
    print(f"{KILLED} requests, sent again: {dict(engine.client.resent)}")
