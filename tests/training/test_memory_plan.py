from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import Qwen2Config

from inference.accelerators import PEAK_VARIABLE, accelerator, memory_gib, peak_flops
from inference.models import cached_folder
from training.memory_advice import advice
from training.memory_job import Job, parameter_count
from training.memory_plan import GIB, _fixed, predict, saved_states
from training.memory_trace import Held, Network, _run, head_bytes, trace_layers
from training.model_shape import network_of
from training.time_plan import Work, flops_of_job, predict_time, training_flops

ROOT = Path(__file__).resolve().parents[2]
SMALL = Qwen2Config(
    vocab_size=1000,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
)


def job(model: str = "Qwen/Qwen2.5-32B", **changes: Any) -> Job:
    defaults: dict[str, Any] = {
        "config": network_of(model),
        "dtype": torch.bfloat16,
        "half": True,
        "rows": 1,
        "tokens": 32768,
        "processes": 16,
        "sharding": "zero3",
    }
    return Job(**{**defaults, **changes})


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-Math-1.5B-Instruct", 1_543_714_304),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen2.5-32B", 32_763_876_352),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.3-70B-Instruct", 70_553_706_496),
        ("mistralai/Mistral-7B-v0.1", 7_241_732_096),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", 134_515_008),
    ],
)
def test_known_shapes_have_the_published_parameters(model: str, parameters: int) -> None:
    assert parameter_count(network_of(model)) == parameters


@pytest.mark.parametrize("model", ["Qwen/Qwen2.5-7.5B", "Qwen/Qwen2.5-0.5Bx", "nobody/nothing"])
def test_other_names_have_no_shape(model: str) -> None:
    assert network_of(model) is None


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("adapter", [None, LoraConfig(r=4, target_modules="all-linear")])
def test_two_layers_and_three_tell_what_five_hold(checkpointing: bool, adapter: Any) -> None:
    network = Network(
        config=SMALL, weights=torch.float32, autocast=True, checkpointing=checkpointing, adapter=adapter
    )
    passes, parameters = trace_layers(network, 2, 128)
    whole = _run(network, 5, 2, 128)
    assert passes.kept == whole.kept
    assert passes.kept + passes.layer == whole.peak
    assert passes.casts == whole.casts
    if checkpointing and adapter is None:  # else what is kept has them
        assert passes.casts == pytest.approx(2 * 5 * parameters.layer, rel=0.02)
    assert parameters.outside + 5 * parameters.layer == whole.trained


def test_held_counts_what_lives_and_not_views_of_what_was_there() -> None:
    old = torch.zeros(1000)
    with Held([old]) as held:
        kept = old.view(10, 100) + 1
        del kept
        other = old[:500].clone()
    assert held.peak == 4000
    assert held.bytes == other.numel() * 4


def test_head_on_a_gpu_has_a_tile_and_its_gradients() -> None:
    network = Network(config=SMALL, weights=torch.bfloat16, autocast=False, checkpointing=False)
    tile, weight, hidden = 512 * 32768 * 2, 1000 * 64, 512 * 64
    expected = tile + (4 + 2) * (weight + hidden) + 2 * hidden
    assert head_bytes(network, 512, trained=True, gpu=True) == expected
    network = dataclasses.replace(network, weights=torch.float32, autocast=True)
    expected = tile + 4 * (weight + hidden) + 2 * weight + 4 * hidden
    assert head_bytes(network, 512, trained=True, gpu=True) == expected


def test_zero3_has_a_sixteenth_of_weights_moments_and_master() -> None:
    plan = predict(job())
    parameters = 32_763_876_352
    assert plan.sizes.all == parameters
    assert plan.parts["weights"] == 2 * parameters / 16
    assert plan.parts["optimizer states"] == 12 * parameters / 16
    assert plan.totals["optimizer step"] > plan.parts["weights"] + plan.parts["optimizer states"]


def test_zero2_has_gradients_again_while_it_adds_and_flattens_them() -> None:
    given = job("Qwen/Qwen2.5-7B", tokens=512, processes=8, sharding="zero2")
    one, several = (predict(dataclasses.replace(given, accumulates=more)) for more in (False, True))
    shard = 1.05 * 2 * one.sizes.trained / 8
    backward, step = "last layer's backward", "optimizer step"
    assert several.totals[backward] - one.totals[backward] == pytest.approx(shard)
    assert several.totals[step] == one.totals[step]
    assert one.totals[step] - sum(_fixed(given, one.sizes).values()) == pytest.approx((1 + 1 + 2) * shard)


def test_32b_at_32k_fits_16_h100_with_checkpointing_alone() -> None:
    """As reported of s1 and open-r1: out of memory without it."""
    limit = (memory_gib("NVIDIA H100 80GB HBM3") or 0) * GIB
    assert predict(job()).total < limit
    without = job(checkpointing=False)
    assert predict(without).total > 5 * limit
    helps = advice(without, limit)
    assert helps is not None
    assert helps[0] == ["gradient_checkpointing: true"]
    assert helps[1].total <= limit


def test_changes_are_combined_where_none_alone_helps() -> None:
    given = job("Qwen/Qwen2.5-7B", rows=8, tokens=4096, checkpointing=False, sharding="ddp", processes=2)
    helps = advice(given, 80 * GIB)
    assert helps is not None
    assert len(helps[0]) > 1
    assert helps[0][0] == "gradient_checkpointing: true"
    assert helps[1].total <= 80 * GIB
    assert advice(given, GIB) is None


def test_each_way_to_share_needs_less_than_the_one_before() -> None:
    small = job("Qwen/Qwen2.5-7B", tokens=2048, processes=8, dtype=torch.float32)
    kinds: list[Any] = ["ddp", "zero2", "zero3"]
    totals = [predict(dataclasses.replace(small, sharding=kind)).total for kind in kinds]
    assert totals == sorted(totals, reverse=True)
    offloaded = dataclasses.replace(small, offload_optimizer=True, offload_weights=True)
    plan = predict(offloaded)
    assert plan.total < totals[-1]
    assert plan.offloaded == 16 * plan.sizes.all, "weights and gradients in bfloat16, weights and two moments"


@pytest.mark.parametrize(
    ("changes", "bytes_per_weight"),
    [
        ({"sharding": "ddp"}, 4),  # two moments in the weights' bfloat16
        ({"sharding": "ddp", "dtype": torch.float32}, 8),
        ({"sharding": "fsdp2"}, 8),
        ({"sharding": "zero2", "half": False}, 12),
        ({"sharding": "zero3"}, 12),
    ],
)
def test_states_in_a_checkpoint(changes: dict[str, Any], bytes_per_weight: int) -> None:
    given = job("Qwen/Qwen2.5-0.5B", tokens=128, **changes)
    sizes = predict(given).sizes
    assert saved_states(given, sizes) == bytes_per_weight * sizes.trained


def test_s1_takes_the_published_hours() -> None:
    """26 minutes on 16 H100 for 315 steps of 16 rows (arXiv 2501.19393), rows of 5,000 tokens assumed."""
    given = job(tokens=5000)
    device = accelerator("H100")
    assert device is not None
    plan = predict(given)
    work = Work(rows=315 * 16, tokens=5000)
    assert training_flops(given, flops_of_job(given, plan.sizes), work) == pytest.approx(6.8e18, rel=0.02)
    time = predict_time(given, plan.sizes, work, device)
    assert time.training / 60 == pytest.approx(26, rel=0.1)
    assert time.gpu_hours == pytest.approx(16 * time.hours)


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3", "torch.bfloat16") == 989.4e12
    assert peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert memory_gib("NVIDIA A100-SXM4-40GB") == 40
    assert peak_flops("Tesla T4", "bfloat16") is None
    assert peak_flops("cpu", "bfloat16") is None
    monkeypatch.setenv(PEAK_VARIABLE, "0.5")
    assert peak_flops("cpu", "float32") == 5e11
    monkeypatch.setenv(PEAK_VARIABLE, "many")
    with pytest.raises(ValueError, match=PEAK_VARIABLE):
        peak_flops("cpu", "float32")


@pytest.mark.slow
@pytest.mark.skipif(
    not cached_folder("HuggingFaceTB/SmolLM2-135M-Instruct").is_dir()
    or not Path("/proc/self/clear_refs").exists(),
    reason="needs Linux, and SmolLM2 (slowthink fetch-model smollm2)",
)
def test_predicted_is_measured_within_15_percent() -> None:
    """A real training in a process of its own, by its resident memory."""
    only = "sft 57M 1 x 1024 accumulation"
    command = [sys.executable, "-m", "benchmarks.memory", "--only", only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["cells"] == 1
    assert said["results"][0]["ratio"] == pytest.approx(1, abs=0.15)
