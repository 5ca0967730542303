"""What the passes of a training step hold beside weights, gradients and optimizer states, in bytes.

Nothing is guessed: the network itself runs forward and backward on fake tensors, which have shapes and no
memory, with two layers and with three; a layer more costs the difference. So it is right for whatever
architecture, attention, precision, checkpointing and adapter the installed transformers and peft make of a
model. Suffixes: B rows, T tokens, H width.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModel
from trl.kernels import ChunkedLogProbFunction
from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as VOCABULARY_CHUNK

PACKED = ("documents", "flash_attention_2", "flash_attention_3")
"""Attention that keeps the rows of a packed batch apart without a mask."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """What is run: a text model's config, and how it is trained."""

    config: Any
    weights: torch.dtype
    """Of what is trained; an adapter's frozen network may have another one."""
    autocast: bool
    """Whether weights in float32 are used in bfloat16."""
    checkpointing: bool
    adapter: Any = None
    """peft config."""
    attention: str | None = None


@dataclass(frozen=True, kw_only=True)
class Passes:
    """Bytes that forward and backward passes of one micro-batch hold."""

    kept: int
    """From the forward to the backward pass, of all layers."""
    kept_outside: int
    """Of that what no layer keeps."""
    layer: int
    """More while the backward pass of a layer runs."""
    casts: int
    """More until the forward pass ends: the weights in bfloat16, which autocast remembers for so long."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of parameters of the network without its head."""

    layer: int
    """Of one layer, trained."""
    outside: int
    """Trained, in no layer: embeddings and norm."""
    frozen_layer: int
    frozen_outside: int


class Held(TorchDispatchMode):
    """Bytes of the tensors that are made in this context and still alive, and the most there were.

    Args:
        others: tensors that exist already, which views of them are not taken for new ones.
    """

    def __init__(self, others: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._others = list(others)
        self._sizes = dict.fromkeys((tensor.untyped_storage()._cdata for tensor in self._others), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return made

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)


def trace_layers(network: Network, rows: int, tokens: int) -> tuple[Passes, Parameters]:
    """Run the network without its head on `rows` rows of `tokens` tokens; the same one once in a process."""
    key = f"{network} {rows} {tokens}"
    if key not in _TRACED:
        _TRACED[key] = _trace(network, rows, tokens)
    return _TRACED[key]


_TRACED: dict[str, tuple[Passes, Parameters]] = {}


def _trace(network: Network, rows: int, tokens: int) -> tuple[Passes, Parameters]:
    two, three = (_run(network, layers, rows, tokens) for layers in (2, 3))
    layers = network.config.num_hidden_layers
    per_layer = three.kept - two.kept
    outside = two.kept - 2 * per_layer
    passes = Passes(
        kept=outside + layers * per_layer,
        kept_outside=outside,
        layer=max(0, three.peak - three.kept),
        casts=two.casts + (layers - 2) * (three.casts - two.casts),
    )
    of_layer = (three.trained - two.trained, three.frozen - two.frozen)
    return passes, Parameters(
        layer=of_layer[0],
        frozen_layer=of_layer[1],
        outside=two.trained - 2 * of_layer[0],
        frozen_outside=two.frozen - 2 * of_layer[1],
    )


@dataclass(frozen=True, kw_only=True)
class _Run:
    kept: int
    casts: int
    peak: int
    """While the backward pass runs."""
    trained: int
    frozen: int


def _run(network: Network, layers: int, rows: int, tokens: int) -> _Run:
    with torch.device("meta"):
        model = _backbone(network, layers)
    with FakeTensorMode():
        _give_memory(model)
        numbers = _count(model.parameters(), trained=True), _count(model.parameters(), trained=False)
        model.enable_input_require_grads()
        model.get_input_embeddings().requires_grad_(False)  # the gradient would hide what a layer holds
        for parameter in filter(_is_trained, model.parameters()):  # gradients are counted elsewhere
            parameter.register_post_accumulate_grad_hook(_forget_gradient)
        with Held([*model.parameters(), *model.buffers()]) as held:
            ids_BT = torch.zeros(rows, tokens, dtype=torch.long)
            mask = None
            if rows > 1 and network.attention not in PACKED:
                mask = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool)
            with torch.autocast("cpu", torch.bfloat16) if network.autocast else nullcontext():
                hidden_BTH = model(ids_BT, attention_mask=mask, use_cache=False).last_hidden_state
                casts = held.bytes
            kept = held.peak = held.bytes
            hidden_BTH.backward(torch.empty_like(hidden_BTH))
    return _Run(kept=kept, casts=casts - kept, peak=held.peak, trained=numbers[0], frozen=numbers[1])


def _is_trained(parameter: Tensor) -> bool:
    return parameter.requires_grad


def _count(parameters: Iterable[Tensor], *, trained: bool) -> int:
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad is trained)


def _give_memory(model: torch.nn.Module) -> None:
    """Put a fake tensor in the place of each of the meta device, which has no kernels of its own."""
    for module in model.modules():
        for name, old in list(module._parameters.items()):
            if old is not None:
                new = torch.empty(old.shape, dtype=old.dtype)
                module._parameters[name] = torch.nn.Parameter(new, requires_grad=old.requires_grad)
        for name, old in list(module._buffers.items()):
            if old is not None:
                module._buffers[name] = torch.empty(old.shape, dtype=old.dtype)


def _forget_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _backbone(network: Network, layers: int) -> Any:
    config = deepcopy(network.config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = (config.layer_types * layers)[:layers]
    attention = "sdpa" if network.attention in (None, *PACKED) else network.attention
    model: Any = AutoModel.from_config(config, dtype=network.weights, attn_implementation=attention)
    if network.adapter is not None:
        from peft import get_peft_model

        adapter = deepcopy(network.adapter)
        adapter.task_type = None
        model = get_peft_model(model, adapter)
    if network.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def head_bytes(network: Network, positions: int, *, trained: bool, gpu: bool) -> int:
    """Most bytes of TRL's fused head over so many positions, forward and backward, with its gradient.

    On a GPU its kernels work in place (trl/kernels/chunked_logprob.py) on a copy of the positions that have
    labels; gradients are float32 and in the end copied to the precision of the weights. Elsewhere torch makes
    copies of each tile of logits, and the code itself is run.
    """
    width, vocabulary = network.config.hidden_size, network.config.vocab_size
    if not gpu:
        return _run_head(network, positions, trained=trained)
    used = 2 if network.autocast else network.weights.itemsize
    tile = min(positions, TOKEN_CHUNK_SIZE) * VOCABULARY_CHUNK * used
    columns = min(VOCABULARY_CHUNK, vocabulary)
    kept = network.weights.itemsize
    gradients = width * (positions + (vocabulary if trained else 0))
    copies = columns * width * used if network.autocast else gradients * kept if kept < 4 else 0
    return tile + 4 * gradients + copies + positions * width * kept


def _run_head(network: Network, positions: int, *, trained: bool) -> int:
    config = network.config
    with FakeTensorMode():
        weight = torch.empty(config.vocab_size, config.hidden_size, dtype=network.weights)
        weight.requires_grad_(trained)
        hidden = torch.empty(positions, config.hidden_size, dtype=network.weights, requires_grad=True)
        labels = torch.zeros(positions, dtype=torch.long)
        with Held([weight, hidden, labels]) as held:
            with torch.autocast("cpu", torch.bfloat16) if network.autocast else nullcontext():
                outputs: Any = ChunkedLogProbFunction.apply(
                    hidden, weight, None, labels, 1.0, VOCABULARY_CHUNK, None, 1.0, ("entropy",)
                )
            outputs[0].sum().backward()
    return held.peak
