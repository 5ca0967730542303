"""How long a stage takes on a kind of GPU: arithmetic for training, bandwidth for decoding.

A training token costs 6 operations a parameter and those of the attention, 8 where activations are computed
again (`inference/search/flops.py` counts a forward pass). Which share of the peak they reach is an assumption
that is shown; docs/preflight.md compares it with published runs. A decoding step reads the weights and the
keys and values of its rows once.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.accelerators import Accelerator
from inference.search.flops import Flops, head_size
from training.memory_job import Job, Sizes, kv_numbers

SHARE = 0.4
"""Of the GPU's peak that operations reach, those that are done again among them: dense models on one node,
long rows without padding."""
SHARDED_SHARE = 0.28
"""The same with weights gathered over processes (ZeRO-3, FSDP): what the times of s1 imply
(docs/preflight.md)."""
BANDWIDTH_SHARE = 0.6
"""Of the memory's bandwidth, while decoding."""
DECODED_TOGETHER = 256
"""Rows that one GPU decodes at a time, vLLM's default max_num_seqs."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a stage trains on."""

    rows: float
    """Forward and backward, over all steps and processes."""
    tokens: float
    """Of a row, in the mean or at most."""
    drawn: float = 0.0
    """Completions that are generated, over all steps."""
    drawn_tokens: float = 0.0
    """Of one, in the mean or at most."""
    scored: int = 0
    """Forward passes alone of each row (old and reference log-probabilities)."""


@dataclass(frozen=True, kw_only=True)
class Time:
    """Seconds, by what they are spent on, and what they were computed with."""

    training: float
    generation: float
    share: float
    gpus: int

    @property
    def hours(self) -> float:
        return (self.training + self.generation) / 3600

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus


def flops_of_job(job: Job, sizes: Sizes) -> Flops:
    """Operations of a token in the forward pass."""
    config = job.config
    tied = bool(config.tie_word_embeddings) and job.head == "fused"
    table = 0 if tied else config.vocab_size * config.hidden_size
    return Flops(
        parameters=sizes.all - table,
        layers=config.num_hidden_layers,
        width=config.num_attention_heads * head_size(config),
    )


def training_flops(job: Job, flops: Flops, work: Work) -> float:
    """Operations over a whole stage: forward once and with checkpointing again, backward twice as much (as
    much where the weights are frozen), and the forward passes of scoring."""
    passes = (2 if job.adapter is not None else 3) + job.checkpointing + work.scored
    return passes * work.rows * flops(work.tokens, 0)


def predict_time(job: Job, sizes: Sizes, work: Work, device: Accelerator, share: float | None = None) -> Time:
    """Hours of a stage on `job.processes` GPUs.

    Args:
        share: of the peak that operations reach; None for the assumed one.
    """
    assumed = share or (SHARDED_SHARE if job.sharding in ("zero3", "fsdp2") else SHARE)
    peak = (device.half_tflops if job.half else device.float_tflops) * 1e12
    flops = flops_of_job(job, sizes)
    seconds = training_flops(job, flops, work) / (job.processes * peak * assumed)
    generation = decoding_seconds(
        flops,
        weights=2.0 * sizes.all,
        kv_bytes=2.0 * kv_numbers(job.config),
        rows=work.drawn / job.processes,
        tokens=work.drawn_tokens,
        device=device,
    )
    return Time(training=seconds, generation=generation, share=assumed, gpus=job.processes)


def decoding_seconds(
    flops: Flops, *, weights: float, kv_bytes: float, rows: float, tokens: float, device: Accelerator
) -> float:
    """Of one GPU that decodes so many rows in batches of DECODED_TOGETHER. A step takes as long as what it
    reads or what it computes, whichever is longer; prompts are not counted."""
    if not rows:
        return 0.0
    together = min(rows, DECODED_TOGETHER)
    read = weights + together * kv_bytes * tokens / 2
    by_memory = read / (device.bandwidth_gb_per_second * 1e9 * BANDWIDTH_SHARE)
    by_arithmetic = together * flops(1, tokens / 2) / (device.half_tflops * 1e12 * SHARE)
    return rows / together * tokens * max(by_memory, by_arithmetic)
