"""Packed rows against each row by itself, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM
from trl.trainer.utils import add_fused_lm_head

from training.document_attention import NAME, _masked
from training.log_probs import is_packable, pack


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    made = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64, attn_implementation=NAME)
    torch.manual_seed(0)
    for parameter in made.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    add_fused_lm_head(made, outputs=("log_probs", "entropy"))
    return made


def padded(prompts: list[list[int]], completions: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Left-padded prompts, right-padded completions, as TRL makes them."""
    before, behind = max(map(len, prompts)), max(1, *map(len, completions))
    ids = torch.full((len(prompts), before + behind), 7)
    mask = torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        ids[row, before - len(prompt) : before] = torch.tensor(prompt)
        mask[row, before - len(prompt) : before] = 1
        if completion:
            ids[row, before : before + len(completion)] = torch.tensor(completion)
            mask[row, before : before + len(completion)] = 1
    return ids, mask, behind


def alone(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    model.set_attn_implementation("eager")
    try:
        logits = model(input_ids=torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    finally:
        model.set_attn_implementation(NAME)
    return logits.log_softmax(-1).gather(1, torch.tensor(completion).unsqueeze(1)).squeeze(1)


TOKENS = st.lists(st.integers(0, 399), min_size=1, max_size=9)
ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.integers(0, 399), max_size=8)), min_size=1, max_size=7
)


@settings(max_examples=40, deadline=None)
@given(st.lists(TOKENS, min_size=3, max_size=3), ROWS, st.booleans())
def test_packed_rows_have_the_values_of_rows_alone(
    model: Any, prompts: list[list[int]], rows: list[tuple[int, list[int]]], shared: bool
) -> None:
    """Shared prompts, and documents one after the other as a varlen kernel takes them."""
    asked = [prompts[index] for index, _ in rows]
    completions = [completion for _, completion in rows]
    ids, mask, tokens = padded(asked, completions)
    packed = pack(ids, mask, tokens, NAME if shared else "flash_attention_2")
    output = model(**packed.inputs, fused_lm_head=True)
    values = packed.unpack(output.log_probs)
    assert values.shape == (len(rows), tokens)
    assert values.requires_grad
    for row, (prompt, completion) in enumerate(zip(asked, completions, strict=True)):
        if completion:
            expected = alone(model, prompt, completion)
            torch.testing.assert_close(values[row, : len(completion)].double(), expected, atol=1e-5, rtol=0)
        assert not values[row, len(completion) :].any()
    forwarded = packed.inputs["input_ids"].shape[1]
    if shared:
        used = {tuple(prompt) for prompt in asked}
        branches = sum(len(completion) for completion in completions)
        empty = sum(
            not any(c for p, c in zip(asked, completions, strict=True) if tuple(p) == u) for u in used
        )
        assert forwarded == sum(len(prompt) - 1 for prompt in used) + branches + empty


def test_gradients_pass_through_shared_prompts(model: Any) -> None:
    prompts, completions = [[1, 2, 3, 4]] * 3 + [[9, 8]], [[5, 6, 7], [8], [9, 10], [11, 12, 13]]
    ids, mask, tokens = padded(prompts, completions)
    packed = pack(ids, mask, tokens, NAME)
    weights = torch.arange(1, 1 + ids.shape[0] * tokens).view(-1, tokens).double()
    (packed.unpack(model(**packed.inputs, fused_lm_head=True).log_probs) * weights).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        (alone(model, prompt, completion) * weights[row, : len(completion)]).sum().backward()
    for name, parameter in model.named_parameters():
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-5 * scale + 1e-9, rtol=0)
    model.zero_grad()


def test_no_completion_at_all_still_has_a_backward_pass(model: Any) -> None:
    ids, mask, tokens = padded([[1, 2, 3], [1]], [[], []])
    packed = pack(ids, mask, tokens, NAME)
    values = packed.unpack(model(**packed.inputs, fused_lm_head=True).log_probs)
    values.sum().backward()
    assert not values.any()
    model.zero_grad()


def test_attention_that_documents_does_not_run_is_refused() -> None:
    config = MistralConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=4,
    )
    sliding = MistralForCausalLM(config)
    sliding.set_attn_implementation(NAME)
    add_fused_lm_head(sliding)
    for length, fits in ((2, True), (6, False)):
        ids, mask, tokens = padded([[1, 2]], [[3] * length])
        packed = pack(ids, mask, tokens, NAME)
        if fits:
            sliding(**packed.inputs, fused_lm_head=True)
        else:
            with pytest.raises(ValueError, match="plain causal attention only"):
                sliding(**packed.inputs, fused_lm_head=True)


def test_which_attention_keeps_documents_apart() -> None:
    assert is_packable("documents")
    assert is_packable("flash_attention_2")
    assert is_packable("kernels-community/vllm-flash-attn3")
    assert not is_packable("sdpa")
    assert not is_packable(None)


def test_heads_of_keys_are_repeated_where_a_kernel_wants_it() -> None:
    """As on CUDA; the branches of a prompt attend to the same."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 6, 5, 8, generator=generator)
    key, value = (torch.randn(3, 2, 9, 8, generator=generator) for _ in range(2))
    mask = torch.ones(5, 9, dtype=torch.bool).tril(4)
    how = {"dropout_p": 0.0, "scale": None, "enable_gqa": True}
    grouped, repeated = (_masked(query, key, value, mask, how, grouped=each) for each in (True, False))
    assert torch.allclose(grouped, repeated, atol=1e-6)
