from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine import Generation, Request, SamplingParams
from inference.transformers_engine import TransformersEngine


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine(str(tiny_model), dtype="float32", batch_size=4)


def requests(engine: TransformersEngine, count: int = 10) -> list[Request]:
    texts = ["hello world " * (1 + i % 4) + str(i) for i in range(count)]
    return [Request(prompt_ids=tuple(engine.tokenizer(t)["input_ids"]), seed=i) for i, t in enumerate(texts)]


def run(engine: TransformersEngine, rows: list[Request], params: SamplingParams) -> list[Generation]:
    pairs = [pair for batch in engine.generate(rows, params) for pair in batch]
    assert sorted(index for index, _ in pairs) == list(range(len(rows)))
    return [generation for _, generation in sorted(pairs, key=lambda pair: pair[0])]


def test_greedy_equals_plain_generate_one_by_one(engine: TransformersEngine) -> None:
    rows = [*requests(engine, 6), *requests(engine, 3)]  # repeated prompts share their prefill
    for row, generation in zip(
        rows, run(engine, rows, SamplingParams(max_tokens=12, temperature=0)), strict=True
    ):
        ids = torch.tensor([row.prompt_ids])
        expected = engine.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=engine.end_ids,
        )
        assert generation.token_ids == expected[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("params", [{}, {"top_p": 0.7}, {"top_k": 5, "temperature": 0.5}])
def test_same_seed_same_tokens_in_any_batch(engine: TransformersEngine, params: dict) -> None:
    rows = requests(engine)
    sampling = SamplingParams(max_tokens=12, **params)
    together = run(engine, rows, sampling)
    alone = [run(engine, [row], sampling)[0] for row in rows]
    assert [g.token_ids for g in together] == [g.token_ids for g in alone]
    other = run(engine, [Request(prompt_ids=r.prompt_ids, seed=r.seed + 1000) for r in rows], sampling)
    assert [g.token_ids for g in together] != [g.token_ids for g in other]


def test_repeated_prompts_share_their_prefill(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [row.prompt_ids for row in requests(engine, 2)]
    rows = [Request(prompt_ids=prompts[i % 2], seed=i) for i in range(4)]
    seen: list[int] = []
    forward = engine.model.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["input_ids"].numel())
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine.model, "forward", counting)
    shared = run(engine, rows, SamplingParams(max_tokens=6))
    width = max(map(len, prompts))
    assert seen[0] == 2 * (width - 1)
    assert seen[1:] == [4] * (len(seen) - 1)
    assert [g.token_ids for g in shared] == [
        run(engine, [r], SamplingParams(max_tokens=6))[0].token_ids for r in rows
    ]


def test_logprobs_are_the_models(engine: TransformersEngine) -> None:
    row = requests(engine, 1)[0]
    generation = run(engine, [row], SamplingParams(max_tokens=8, temperature=0.7, top_k=3))[0]
    ids = torch.tensor([[*row.prompt_ids, *generation.token_ids]])
    with torch.inference_mode():
        logprobs = engine.model(ids).logits.float().log_softmax(-1)[0, len(row.prompt_ids) - 1 : -1]
    expected = [logprobs[i, token].item() for i, token in enumerate(generation.token_ids)]
    assert generation.logprobs == pytest.approx(expected, abs=1e-4)


def test_samples_follow_the_models_distribution(engine: TransformersEngine) -> None:
    prompt = requests(engine, 1)[0].prompt_ids
    rows = [Request(prompt_ids=prompt, seed=seed) for seed in range(2000)]
    engine_wide = TransformersEngine(engine.name, dtype="float32", batch_size=500)
    first = [g.token_ids[0] for g in run(engine_wide, rows, SamplingParams(max_tokens=1, top_k=4))]
    with torch.inference_mode():
        logits = engine.model(torch.tensor([prompt])).logits[0, -1].float()
    top = logits.topk(4)
    for token, probability in zip(top.indices.tolist(), top.values.softmax(-1).tolist(), strict=True):
        assert first.count(token) / len(first) == pytest.approx(probability, abs=0.05)
    assert set(first) <= set(top.indices.tolist())


def test_end_token_ends_and_is_not_text(engine: TransformersEngine) -> None:
    rows = requests(engine, 4)
    free = run(engine, rows, SamplingParams(max_tokens=12, temperature=0))
    assert {g.finish_reason for g in free} <= {"stop", "length"}
    end = free[0].token_ids[3]
    ending = TransformersEngine(engine.name, dtype="float32", batch_size=4)
    ending.end_ids = [end]
    stopped = run(ending, rows, SamplingParams(max_tokens=12, temperature=0))[0]
    cut = free[0].token_ids.index(end)
    assert stopped.token_ids == free[0].token_ids[: cut + 1]
    assert stopped.finish_reason == "stop"
    assert stopped.text == engine.tokenizer.decode(free[0].token_ids[:cut])
    assert len(stopped.logprobs) == len(stopped.token_ids)


def test_stop_string_ends_and_stays(engine: TransformersEngine) -> None:
    rows = requests(engine, 3)
    free = run(engine, rows, SamplingParams(max_tokens=12, temperature=0))[1]
    stop = free.text[3:5]
    stopped = run(engine, rows, SamplingParams(max_tokens=12, temperature=0, stop=(stop,)))[1]
    assert stopped.finish_reason == "stop"
    assert stopped.text == free.text[: free.text.index(stop) + len(stop)]
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]


@pytest.mark.parametrize("prompt_ids", [(), (5,) * 2040])
def test_prompts_that_do_not_fit_are_refused(engine: TransformersEngine, prompt_ids: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="request 0"):
        next(engine.generate([Request(prompt_ids=prompt_ids, seed=0)], SamplingParams(max_tokens=20)))


def test_no_requests_no_batches(engine: TransformersEngine) -> None:
    assert list(engine.generate([], SamplingParams(max_tokens=4))) == []


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_k": -1}])
def test_sampling_parameters_are_checked(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**{"max_tokens": 4, **wrong})


def test_folder_without_tokenizer_is_named(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(ValueError, match="has no tokenizer"):
        TransformersEngine(str(tmp_path), dtype="float32", batch_size=4)
