"""One process of a training stage, as memory and time are predicted of it, and how large its model is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch

from inference.search.flops import head_size
from training.memory_trace import Network, Parameters

Sharding = Literal["none", "ddp", "zero2", "zero3", "fsdp2"]
"""How the processes of a launch share weights, gradients and optimizer states."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One process of a training stage at the longest rows that it may have."""

    config: Any
    """transformers config of the text model."""
    dtype: torch.dtype
    """Of the weights as they are loaded."""
    half: bool
    """Whether the launch computes in bfloat16."""
    rows: int
    """Of a micro-batch."""
    tokens: int
    """Of a row."""
    head: Literal["fused", "logits", "classifier"] = "fused"
    """fused: TRL's, in tiles; logits: at the judged places; classifier: a number or two."""
    accumulates: bool = False
    """Whether an optimizer step has several micro-batches."""
    checkpointing: bool = True
    attention: str | None = None
    adapter: Any = None
    """peft config."""
    weight_bits: int = 16
    """4 or 8: of the frozen layers, where they are quantised."""
    state_bytes: int = 8
    """Of the optimizer for each trained parameter in float32."""
    processes: int = 1
    sharding: Sharding = "none"
    offload_optimizer: bool = False
    offload_weights: bool = False
    gpu: bool = True
    others: tuple[Any, ...] = ()
    """Configs of models that are only asked: reference, teacher, reward models."""
    cache_rows: int = 0
    """Rows that are generated together, without vLLM."""
    branches: bool = False
    """Whether completions share the pass of their prompt (stage grpo)."""
    vllm_bytes: int = 0
    """That vLLM takes in this process."""
    vllm_sleeps: bool = False
    """Whether it gives them back while training."""

    @property
    def deepspeed(self) -> bool:
        return self.sharding in ("zero2", "zero3")

    @property
    def kept_dtype(self) -> torch.dtype:
        """Of the weights while training: DeepSpeed has them in the launch's precision, FSDP2 its shards in
        float32."""
        if self.deepspeed:
            return torch.bfloat16 if self.half else torch.float32
        return torch.float32 if self.sharding == "fsdp2" else self.dtype

    @cached_property
    def network(self) -> Network:
        half_weights = self.half and self.sharding == "fsdp2"  # gathered in bfloat16
        return Network(
            config=self.config,
            weights=torch.bfloat16 if half_weights else self.kept_dtype,
            autocast=self.half and not self.deepspeed and not half_weights,
            checkpointing=self.checkpointing,
            adapter=self.adapter,
            attention=self.attention,
        )


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of parameters."""

    trained: int
    frozen: int
    frozen_layers: int
    layer: int
    """All of one layer, and of it those that are trained."""
    trained_layer: int
    head: int
    """Trained ones of an output layer that is not the embedding's; 0 with an adapter."""
    embedding: int
    """Trained ones of the table of input embeddings."""

    @property
    def all(self) -> int:
        return self.trained + self.frozen


def sizes_of(job: Job, parameters: Parameters) -> Sizes:
    """Of the whole model, from those of one layer and of what is outside the layers (see `trace_layers`)."""
    config, layers = job.config, job.config.num_hidden_layers
    table = config.vocab_size * config.hidden_size
    head = 0 if job.head == "classifier" or config.tie_word_embeddings else table
    adapted = job.adapter is not None
    trained = parameters.outside + layers * parameters.layer + (0 if adapted else head)
    frozen = parameters.frozen_outside + layers * parameters.frozen_layer + (head if adapted else 0)
    return Sizes(
        trained=trained,
        frozen=frozen,
        frozen_layers=layers * parameters.frozen_layer,
        layer=parameters.layer + parameters.frozen_layer,
        trained_layer=parameters.layer,
        head=0 if adapted else head,
        embedding=0 if adapted else table,
    )


def kv_numbers(config: Any) -> int:
    """Numbers that a token has among the keys and values."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_size(config)


def parameter_count(config: Any) -> int:
    """Of a causal language model of that config."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())
