"""Memory that one process of a training stage needs, before anything runs.

Weights, gradients and optimizer states are counted by how they are kept: torch (transformers' Trainer with
AdamW: states in the precision of the weights; DDP has a second copy of the gradients in its buckets),
DeepSpeed 0.19.8 (zero/stage_1_and_2.py, zero/stage3.py: weights in the launch's precision, an own float32
copy and float32 moments of what is trained, sharded over processes) and FSDP2 (float32 shards). What passes
hold is traced (`memory_trace`). The peak is the largest of a few moments of an optimizer step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from inference.search.flops import head_size
from training.memory_job import Job, Sizes, kv_numbers, parameter_count, sizes_of
from training.memory_trace import Passes, head_bytes, trace_layers

GIB = 1 << 30
CUDA_BYTES = 2 * GIB
"""CUDA context, NCCL's channels, cuBLAS workspaces of a process: an allowance, not measured here."""
FRAGMENTATION = 0.05
"""Share by which torch's caching allocator on a GPU exceeds what is in use: an allowance."""
BUCKET_ELEMENTS = 500_000_000
"""Of DeepSpeed's reduce bucket (zero/config.py), which accelerate leaves as it is."""
LIVE_ELEMENTS = 1_000_000_000
"""Weights that ZeRO-3 keeps gathered (stage3_max_live_parameters) and optimizes at a time
(sub_group_size)."""
JUDGED_STEPS = 32
"""Places of a row at which a reward model with head `tokens` has logits."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The most that a process needs, by what it is for, in bytes; and when that is."""

    moment: str
    parts: dict[str, float]
    totals: dict[str, float]
    """Of every moment."""
    sizes: Sizes
    offloaded: float = 0.0
    """Bytes of RAM that all processes together take beside it, see `_offloaded`."""

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def gib(self) -> float:
        return self.total / GIB


def predict(job: Job) -> Plan:
    """The peak of a process of `job`."""
    passes, parameters = trace_layers(job.network, job.rows, job.tokens)
    passes = _with_mask(job, passes)
    sizes = sizes_of(job, parameters)
    fixed = _fixed(job, sizes)
    scratch = _gathered_layer_gradient(job, sizes)
    before, after = _gradients(job, sizes)
    second = after if job.sharding == "zero2" and job.accumulates else 0.0  # added to the first when complete
    layers = job.config.num_hidden_layers
    one_kept = passes.kept_outside + (passes.kept - passes.kept_outside) / layers
    asleep = job.vllm_sleeps and job.vllm_bytes
    vllm = {"vLLM": 0.0 if asleep else float(job.vllm_bytes)}
    moments: dict[str, dict[str, float]] = {
        "forward pass": {"activations": passes.kept + passes.casts, "gradients": before},
        "loss": {"activations": passes.kept, "head and loss": _head(job, sizes), "gradients": before},
        "first layer's backward": {
            "activations": passes.kept + passes.layer + scratch,
            "gradients": max(before, _share(job, sizes.head or sizes.embedding, job.kept_dtype)) + second,
        },
        "last layer's backward": {
            "activations": one_kept + passes.layer + scratch,
            "gradients": after + second,
        },
        "embedding's backward": {
            "activations": passes.kept_outside + sizes.embedding * job.network.weights.itemsize,
            "gradients": after + second,
        },
        "optimizer step": {"gradients": after + _gradient_copy(job, sizes)},
    }
    moments = {name: {**parts, **vllm} for name, parts in moments.items()}
    if job.cache_rows or asleep:
        moments["generation"] = {"keys and values": _cache(job), "vLLM": float(job.vllm_bytes)}
    spare = 1 + FRAGMENTATION if job.gpu else 1.0
    moments = {
        name: {**fixed, **{k: v * spare for k, v in parts.items() if v}} for name, parts in moments.items()
    }
    totals = {name: sum(parts.values()) for name, parts in moments.items()}
    moment = max(totals, key=lambda name: totals[name])
    offloaded = _offloaded(job, sizes) if job.gpu else 0.0  # on a CPU it is a part of a process's own
    return Plan(moment=moment, parts=moments[moment], totals=totals, sizes=sizes, offloaded=offloaded)


def _with_mask(job: Job, passes: Passes) -> Passes:
    """What `documents` has in memory on CUDA where prompts branch (training/document_attention.py): a mask
    in the precision of the keys, and keys and values of each head of the queries. Not seen on a GPU."""
    if not (job.branches and job.gpu and job.attention == "documents"):
        return passes
    text, item = job.config, 2 if job.half else 4
    copies = 2 * item * job.rows * text.num_attention_heads * head_size(text) * job.tokens
    more = copies + item * job.tokens**2
    kept = 0 if job.checkpointing else text.num_hidden_layers * more
    return replace(passes, kept=passes.kept + kept, layer=passes.layer + more)


def _fixed(job: Job, sizes: Sizes) -> dict[str, float]:
    """What is held all the time."""
    shards = job.processes if job.sharding in ("zero3", "fsdp2") else 1
    of_weight = job.kept_dtype.itemsize
    quantised = sizes.frozen_layers if job.weight_bits < 16 else 0
    adapter = torch.float32.itemsize if job.adapter is not None and not job.deepspeed else of_weight
    weights = (sizes.trained * adapter + (sizes.frozen - quantised) * of_weight) / shards
    weights += quantised * (job.weight_bits + 0.5) / 8 / shards  # a float32 scale for 64 weights
    others = sum(parameter_count(config) * of_weight for config in job.others) / shards
    return {
        "weights": 0.0 if job.offload_weights else weights,
        "optimizer states": 0.0 if job.offload_optimizer else _states(job, sizes),
        "gathered weights and buckets": _communication(job, sizes),
        "other models": others,
        "offloaded": 0.0 if job.gpu else _offloaded(job, sizes) / job.processes,
        "CUDA and NCCL": float(CUDA_BYTES if job.gpu else 0),
    }


def _offloaded(job: Job, sizes: Sizes) -> float:
    """Bytes that DeepSpeed's offload keeps in RAM, of all processes: weights, and with the optimizer's states
    the gradients that it reads."""
    weights = sizes.all * job.kept_dtype.itemsize if job.offload_weights else 0.0
    if not job.offload_optimizer:
        return weights
    return weights + _states(job, sizes) * job.processes + sizes.trained * job.kept_dtype.itemsize


def _states(job: Job, sizes: Sizes) -> float:
    if job.deepspeed:
        has_copy = job.half or job.sharding == "zero2"  # ZeRO-3 uses weights that are float32 already
        return sizes.trained * (job.state_bytes + 4 * has_copy) / job.processes
    if job.sharding == "fsdp2":
        return sizes.trained * job.state_bytes / job.processes
    of_weight = 4 if job.adapter is not None else job.kept_dtype.itemsize
    return sizes.trained * job.state_bytes * of_weight / 4


def saved_states(job: Job, sizes: Sizes) -> float:
    """Bytes of the optimizer's states in a checkpoint, of all processes. DeepSpeed's have the float32 weights
    of every precision (fp32_flat_groups, single_partition_of_fp32_groups)."""
    if job.deepspeed:
        return float(sizes.trained * (job.state_bytes + 4))
    return _states(job, sizes) * (job.processes if job.sharding == "fsdp2" else 1)


def _communication(job: Job, sizes: Sizes) -> float:
    used = 2 if job.half else 4
    if job.sharding == "ddp":
        return sizes.trained * (4 if job.adapter is not None else job.kept_dtype.itemsize)
    if job.sharding == "fsdp2":  # the root's own weights, and two layers (the next one is fetched ahead)
        root = sizes.all - job.config.num_hidden_layers * sizes.layer
        return (root + 2 * sizes.layer) * used
    if not job.deepspeed:
        return 0.0
    # on a CPU only those pages of the bucket count that are written
    bucket = BUCKET_ELEMENTS if job.gpu else min(BUCKET_ELEMENTS, sizes.trained)
    if sizes.trained > BUCKET_ELEMENTS:  # full while layers wait: what is sent is a copy (flatten, torch.cat)
        bucket *= 2
    gathered = min(LIVE_ELEMENTS, sizes.all) if job.sharding == "zero3" else 0
    return float((bucket + gathered) * used)


def _share(job: Job, parameters: int, dtype: torch.dtype) -> float:
    """Bytes of gradients of so many trained parameters that a process keeps."""
    shards = job.processes if job.sharding not in ("none", "ddp") else 1
    return parameters * (4 if job.adapter is not None and not job.deepspeed else dtype.itemsize) / shards


def _gradients(job: Job, sizes: Sizes) -> tuple[float, float]:
    """Bytes of gradients before the backward pass of a micro-batch and behind it."""
    after = _share(job, sizes.trained, job.kept_dtype)
    if job.offload_optimizer:
        return 0.0, 0.0
    return after if job.accumulates or job.sharding == "zero3" else 0.0, after


def _gradient_copy(job: Job, sizes: Sizes) -> float:
    """What DeepSpeed's optimizer step makes of the gradients of a process's shard: float32, and with ZeRO-2
    first all of them in one row."""
    if not job.deepspeed or job.offload_optimizer:
        return 0.0
    shard = sizes.trained / job.processes
    if job.sharding == "zero3":
        return 4.0 * min(shard, LIVE_ELEMENTS) if job.half else 0.0
    return (6.0 if job.half else 4.0) * shard


def _gathered_layer_gradient(job: Job, sizes: Sizes) -> float:
    """Gradients of a whole layer, where each process keeps a part of them only."""
    if job.sharding in ("none", "ddp"):
        return 0.0
    return float(sizes.trained_layer * job.network.weights.itemsize)


def _head(job: Job, sizes: Sizes) -> float:
    positions = job.rows * job.tokens
    if job.head == "classifier":
        return 0.0
    if job.head == "logits":
        used = 2 if job.half else 4
        return 2.0 * job.rows * JUDGED_STEPS * job.config.vocab_size * used + sizes.head * used
    return float(head_bytes(job.network, positions, trained=job.adapter is None, gpu=job.gpu))


def _cache(job: Job) -> float:
    return float(job.cache_rows * job.tokens * kv_numbers(job.config) * job.network.weights.itemsize)
