from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engine import EngineOptions, Generation, Request, SamplingParams, load_engine
from inference.prefix_cache import BLOCK, Block, PrefixCache
from inference.prefixes import shared_tokens
from inference.slot_cache import SlotCache
from inference.transformers_engine import TransformersEngine

GREEDY = SamplingParams(max_tokens=7, temperature=0)
SAMPLED = SamplingParams(max_tokens=7)
PROMPT = tuple(range(50, 93))


def engine_with(folder: Path, tokens: int, batch_size: int = 8, **options: Any) -> TransformersEngine:
    made = TransformersEngine.load(
        str(folder), dtype="float32", batch_size=batch_size, prefix_cache_tokens=tokens, **options
    )
    made.end_ids = []  # so that every row has its max_tokens
    return made


@pytest.fixture(scope="module")
def plain(tiny_model: Path) -> TransformersEngine:
    return engine_with(tiny_model, 0)


@pytest.fixture(scope="module")
def sliding_model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 whose second layer sees 6 tokens only."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-sliding"
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=6,
        max_window_layers=1,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(engine: TransformersEngine, rows: Sequence[Request], follow: Any = None) -> list[Generation]:
    pairs = [pair for batch in engine.generate(rows, follow) for pair in batch]
    assert sorted(index for index, _ in pairs) == list(range(len(rows)))
    return [generation for _, generation in sorted(pairs, key=lambda pair: pair[0])]


def forked(rows: Sequence[Request], found: Sequence[Generation], children: int) -> list[Request]:
    """That many requests that go on from each generation."""
    return [
        replace(row, prompt_ids=(*row.prompt_ids, *generation.token_ids), seed=row.seed + 100 * child)
        for row, generation in zip(rows, found, strict=True)
        for child in range(children)
    ]


def forwarded(engine: TransformersEngine, rows: Sequence[Request]) -> tuple[list[Generation], int]:
    before = engine.forwarded_tokens
    return run(engine, rows), engine.forwarded_tokens - before


def kept(engine: TransformersEngine) -> PrefixCache:
    assert engine.prefix_cache is not None
    return engine.prefix_cache


# ------------------------------------------------------------------ with the engine


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, replace(SAMPLED, top_p=0.8, logprobs=True)])
@pytest.mark.parametrize("model", ["tiny_model", "sliding_model"])
def test_tokens_are_those_without(params: SamplingParams, model: str, request: Any) -> None:
    folder = request.getfixturevalue(model)
    engines = engine_with(folder, 0), engine_with(folder, 1 << 14, batch_size=5)
    rows = [Request(prompt_ids=PROMPT[: 20 + i], params=params, seed=i) for i in range(4)]
    for _ in range(4):
        expected, found = (run(engine, rows) for engine in engines)
        assert [g.token_ids for g in found] == [g.token_ids for g in expected]
        if params.logprobs:
            torch.testing.assert_close(
                [g.logprobs for g in found], [g.logprobs for g in expected], atol=1e-4, rtol=0
            )
        rows = forked(rows[:4], found[:4], 3)


def test_a_fork_forwards_new_tokens_alone(tiny_model: Path) -> None:
    engine = engine_with(tiny_model, 1 << 12)
    rows = [Request(prompt_ids=PROMPT, params=SAMPLED)]
    found, count = forwarded(engine, rows)
    assert count == len(PROMPT) - 1 + 7
    for _ in range(3):
        rows = forked(rows[:1], found[:1], 4)
        found, count = forwarded(engine, rows)
        assert count == 4 * 7  # the last token that a row drew is forwarded by what goes on from it
    again, count = forwarded(engine, [Request(prompt_ids=PROMPT, params=SAMPLED)])
    assert count == 7  # back to an old node
    assert again == run(engine_with(tiny_model, 0), [Request(prompt_ids=PROMPT, params=SAMPLED)])


def test_equal_prompts_behind_a_kept_prefix_are_computed_once(
    tiny_model: Path, plain: TransformersEngine
) -> None:
    engine = engine_with(tiny_model, 1 << 12)
    run(engine, [Request(prompt_ids=PROMPT[:10], params=GREEDY)])
    for more in (5, 33):  # fewer and more than rows under way take one a step
        prompt = (*PROMPT[:10], *range(200 + more, 200 + 2 * more))
        rows = [Request(prompt_ids=prompt, params=SAMPLED, seed=i) for i in range(4)]
        found, count = forwarded(engine, rows)
        assert count == more - 1 + 4 * 7
        assert [g.token_ids for g in found] == [g.token_ids for g in run(plain, rows)]


def test_prefills_stay_together(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are known as a whole do not cut the others into many passes."""
    engine = engine_with(tiny_model, 1 << 12, batch_size=16)
    rows = [Request(prompt_ids=(*PROMPT, i), params=GREEDY) for i in range(100, 116)]
    run(engine, rows[::2])
    passes, forward = [], engine.forward

    def watched(cache: SlotCache, first: int, ids_RT: torch.Tensor, starts: list[int]) -> torch.Tensor:
        passes.append(tuple(ids_RT.shape))
        return forward(cache, first, ids_RT, starts)

    monkeypatch.setattr(engine, "forward", watched)
    longer = [replace(row, prompt_ids=(*row.prompt_ids, 7)) for row in rows[1::2]]
    run(engine, [row for pair in zip(rows[::2], longer, strict=True) for row in pair])
    assert passes == [(8, 1), *[(16, 1)] * 7]


def test_more_rows_than_the_batch(tiny_model: Path, plain: TransformersEngine) -> None:
    engine = engine_with(tiny_model, 1 << 13, batch_size=3)
    rows = [Request(prompt_ids=PROMPT, params=SAMPLED, seed=i) for i in range(10)]
    found, count = forwarded(engine, rows)
    assert count == len(PROMPT) - 1 + 10 * 7  # rows that wait begin with what finished ones leave
    assert [g.token_ids for g in found] == [g.token_ids for g in run(plain, rows)]
    rows = forked(rows, found, 2)
    found, count = forwarded(engine, rows)
    assert count == 20 * 7
    assert [g.token_ids for g in found] == [g.token_ids for g in run(plain, rows)]


def test_what_waiting_rows_need_is_not_dropped(tiny_model: Path) -> None:
    """Each of four prompts is kept in three blocks; there is no room for more."""
    engine = engine_with(tiny_model, 12 * BLOCK, batch_size=1)
    prompts = [(i, *PROMPT[:40]) for i in range(100, 104)]
    rows = [Request(prompt_ids=prompt, params=GREEDY, seed=i) for i, prompt in enumerate(prompts)]
    found = run(engine, rows)
    assert len(kept(engine).blocks) == 12
    rows = forked(rows, found, 1)
    _, count = forwarded(engine, rows)
    assert count == 4 * 7
    assert not any(block.needed for block in kept(engine).blocks)


def test_a_call_that_is_given_up_needs_nothing(tiny_model: Path) -> None:
    engine = engine_with(tiny_model, 1 << 12, batch_size=1)
    rows = [Request(prompt_ids=(i, *PROMPT), params=GREEDY) for i in range(3)]
    run(engine, rows)
    call: Any = engine.generate(rows)
    next(call)
    assert any(block.needed for block in kept(engine).blocks)
    call.close()
    assert not any(block.needed for block in kept(engine).blocks)


def test_forget(tiny_model: Path, plain: TransformersEngine) -> None:
    engine = engine_with(tiny_model, 1 << 12)
    rows = [Request(prompt_ids=PROMPT, params=GREEDY)]
    _, first = forwarded(engine, rows)
    assert forwarded(engine, rows)[1] < first
    layer = kept(engine).cache.parts[0]
    engine.forget()
    assert layer.keys is not None
    assert not layer.keys.numel()  # freed at once
    assert kept(engine).cache.slots == 0
    with torch.no_grad():
        engine.model.get_input_embeddings().weight.mul_(-1.5)
    _, again = forwarded(engine, rows)
    assert again == first
    fresh = engine_with(tiny_model, 0)
    fresh.model.load_state_dict(engine.model.state_dict())
    assert run(engine, rows) == run(fresh, rows)
    plain.forget()  # nothing to forget


def test_out_of_memory_drops_the_store_first(
    tiny_model: Path,
    plain: TransformersEngine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = engine_with(tiny_model, 1 << 12, batch_size=4)
    rows = [Request(prompt_ids=PROMPT, params=SAMPLED, seed=i) for i in range(4)]
    rows = forked(rows, run(engine, rows), 1)
    forward = engine.forward

    def full(*args: Any) -> torch.Tensor:
        if kept(engine).blocks:
            raise torch.OutOfMemoryError("no room")
        return forward(*args)

    monkeypatch.setattr(engine, "forward", full)
    assert [g.token_ids for g in run(engine, rows)] == [g.token_ids for g in run(plain, rows)]
    assert "from now on at most 2048 are" in caplog.text
    assert "rows, going on with" not in caplog.text


def test_no_memory_for_the_store_is_no_error(
    tiny_model: Path, plain: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_with(tiny_model, 1 << 12)
    rows = [Request(prompt_ids=PROMPT, params=SAMPLED, seed=i) for i in range(4)]

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(kept(engine), "_grow", full)
    assert run(engine, rows) == run(plain, rows)
    assert not kept(engine).blocks


def test_negative_bounds_are_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match=r"prefix_cache_tokens: -1 must not be negative; 0 keeps none"):
        EngineOptions(model_name_or_path="any", prefix_cache_tokens=-1)
    with pytest.raises(ValueError, match="prefix_cache_tokens: -1"):
        engine_with(tiny_model, -1)
    options = EngineOptions(model_name_or_path=str(tiny_model), prefix_cache_tokens=640)
    loaded = load_engine(options)
    assert isinstance(loaded, TransformersEngine)
    assert kept(loaded).max_tokens == 640


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tokens=st.sampled_from([1, BLOCK, 5 * BLOCK, 200, 640, 1 << 14]),
    batch_size=st.integers(1, 9),
    bounded=st.booleans(),
    seed=st.integers(0, 1 << 20),
)
def test_bound_and_tokens_over_many_calls(
    tiny_model: Path, plain: TransformersEngine, tokens: int, batch_size: int, bounded: bool, seed: int
) -> None:
    draw = random.Random(seed)
    engine = engine_with(tiny_model, tokens, batch_size, max_kv_tokens=640 if bounded else None)
    seen = [PROMPT[:30], PROMPT[:31], (3, *PROMPT[:15])]
    for _ in range(4):
        rows = []
        for i in range(draw.randint(1, 10)):
            ids = draw.choice(seen)
            ids = (
                *ids[: draw.randint(1, len(ids))],
                *(draw.randrange(9) for _ in range(draw.choice((0, 1, 25)))),
            )
            params = SamplingParams(max_tokens=draw.randint(1, 8), temperature=draw.choice((0, 1)))
            rows.append(Request(prompt_ids=ids[-200:], params=params, seed=i))
        once = {index: draw.choice(seen) for index in range(0, len(rows), 3)}

        def follow(index: int, _: Generation, left: dict[int, Any], rows: Any = rows) -> Request | None:
            return replace(rows[index], prompt_ids=left.pop(index)) if index in left else None

        found, expected = (
            run(e, rows, lambda i, g, left=dict(once), f=follow: f(i, g, left)) for e in (engine, plain)
        )
        assert [g.token_ids for g in found] == [g.token_ids for g in expected]
        assert kept(engine).cache.slots * kept(engine).cache.capacity <= tokens
        seen += [(*row.prompt_ids, *g.token_ids) for row, g in zip(rows, found, strict=True)]


# ------------------------------------------------------------------ the store alone


def stored(cache: PrefixCache, *sequences: Sequence[int]) -> None:
    cache.keep(SlotCache(0), [(0, ids) for ids in sequences])


def known(cache: PrefixCache, ids: Sequence[int]) -> int:
    return cache.find([*ids, -1])[1]


def check(cache: PrefixCache) -> None:
    """What always holds of the tree."""
    order = {block: i for i, block in enumerate(cache.blocks)}
    todo: list[Block] = [cache.root]
    while todo:
        block = todo.pop()
        ids = [child.ids for child in block.children]
        assert ids == sorted(ids)
        assert all(a[: len(b)] != b and b[: len(a)] != a for i, a in enumerate(ids) for b in ids[i + 1 :])
        assert block.full == {child.ids: child for child in block.children if len(child.ids) == BLOCK}
        assert all(child.parent is block for child in block.children)
        assert block is cache.root or all(order[child] < order[block] for child in block.children)
        assert not block.children or block is cache.root or len(block.ids) == BLOCK
        todo += block.children
    slots = [*(block.slot for block in cache.blocks), *cache.free]
    assert sorted(slots) == list(range(cache.cache.slots))
    assert cache.cache.slots * cache.cache.capacity <= cache.max_tokens


sequences = st.lists(
    st.tuples(st.integers(0, 1), st.lists(st.integers(0, 1), max_size=4), st.integers(0, 50)).map(
        lambda drawn: [drawn[0]] * drawn[2] + drawn[1]
    ),
    max_size=12,
)


@settings(deadline=None)
@given(
    sequences=sequences, wanted=sequences, blocks=st.sampled_from([0, 1, 3, 8, 1000]), batch=st.integers(1, 3)
)
def test_longest_common_prefix(sequences: Any, wanted: Any, blocks: int, batch: int) -> None:
    cache = PrefixCache(0, blocks * BLOCK + 5)
    for i in range(0, len(sequences), batch):
        stored(cache, *sequences[i : i + batch])
        check(cache)
        needed = cache.need(wanted[i]) if i < len(wanted) and wanted[i] else None
        if needed is not None:
            assert needed.needed == 1
            needed.needed -= 1
    for ids in wanted:
        longest = max((shared_tokens(ids, other) for other in sequences), default=0)
        assert known(cache, ids) <= longest
        if blocks == 1000:
            assert known(cache, ids) == longest
    check(cache)


def test_least_recently_used_goes_first() -> None:
    cache = PrefixCache(0, 3 * BLOCK)
    one, two, three, four = ([i] * BLOCK for i in range(4))
    stored(cache, one, two, three)
    assert known(cache, one) == BLOCK  # used again, so that two is the oldest
    stored(cache, four)
    assert [known(cache, ids) for ids in (one, two, three, four)] == [BLOCK, 0, BLOCK, BLOCK]
    stored(cache, one + two + three)  # the end of a sequence goes before its beginning
    assert [known(cache, ids) for ids in (three, four, one + two + three)] == [0, 0, 3 * BLOCK]
    stored(cache, four)
    assert [known(cache, ids) for ids in (four, one + two + three)] == [BLOCK, 2 * BLOCK]


def test_there_is_no_room_for_more_than_is_needed() -> None:
    cache = PrefixCache(0, 2 * BLOCK)
    one, two, three = ([i] * BLOCK for i in range(3))
    stored(cache, one, two)
    needed = [cache.need([*ids, -1]) for ids in (one, two)]
    stored(cache, three)
    assert [known(cache, ids) for ids in (one, two, three)] == [BLOCK, BLOCK, 0]
    assert needed[0] is not None
    needed[0].needed -= 1
    stored(cache, three)
    assert [known(cache, ids) for ids in (one, two, three)] == [0, BLOCK, BLOCK]
    stored(cache, three + one + two)
    assert known(cache, three + one + two) == BLOCK


def test_what_begins_alike_is_kept_once() -> None:
    cache = PrefixCache(0, 1 << 12)
    ids = list(range(40))
    stored(cache, ids)
    assert len(cache.blocks) == 3
    stored(cache, [*ids, 40, 41], ids[:20])  # the last block is filled up
    assert len(cache.blocks) == 3
    assert known(cache, [*ids, 40, 41]) == 42
    stored(cache, *([*ids, *range(40, 48), i] for i in range(100, 104)))
    assert len(cache.blocks) == 3 + 4
    stored(cache, [*ids, 50])
    assert len(cache.blocks) == 3 + 4 + 1  # it goes on in another way inside the third block
