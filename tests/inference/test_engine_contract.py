"""What every engine keeps: the same tests for all, with transformers' own generate as the judge.

Engine `vllm` runs where vLLM can be imported; `$SLOWTHINK_VLLM_PYTHON -m pytest` runs it where it has an
environment of its own, which a test here does as well.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.thinking import THINK_TAGS
from inference.budget import Budget, force
from inference.engine import Engine, EngineOptions, Generation, Request, SamplingParams, load_engine
from tests.inference.servers import (
    ON_CPU,
    VLLM_PYTHON,
    WITHOUT_VLLM,
    save_deciding_model,
    transformers_server,
    vllm_server,
)


@pytest.fixture(scope="module")
def model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_deciding_model(tokenizer, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def reference(model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


@pytest.fixture(
    scope="module",
    params=[
        "transformers",
        pytest.param("vllm", marks=pytest.mark.vllm),
        pytest.param("openai", marks=[pytest.mark.vllm, pytest.mark.slow]),
    ],
)
def engine(request: Any, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "transformers":
        yield load_engine(EngineOptions(model_name_or_path=str(model), dtype="float32", batch_size=4))
    elif request.param == "vllm":
        if importlib.util.find_spec("vllm") is None:
            pytest.skip(f"vLLM is not in this environment; {WITHOUT_VLLM}")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (ON_CPU | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}).items():
                patch.setenv(name, value)
            options = {"enforce_eager": True, "max_model_len": 512}
            yield load_engine(
                EngineOptions(
                    model_name_or_path=str(model), engine="vllm", dtype="float32", engine_options=options
                )
            )
    else:
        with vllm_server(model, tmp_path_factory.mktemp("vllm")) as server:
            options = {"base_url": server.url, "tokenizer": str(model)}
            yield load_engine(
                EngineOptions(
                    model_name_or_path="tiny", engine="openai", batch_size=4, engine_options=options
                )
            )


def requests(engine: Engine, count: int = 6, **params: Any) -> list[Request]:
    texts = ["hello world " * (1 + i % 4) + str(i) for i in range(count)]
    sampling = SamplingParams(**{"max_tokens": 16, "temperature": 0, **params})
    return [request(engine, text, sampling, seed=i) for i, text in enumerate(texts)]


def request(engine: Engine, text: str, params: SamplingParams, seed: int = 0) -> Request:
    return Request(prompt_ids=tuple(engine.tokenizer(text)["input_ids"]), params=params, seed=seed)


def run(engine: Engine, rows: Sequence[Request], follow: Any = None) -> list[Generation]:
    pairs = [pair for batch in engine.generate(rows, follow) for pair in batch]
    assert sorted(index for index, _ in pairs) == list(range(len(rows)))
    return [generation for _, generation in sorted(pairs, key=lambda pair: pair[0])]


def greedy(reference: Any, prompt_ids: Sequence[int], max_tokens: int) -> list[int]:
    ids = torch.tensor([list(prompt_ids)])
    output = reference.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens
    )
    return output[0, len(prompt_ids) :].tolist()


def test_greedy_is_transformers_own(engine: Engine, reference: Any) -> None:
    rows = requests(engine, 10, max_tokens=24)
    for row, generation in zip(rows, run(engine, rows), strict=True):
        assert generation.token_ids == greedy(reference, row.prompt_ids, 24)
        assert generation.text == engine.tokenizer.decode(generation.token_ids)
        assert (generation.finish_reason, generation.stop_reason) == ("length", None)
        assert generation.logprobs is None


def test_the_end_token_ends_and_is_not_text(engine: Engine) -> None:
    row = request(engine, "hello<|im_start|>", SamplingParams(max_tokens=8, temperature=0, stop=("zzz",)))
    [generation] = run(engine, [row])
    assert generation.token_ids == [engine.tokenizer.eos_token_id]
    assert (generation.text, generation.finish_reason, generation.stop_reason) == ("", "stop", None)


def test_a_stop_text_ends_and_stays(engine: Engine) -> None:
    rows = requests(engine)
    for row, free in zip(rows, run(engine, rows), strict=True):
        early, late = free.text[2:6], free.text[9:11]
        [stopped] = run(engine, requests_with_stop([row], late, early, "nowhere in it"))
        end = min(free.text.index(stop) + len(stop) for stop in (early, late))
        assert stopped.text == free.text[:end]
        assert (stopped.finish_reason, stopped.stop_reason) in {("stop", early), ("stop", late)}
        assert stopped.text.endswith(stopped.stop_reason or "?")
        assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]
        shorter = engine.tokenizer.decode(stopped.token_ids[:-1])
        assert early not in shorter
        assert late not in shorter


def requests_with_stop(rows: Sequence[Request], *stop: str) -> list[Request]:
    return [
        Request(
            prompt_ids=row.prompt_ids,
            params=SamplingParams(max_tokens=row.params.max_tokens, temperature=0, stop=stop),
        )
        for row in rows
    ]


def test_a_stop_text_is_not_matched_across_the_prompts_end(engine: Engine) -> None:
    rows = requests(engine)
    frees = run(engine, rows)
    for row, free in zip(rows, frees, strict=True):
        across = str(engine.tokenizer.decode(list(row.prompt_ids)))[-3:] + free.text[:1]
        if across not in free.text:
            assert run(engine, requests_with_stop([row], across)) == [free]


def test_seeds_make_samples(engine: Engine) -> None:
    params = SamplingParams(max_tokens=12, temperature=1.0, top_p=0.95)
    rows = [request(engine, "hello world", params, seed=seed) for seed in (1, 2, 2**62, 1)]
    first, other, large, again = run(engine, rows)
    assert first.token_ids == again.token_ids
    assert len({tuple(g.token_ids) for g in (first, other, large)}) == 3
    assert [g.token_ids for g in run(engine, rows)] == [g.token_ids for g in (first, other, large, again)]


def test_top_k_of_one_is_greedy(engine: Engine) -> None:
    sampled = run(engine, requests(engine, temperature=1.0, top_k=1))
    assert [g.token_ids for g in sampled] == [g.token_ids for g in run(engine, requests(engine))]


@pytest.mark.parametrize("params", [{}, {"temperature": 0.7, "top_k": 3}, {"temperature": 1.3, "top_p": 0.8}])
def test_log_probabilities_are_the_models(engine: Engine, reference: Any, params: dict) -> None:
    rows = requests(engine, 3, logprobs=True, **params)
    for row, generation in zip(rows, run(engine, rows), strict=True):
        ids = torch.tensor([[*row.prompt_ids, *generation.token_ids]])
        with torch.inference_mode():
            logits = reference(ids).logits[0, len(row.prompt_ids) - 1 : -1]
        logprobs = logits.log_softmax(-1)
        expected = [logprobs[i, token].item() for i, token in enumerate(generation.token_ids)]
        assert generation.logprobs == pytest.approx(expected, abs=1e-3)


def test_a_prefix_is_continued_token_by_token(engine: Engine) -> None:
    rows = requests(engine, max_tokens=20)
    whole = [g.token_ids for g in run(engine, rows)]
    params = SamplingParams(max_tokens=10, temperature=0)
    rest = [
        Request(prompt_ids=(*row.prompt_ids, *ids[:10]), params=params)
        for row, ids in zip(rows, whole, strict=True)
    ]
    assert [g.token_ids for g in run(engine, rest)] == [ids[10:] for ids in whole]


@pytest.mark.parametrize("max_tokens", [1, 7])
def test_max_tokens(engine: Engine, max_tokens: int) -> None:
    for generation in run(engine, requests(engine, max_tokens=max_tokens)):
        assert len(generation.token_ids) == max_tokens
        assert generation.finish_reason == "length"


def test_the_longest_sequence_fits(engine: Engine) -> None:
    params = SamplingParams(max_tokens=2, temperature=0)
    longest = Request(prompt_ids=(5,) * (engine.max_model_tokens - 2), params=params)
    assert len(run(engine, [longest])[0].token_ids) <= 2
    too_long = Request(prompt_ids=(5,) * (engine.max_model_tokens - 1), params=params)
    with pytest.raises(ValueError, match="request 1"):
        next(engine.generate([longest, too_long]))


def test_nothing_and_empty_prompts(engine: Engine) -> None:
    assert list(engine.generate([])) == []
    with pytest.raises(ValueError, match=r"request 0.*empty"):
        next(engine.generate([Request(prompt_ids=(), params=SamplingParams(max_tokens=4))]))


def test_unknown_tokens_are_never_generated(engine: Engine, reference: Any) -> None:
    known = len(engine.tokenizer)
    params = [SamplingParams(max_tokens=6, temperature=t) for t in (0.0, 1.0, 1.0, 1.5)]
    rows = [request(engine, "hello<|fim_pad|>", p, seed=i) for i, p in enumerate(params)]
    assert greedy(reference, rows[0].prompt_ids, 1)[0] >= known
    for generation in run(engine, rows):
        assert max(generation.token_ids) < known
        assert len(generation.token_ids) > 0


def test_banned_tokens_are_never_generated(engine: Engine, reference: Any) -> None:
    [row] = requests(engine, 1)
    free = greedy(reference, row.prompt_ids, 16)
    banned = (free[0], free[5])
    greedily, sampled = run(
        engine,
        [
            request(engine, "hello world 0", SamplingParams(max_tokens=16, temperature=t, banned_ids=banned))
            for t in (0.0, 1.0)
        ],
    )
    assert not {*greedily.token_ids, *sampled.token_ids}.intersection(banned)
    assert free[0] not in greedily.token_ids


def test_follow_goes_on_in_place(engine: Engine) -> None:
    rows = requests(engine, 6, max_tokens=8)
    plain = run(engine, rows)
    seen: list[int] = []

    def follow(index: int, generation: Generation) -> Request | None:
        seen.append(index)
        if index % 2 or seen.count(index) == 3:
            return None
        prefix = (*rows[index].prompt_ids, *generation.token_ids)
        if seen.count(index) == 2:
            prefix = (*rows[index].prompt_ids, *plain[index].token_ids, *generation.token_ids)
        return Request(prompt_ids=prefix, params=SamplingParams(max_tokens=4, temperature=0))

    followed = run(engine, rows, follow)
    longer = run(engine, requests(engine, 6, max_tokens=16))
    for index in range(6):
        if index % 2:
            assert followed[index] == plain[index]
            assert seen.count(index) == 1
        else:
            assert seen.count(index) == 3
            assert followed[index].token_ids == longer[index].token_ids[12:]


def test_a_following_request_must_fit(engine: Engine) -> None:
    rows = requests(engine, 2, max_tokens=4)
    huge = Request(prompt_ids=(5,) * engine.max_model_tokens, params=rows[0].params)
    with pytest.raises(ValueError, match="does not fit"):
        run(engine, rows, lambda index, generation: huge)
    assert len(run(engine, rows)) == 2


def test_a_call_may_be_left_early(engine: Engine) -> None:
    rows = requests(engine, 10, max_tokens=24)
    rows[3] = requests(engine, 4, max_tokens=2)[3]
    call: Any = engine.generate(rows)
    assert next(call)
    call.close()
    if llm := getattr(engine, "llm", None):
        assert not llm.llm_engine.has_unfinished_requests()
    assert [g.token_ids for g in run(engine, rows[:3])] == [g.token_ids for g in run(engine, rows)[:3]]


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("options", "message"),
    [({"tensor_paralel_size": 2}, "tensor_paralel_size"), ({"logprobs_mode": "raw_logits"}, "logprobs_mode")],
)
def test_wrong_vllm_options_are_named(model: Path, options: dict, message: str) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip(f"vLLM is not in this environment; {WITHOUT_VLLM}")
    with pytest.raises(ValueError, match=f"engine_options: .*{message}"):
        load_engine(EngineOptions(model_name_or_path=str(model), engine="vllm", engine_options=options))


def test_missing_vllm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'slowthink\[vllm\]'"):
        load_engine(EngineOptions(model_name_or_path="any", engine="vllm"))


def test_budget_forcing_writes_what_the_transformers_engine_writes(engine: Engine, model: Path) -> None:
    """Greedy, with the same weights: the most, the least, waits and an end of its own, all at once."""
    own = load_engine(EngineOptions(model_name_or_path=str(model), dtype="float32", batch_size=4))
    rows = requests(own, 5, max_tokens=80)
    free = [generation.text for generation in run(own, rows)]
    tag = next(
        c for c in free[0][8:] if c.isascii() and c.isprintable() and sum(c in text for text in free) > 1
    )
    form = replace(THINK_TAGS, start="", middle=tag, end_of_thinking=tag, tags=(tag,))
    limits = [(20, 0, 0), (30, 30, 0), (40, 10, 2), (None, 0, 1), (0, 0, 0)]
    budgets = [
        Budget(max_thinking_tokens=most, min_thinking_tokens=least, waits=waits, answer_tokens=20)
        for most, least, waits in limits
    ]

    def forced(by: Engine) -> list[tuple[list[int], str]]:
        pairs = dict(pair for batch in force(by, rows, budgets, form) for pair in batch)
        return [(pairs[index].token_ids, pairs[index].text) for index in range(len(rows))]

    assert forced(engine) == forced(own)


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_in_its_own_environment() -> None:
    if importlib.util.find_spec("vllm") is not None:
        pytest.skip("vLLM is in this environment: its tests run here")
    if not VLLM_PYTHON:
        pytest.skip(WITHOUT_VLLM)
    command = [
        VLLM_PYTHON,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-rs",
        __file__,
        "-k",
        "[vllm or wrong_vllm",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ON_CPU}, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "skipped" not in done.stdout, done.stdout[-2000:]


@pytest.fixture(scope="module")
def text_engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """transformers serve: prompts as text, no token ids, no log-probabilities, no stop reason."""
    from inference.openai_engine import OpenAIEngine

    with transformers_server(model, tmp_path_factory.mktemp("serve")) as server:
        options = {"base_url": server.url, "tokenizer": str(model), "max_model_tokens": 512}
        made = OpenAIEngine(str(model), concurrency=4, options=options)
        assert made.abilities == (False, False, None, None, False, False)
        yield made


@pytest.mark.slow
def test_a_text_server_agrees(text_engine: Engine, reference: Any) -> None:
    rows = requests(text_engine, 4)
    for row, generation in zip(rows, run(text_engine, rows), strict=True):
        expected = greedy(reference, row.prompt_ids, 16)
        assert generation.text == text_engine.tokenizer.decode(expected, skip_special_tokens=True)
        assert generation.token_ids == text_engine.tokenizer(generation.text)["input_ids"]
        assert generation.finish_reason == "length"


@pytest.mark.slow
def test_a_text_servers_completions_end_at_stop_texts(text_engine: Engine) -> None:
    rows = requests(text_engine, 2)
    for row, free in zip(rows, run(text_engine, rows), strict=True):
        stop = free.text[3:6]
        [stopped] = run(text_engine, requests_with_stop([row], stop, "nowhere in it"))
        assert stopped.text == free.text[: free.text.index(stop) + len(stop)]
        assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop)


@pytest.mark.slow
def test_what_a_text_server_lacks_is_refused(text_engine: Engine) -> None:
    with pytest.raises(ValueError, match="logprobs"):
        run(text_engine, requests(text_engine, 1, logprobs=True))
    with pytest.raises(ValueError, match="banned_ids"):
        run(text_engine, requests(text_engine, 1, banned_ids=(7,)))
    lone_byte = text_engine.tokenizer("€")["input_ids"][:1]
    with pytest.raises(ValueError, match=r"request 0.*prompts as text alone"):
        run(text_engine, [Request(prompt_ids=tuple(lone_byte), params=SamplingParams(max_tokens=2))])
