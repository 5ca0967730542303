"""`benchmarks.engines`: the work is what it says, the references do it, the last line is one JSON object."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from benchmarks import engines
from benchmarks.engines_reference import (
    SAMPLES,
    ContinuousBatching,
    generate_padded,
    make_requests,
    save_small_model,
)
from inference.engine import Request
from inference.models import load_model
from inference.transformers_engine import TransformersEngine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    folder = save_small_model(tmp_path_factory.mktemp("small"))
    made = TransformersEngine.load(str(folder), dtype="float32", batch_size=4)
    made.end_ids = []
    return made


@pytest.fixture
def requests(engine: TransformersEngine) -> list[Request]:
    return make_requests(engine.tokenizer, 9, (5, 30), (2, 12), temperature=0.0)


def test_work_is_mixed_and_half_of_it_shares_prompts(engine: TransformersEngine) -> None:
    requests = make_requests(engine.tokenizer, 2000, (20, 300), (16, 512))
    lengths = [request.params.max_tokens for request in requests]
    assert (min(lengths), max(lengths)) == (pytest.approx(16, abs=1), pytest.approx(512, abs=5))
    assert median(lengths) == pytest.approx((16 * 512) ** 0.5, rel=0.1)
    counts = Counter(request.prompt_ids for request in requests)
    assert sum(count for count in counts.values() if count >= SAMPLES) == pytest.approx(1000, abs=150)
    assert all(20 <= len(prompt) <= 300 for prompt in counts)
    assert len({request.seed for request in requests}) == len(requests)


def test_references_generate_what_ours_does(engine: TransformersEngine, requests: list[Request]) -> None:
    ours = engines.outputs(engine, requests)
    assert [len(ids) for ids in ours] == [request.params.max_tokens for request in requests]
    assert generate_padded(load_model(engine.name), requests, 4) == ours
    with ContinuousBatching(load_model(engine.name), 4, 42, 0.0) as continuous:
        assert continuous.generate(requests) == ours


def test_a_way_that_does_less_is_found(engine: TransformersEngine, requests: list[Request]) -> None:
    with pytest.raises(AssertionError):
        engines.timed(lambda work: [ids[:-1] for ids in engines.outputs(engine, work)], requests)


def test_rounds_go_on_from_what_was_generated(engine: TransformersEngine, requests: list[Request]) -> None:
    wait = (7, 8, 9)
    rows = [replace(requests[0], prompt_ids=(5, 6)), replace(requests[1], prompt_ids=(9, 9, 9, 8))]
    final = sum(
        len(r.prompt_ids) + r.params.max_tokens * (engines.WAITS + 1) + 3 * engines.WAITS for r in rows
    )
    before = engine.forwarded_tokens
    assert engines.through_follow(engine, rows, wait) == final
    assert engine.forwarded_tokens - before == final - len(rows)  # the last token goes through no model
    before = engine.forwarded_tokens
    assert engines.by_calls(engine, rows, wait) == final
    assert engine.forwarded_tokens - before > 2 * final


def test_last_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SLOWTHINK_CACHE", str(tmp_path))  # without SmolLM2
    tiny = engines.QUICK["small"]._replace(requests=6, prompt=(5, 20), output=(2, 16), checked=4)
    monkeypatch.setattr(engines, "QUICK", engines.QUICK | {"small": tiny})
    monkeypatch.setattr("sys.argv", ["engines", "--quick"])
    engines.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["speedup_vs_generate"] == result["speedup_vs_generate_small"] > 0
    assert result["speedup_vs_continuous_batching_small"] > 0
    assert result["greedy_equal_small"] == 1
    assert 0.9 < result["forwarded_per_final_token"] < 1 < result["forwarded_per_final_token_new_calls"]
    assert "fetch-model smollm2" in result["smollm2_skipped"]
