"""GRPO on a CUDA GPU: what a CPU cannot show."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from tests.training.grpo_runs import curve, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_learns_in_bfloat16(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    options = {"use_cpu": False, "bf16": True, "max_steps": 60, "learning_rate": 0.01}
    metrics = run(tiny_model, tmp_path / "out", loading={"dtype": dtype}, **options)
    assert metrics["reward_last"] > metrics["reward_first"] + 0.2


def test_packed_rows_have_the_curve_of_padded_ones(tiny_model: Path, tmp_path: Path) -> None:
    """The Triton log-probability kernel scores only the labelled places of a packed row."""
    for attention in ("documents", "sdpa"):
        loading = {"attn_implementation": attention}
        run(tiny_model, tmp_path / attention, loading=loading, use_cpu=False, gradient_checkpointing=True)
    packed, padded = (curve(tmp_path / attention) for attention in ("documents", "sdpa"))
    assert packed == [pytest.approx(step, rel=1e-3, abs=1e-3) for step in padded]


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="needs flash-attn")
def test_rows_for_flash_attention(tiny_model: Path, tmp_path: Path) -> None:
    for attention in ("flash_attention_2", "documents"):
        loading = {"attn_implementation": attention, "dtype": "bfloat16"}
        run(tiny_model, tmp_path / attention, loading=loading, use_cpu=False, bf16=True, max_steps=2)
    flash, documents = (
        curve(tmp_path / attention, "grad_norm", "entropy")
        for attention in ("flash_attention_2", "documents")
    )
    assert flash[0] == pytest.approx(documents[0], rel=0.05)
