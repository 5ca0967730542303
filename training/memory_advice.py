"""What would make a training stage fit its memory: changes of its recipe, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from training.memory_job import Job
from training.memory_plan import Plan, predict


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a recipe, and the job that it makes."""

    text: str
    job: Job


def advice(job: Job, memory_bytes: float) -> tuple[list[str], Plan] | None:
    """What makes a job fit: the first single change that does, or else changes one after the other; None
    where all of them together do not."""
    for step in STEPS:
        for change in step(job):
            if (plan := predict(change.job)).total <= memory_bytes:
                return [change.text], plan
    texts: list[str] = []
    for step in STEPS:
        last = None
        for last in step(job):
            if (plan := predict(last.job)).total <= memory_bytes:
                return [*texts, last.text], plan
        if last is not None:
            texts, job = [*texts, last.text], last.job
    return None


def _flash(job: Job) -> Iterator[Change]:
    if job.branches and job.attention == "documents" and job.gpu:
        text = "attn_implementation: flash_attention_2"
        yield Change(text=text, job=replace(job, attention="flash_attention_2"))


def _checkpointing(job: Job) -> Iterator[Change]:
    if not job.checkpointing:
        yield Change(text="gradient_checkpointing: true", job=replace(job, checkpointing=True))


def _one_row(job: Job) -> Iterator[Change]:
    if job.rows > 1:
        text = f"per_device_train_batch_size: 1 (and gradient_accumulation_steps x {job.rows})"
        yield Change(text=text, job=replace(job, rows=1, accumulates=True))


def _fewer_generated(job: Job) -> Iterator[Change]:
    if job.cache_rows > 1:
        rows = max(1, job.cache_rows // 4)
        yield Change(text=f"rollout_batch_size: {rows}", job=replace(job, cache_rows=rows))
    if job.vllm_bytes and not job.vllm_sleeps:
        yield Change(text="vllm_enable_sleep_mode: true", job=replace(job, vllm_sleeps=True))


def _zero3(job: Job) -> Iterator[Change]:
    if job.processes > 1 and job.sharding != "zero3":
        yield Change(text="launch: zero3", job=replace(job, sharding="zero3"))


def _offload(job: Job) -> Iterator[Change]:
    if not job.offload_weights:
        changed = replace(job, sharding="zero3", offload_optimizer=True, offload_weights=True)
        yield Change(text="launch: zero3_offload", job=changed)


def _shorter(job: Job) -> Iterator[Change]:
    tokens = job.tokens
    while tokens >= 4096:
        tokens //= 2
        yield Change(
            text=f"max_length: {tokens} (rows of {job.tokens} tokens now)", job=replace(job, tokens=tokens)
        )


def _lora(job: Job) -> Iterator[Change]:
    from peft import LoraConfig

    if job.adapter is None:
        adapter = LoraConfig(r=16, target_modules="all-linear")
        yield Change(text="use_peft: true (lora_r: 16, all-linear)", job=replace(job, adapter=adapter))


def _more_processes(job: Job) -> Iterator[Change]:
    processes = job.processes
    while processes < 512:
        processes *= 2
        changed = replace(job, processes=processes, sharding="zero3")
        yield Change(text=f"num_processes: {processes} with zero3", job=changed)


STEPS = (
    _flash,
    _checkpointing,
    _one_row,
    _fewer_generated,
    _zero3,
    _offload,
    _shorter,
    _lora,
    _more_processes,
)
"""In the order in which they are tried: what costs the least first."""
