from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.engine import Generation, Request, SamplingParams
from inference.models import load_model
from inference.slot_cache import SlotCache
from inference.transformers_engine import TransformersEngine


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine.load(str(tiny_model), dtype="float32", batch_size=4)


ANY = SamplingParams(max_tokens=1)


def requests(engine: TransformersEngine, count: int = 10, params: SamplingParams = ANY) -> list[Request]:
    texts = ["hello world " * (1 + i % 4) + str(i) for i in range(count)]
    prompts = [tuple(engine.tokenizer(text)["input_ids"]) for text in texts]
    return [Request(prompt_ids=ids, params=params, seed=i) for i, ids in enumerate(prompts)]


def run(
    engine: TransformersEngine, rows: list[Request], params: SamplingParams | None = None, follow: Any = None
) -> list[Generation]:
    rows = rows if params is None else [replace(row, params=params) for row in rows]
    pairs = [pair for batch in engine.generate(rows, follow) for pair in batch]
    assert sorted(index for index, _ in pairs) == list(range(len(rows)))
    return [generation for _, generation in sorted(pairs, key=lambda pair: pair[0])]


def test_greedy_equals_plain_generate_one_by_one(engine: TransformersEngine) -> None:
    rows = [*requests(engine, 6), *requests(engine, 3)]  # repeated prompts share their prefill
    plain = load_model(engine.name, dtype="float32")
    for row, generation in zip(
        rows, run(engine, rows, SamplingParams(max_tokens=12, temperature=0)), strict=True
    ):
        ids = torch.tensor([row.prompt_ids])
        expected = plain.generate(
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
    other = run(engine, [replace(r, seed=r.seed + 1000) for r in rows], sampling)
    assert [g.token_ids for g in together] != [g.token_ids for g in other]


def test_repeated_prompts_are_computed_once(engine: TransformersEngine) -> None:
    prompts = [row.prompt_ids for row in requests(engine, 2)]
    rows = [Request(prompt_ids=prompts[i % 2], params=SamplingParams(max_tokens=6), seed=i) for i in range(4)]
    before = engine.forwarded_tokens
    shared = run(engine, rows)
    generated = sum(len(g.token_ids) for g in shared)
    assert engine.forwarded_tokens - before == sum(len(ids) - 1 for ids in prompts) + generated
    assert [g.token_ids for g in shared] == [run(engine, [r])[0].token_ids for r in rows]


def test_logprobs_are_the_models(engine: TransformersEngine) -> None:
    row = requests(engine, 1)[0]
    generation = run(engine, [row], SamplingParams(max_tokens=8, temperature=0.7, top_k=3, logprobs=True))[0]
    ids = torch.tensor([[*row.prompt_ids, *generation.token_ids]])
    plain = load_model(engine.name, dtype="float32")
    with torch.inference_mode():
        logprobs = plain(ids).logits.float().log_softmax(-1)[0, len(row.prompt_ids) - 1 : -1]
    expected = [logprobs[i, token].item() for i, token in enumerate(generation.token_ids)]
    assert generation.logprobs == pytest.approx(expected, abs=1e-4)


def test_samples_follow_the_models_distribution(engine: TransformersEngine) -> None:
    prompt = requests(engine, 1)[0].prompt_ids
    rows = [Request(prompt_ids=prompt, params=ANY, seed=seed) for seed in range(2000)]
    engine_wide = TransformersEngine.load(engine.name, dtype="float32", batch_size=500)
    first = [g.token_ids[0] for g in run(engine_wide, rows, SamplingParams(max_tokens=1, top_k=4))]
    with torch.inference_mode():
        logits = load_model(engine.name, dtype="float32")(torch.tensor([prompt])).logits[0, -1].float()
    top = logits.topk(4)
    for token, probability in zip(top.indices.tolist(), top.values.softmax(-1).tolist(), strict=True):
        assert first.count(token) / len(first) == pytest.approx(probability, abs=0.05)
    assert set(first) <= set(top.indices.tolist())


def test_end_token_ends_and_is_not_text(engine: TransformersEngine) -> None:
    rows = requests(engine, 4)
    free = run(engine, rows, SamplingParams(max_tokens=12, temperature=0))
    assert {g.finish_reason for g in free} <= {"stop", "length"}
    end = free[0].token_ids[3]
    ending = TransformersEngine.load(engine.name, dtype="float32", batch_size=4)
    ending.end_ids = [end]
    stopped = run(ending, rows, SamplingParams(max_tokens=12, temperature=0))[0]
    cut = free[0].token_ids.index(end)
    assert stopped.token_ids == free[0].token_ids[: cut + 1]
    assert stopped.finish_reason == "stop"
    assert stopped.text == engine.tokenizer.decode(free[0].token_ids[:cut])


def test_stop_string_ends_and_stays(engine: TransformersEngine) -> None:
    rows = requests(engine, 3)
    free = run(engine, rows, SamplingParams(max_tokens=12, temperature=0))[1]
    stop = free.text[3:5]
    stopped = run(engine, rows, SamplingParams(max_tokens=12, temperature=0, stop=(stop,)))[1]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop)
    assert stopped.text == free.text[: free.text.index(stop) + len(stop)]
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]


@pytest.mark.parametrize("prompt_ids", [(), (5,) * 2040])
def test_prompts_that_do_not_fit_are_refused(engine: TransformersEngine, prompt_ids: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="request 0"):
        next(engine.generate([Request(prompt_ids=prompt_ids, params=SamplingParams(max_tokens=20))]))


def test_no_requests_no_batches(engine: TransformersEngine) -> None:
    assert list(engine.generate([])) == []


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"top_k": -1}])
def test_sampling_parameters_are_checked(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**{"max_tokens": 4, **wrong})


def test_folder_without_tokenizer_is_named(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(ValueError, match="has no tokenizer"):
        TransformersEngine.load(str(tmp_path), dtype="float32", batch_size=4)


def test_rows_follow_in_their_place(engine: TransformersEngine) -> None:
    """Rows go on with given tokens, others are not disturbed, and what is known is not computed again."""
    greedy = SamplingParams(max_tokens=20, temperature=0)
    rows = requests(engine, 6, greedy)
    given = tuple(engine.tokenizer(" Wait, ")["input_ids"])
    parts: dict[int, list[int]] = {}

    def follow(index: int, generation: Generation) -> Request | None:
        if index % 2 or index in parts:
            return None
        parts[index] = generation.token_ids[:7]
        return replace(rows[index], prompt_ids=rows[index].prompt_ids + tuple(parts[index]) + given)

    free, before = run(engine, rows), engine.forwarded_tokens
    followed = run(engine, rows, follow=follow)
    prompts = sum(len(row.prompt_ids) - 1 for row in rows)
    again = sum(len(g.token_ids) for g in (*followed, *free[::2])) + 3 * (len(given) - 1)
    assert engine.forwarded_tokens - before == prompts + again
    for index, (row, generation) in enumerate(zip(rows, followed, strict=True)):
        if index % 2:
            assert generation == free[index]
        else:
            prompt = row.prompt_ids + tuple(parts[index]) + given
            assert generation == run(engine, [replace(row, prompt_ids=prompt)])[0]


def test_a_longer_or_other_prompt_may_follow(engine: TransformersEngine) -> None:
    row = requests(engine, 1, SamplingParams(max_tokens=5, temperature=0))[0]
    for prompt in (row.prompt_ids + tuple(range(40, 90)), tuple(range(50, 58)), row.prompt_ids[:2]):
        once = [replace(row, prompt_ids=prompt)]
        followed = run(
            engine, [row], follow=lambda index, generation, left=list(once): left.pop() if left else None
        )
        assert followed == run(engine, once)
    with pytest.raises(ValueError, match="does not fit"):
        run(engine, [row], follow=lambda index, generation: replace(row, prompt_ids=(5,) * 4000))


@pytest.mark.parametrize("tokens", [64, 128, 200, 400])
def test_memory_is_bounded_and_changes_nothing(
    tiny_model: Path, engine: TransformersEngine, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = TransformersEngine.load(str(tiny_model), dtype="float32", batch_size=6, max_kv_tokens=tokens)
    rows = requests(engine, 9, SamplingParams(max_tokens=40))
    most, resize = [], SlotCache.resize

    def watched(cache: SlotCache, slots: int, capacity: int) -> None:
        most.append(slots * capacity)
        resize(cache, slots, capacity)

    monkeypatch.setattr(SlotCache, "resize", watched)
    bounded = run(small, rows)
    assert max(most) <= tokens
    assert bounded == run(engine, rows)
    with pytest.raises(ValueError, match="max_kv_tokens"):
        run(small, requests(engine, 1, SamplingParams(max_tokens=tokens)))


def test_out_of_memory_halves_the_rows(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = requests(engine, 8, SamplingParams(max_tokens=12))
    expected, forward = run(engine, rows), engine.forward

    def small(cache: SlotCache, first: int, ids_RT: torch.Tensor, starts: list[int]) -> torch.Tensor:
        if len(starts) > 1:
            raise torch.OutOfMemoryError("no room")
        return forward(cache, first, ids_RT, starts)

    monkeypatch.setattr(engine, "forward", small)
    assert run(engine, rows) == expected
    assert "out of memory with 4 rows, going on with 2" in caplog.text
    monkeypatch.setattr(engine, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("never")))
    with pytest.raises(torch.OutOfMemoryError, match="never"):
        run(engine, rows)


@pytest.mark.parametrize("stop", ["最终答案", "🙂🙂"])
def test_stop_texts_of_many_bytes_are_seen(engine: TransformersEngine, stop: str) -> None:
    ids = engine.tokenizer("ab " + stop)["input_ids"]
    assert engine.stops.found(ids, 0, (stop,))
    assert not engine.stops.found(ids[:-1], 0, (stop,))
    assert not engine.stops.found(ids, len(ids) - 1, (stop,))


def test_attention_that_slots_cannot_hold_is_refused(engine: TransformersEngine, tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=500,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    engine.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"cannot run the attention.*use engine: vllm"):
        TransformersEngine.load(str(tmp_path), dtype="float32", batch_size=2)


def test_an_error_of_follow_is_not_the_engines(engine: TransformersEngine) -> None:
    def broken(index: int, generation: Generation) -> None:
        raise torch.OutOfMemoryError("of a scorer")

    with pytest.raises(torch.OutOfMemoryError, match="of a scorer"):
        run(engine, requests(engine, 4, SamplingParams(max_tokens=3)), follow=broken)


def test_rows_of_other_parameters_share_a_call(engine: TransformersEngine) -> None:
    kinds = [
        SamplingParams(max_tokens=9, temperature=0),
        SamplingParams(max_tokens=4, top_k=3, logprobs=True),
        SamplingParams(max_tokens=12, top_p=0.5, temperature=0.7),
    ]
    rows = [replace(row, params=kinds[i % 3]) for i, row in enumerate(requests(engine, 9))]
    together = run(engine, rows)
    assert [g.token_ids for g in together] == [run(engine, [row])[0].token_ids for row in rows]
    assert [g.logprobs is None for g in together] == [True, False, True] * 3
