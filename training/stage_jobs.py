"""From a stage's configs and its launch to the job whose memory and time are predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from training.memory_job import Job, Sharding

STATE_BYTES = {"sgd": 0, "adafactor": 0, "lion_32bit": 4, "paged_lion_32bit": 4}
"""Of optimizers (`optim:`) for each float32 parameter; others have AdamW's 8, those in 8 bits 2."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What a launch config says about memory."""

    processes: int = 1
    sharding: Sharding = "none"
    half: bool = False
    """Whether its mixed_precision is bf16."""
    offload_optimizer: bool = False
    offload_weights: bool = False
    cpu: bool = False

    @staticmethod
    def of(config: Mapping[str, Any], options: Mapping[str, Any]) -> Launch:
        """Of a file of launch/accelerate and the recipe's own options.

        Raises:
            ValueError: a distributed_type that is not known here.
        """
        values = {**config, **options}
        kind, deepspeed = str(config["distributed_type"]), config.get("deepspeed_config", {})
        processes = int(values["num_processes"])
        known: dict[str, Sharding] = {"NO": "none", "MULTI_GPU": "ddp", "FSDP": "fsdp2"}
        if kind == "DEEPSPEED":
            sharding: Sharding = "zero3" if int(deepspeed["zero_stage"]) == 3 else "zero2"
        elif kind in known:
            sharding = known[kind] if processes > 1 else "none"
        else:
            raise ValueError(f"launch: distributed_type {kind} is not one that memory is predicted for")
        return Launch(
            processes=processes,
            sharding=sharding,
            half=str(values.get("mixed_precision", "no")) == "bf16",
            offload_optimizer=str(deepspeed.get("offload_optimizer_device", "none")) != "none",
            offload_weights=str(deepspeed.get("offload_param_device", "none")) != "none",
            cpu=bool(config.get("use_cpu")),
        )


def job_of(
    configs: tuple[Any, Any, Any],
    network: Any,
    launch: Launch,
    *,
    rows: int,
    tokens: int,
    gpu_bytes: float | None,
    others: tuple[Any, ...] = (),
) -> Job:
    """The job of a training stage.

    Args:
        configs: the stage's own config, the trainer's arguments, trl.ModelConfig.
        network: transformers config of the model.
        rows: of a micro-batch.
        tokens: of the longest row.
        gpu_bytes: memory of the device; None for a CPU.
        others: configs of models that are loaded beside it (teacher, reward models).
    """
    from trl import get_peft_config

    own, args, model = configs
    half = bool(args.bf16) or launch.half
    dtype = _dtype(
        model.dtype, network, args.model_init_kwargs if hasattr(args, "model_init_kwargs") else None
    )
    adapter = get_peft_config(model)
    if adapter is None and getattr(args, "beta", 0) and hasattr(args, "num_generations"):
        others = (*others, network)  # with an adapter the reference is the network without it
    job = Job(
        config=network,
        dtype=dtype,
        half=half,
        rows=rows * (2 if hasattr(args, "center_rewards_coefficient") else 1),  # chosen and rejected
        tokens=tokens,
        head=_head(own, args),
        accumulates=args.gradient_accumulation_steps > 1,
        checkpointing=bool(args.gradient_checkpointing),
        attention=model.attn_implementation,
        adapter=adapter,
        weight_bits=4 if model.load_in_4bit else 8 if model.load_in_8bit else 16,
        state_bytes=STATE_BYTES.get(str(args.optim.value), 2 if "8bit" in str(args.optim.value) else 8),
        processes=launch.processes,
        sharding=launch.sharding,
        offload_optimizer=launch.offload_optimizer,
        offload_weights=launch.offload_weights,
        gpu=gpu_bytes is not None,
        others=others,
        branches=hasattr(args, "num_generations"),
    )
    if not hasattr(args, "max_completion_length"):
        return job
    return _with_generation(job, own, args, rows, gpu_bytes or 0.0)


def _with_generation(job: Job, own: Any, args: Any, rows: int, gpu_bytes: float) -> Job:
    if args.use_vllm and args.vllm_mode == "colocate":
        taken = int(args.vllm_gpu_memory_utilization * gpu_bytes)
        return replace(job, vllm_bytes=taken, vllm_sleeps=bool(args.vllm_enable_sleep_mode))
    if args.use_vllm:
        return job
    steps = getattr(args, "steps_per_generation", None) or args.gradient_accumulation_steps
    return replace(job, cache_rows=own.rollout_batch_size or rows * steps)


def _head(own: Any, args: Any) -> Any:
    if getattr(own, "head", None) == "tokens":
        return "logits"
    return "fused" if hasattr(args, "max_completion_length") or hasattr(args, "packing") else "classifier"


def _dtype(name: Any, network: Any, init_kwargs: Any) -> torch.dtype:
    """Of the loaded weights: the recipe's `dtype`, and with `auto` that of the checkpoint."""
    if isinstance(init_kwargs, dict):
        name = init_kwargs.get("dtype", name)
    if name in (None, "auto"):
        name = network.dtype or torch.float32
    return name if isinstance(name, torch.dtype) else getattr(torch, str(name))


def describe(job: Job) -> str:
    """Rows, tokens and how processes share them, for people."""
    kind = "1 process" if job.processes == 1 else f"{job.processes} processes, {job.sharding}"
    return f"{job.rows} x {job.tokens:,} tokens, {kind}"
