"""How fast a training is: tokens a second, and the share of the accelerators' peak that they use (MFU).

What counts is the work that training needs: the tokens that go through the trained model with gradient, in
the forward and the backward pass. What gradient checkpointing computes again does not count, nor do passes
without gradient (reference, teacher, evaluation). Suffixes: B rows, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inference.accelerators import peak_flops
from inference.search.flops import flops_of


class TokenCount:
    """Counts what goes through a model with gradient: tokens, and how many each of them attends to.

    Args:
        model: of transformers, not wrapped, with or without adapters.
    """

    def __init__(self, model: Any) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        decoder = getattr(base, "base_model", base)  # losses may leave out the head
        count = torch.compiler.disable(self._count)
        self._hook = decoder.register_forward_pre_hook(count, with_kwargs=True)
        self._sums: Tensor | None = None

    def _count(self, module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        given = args[0] if args else inputs.get("input_ids", inputs.get("inputs_embeds"))
        if given is None or not torch.is_grad_enabled():
            return
        real_BT = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        if isinstance(mask, Tensor) and mask.shape == real_BT.shape:
            real_BT = mask.long()
        attended_BT = real_BT.cumsum(1)
        if isinstance(positions, Tensor) and positions.shape == real_BT.shape:
            attended_BT = positions + 1  # of packed rows, where they begin anew with each document
        sums = torch.stack([real_BT.sum(), (attended_BT * real_BT).sum()])
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self) -> tuple[float, float]:
        """Tokens and attended tokens since this was asked last."""
        tokens, attended = (0.0, 0.0) if self._sums is None else self._sums.tolist()
        self._sums = None
        return tokens, attended

    def close(self) -> None:
        self._hook.remove()


class Speed:
    """What a training does in a second, on all of its processes together."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.peak_flops = _peak_flops(trainer)
        self.generated = 0
        if self.peak_flops is not None:
            model = trainer.accelerator.unwrap_model(trainer.model)
            self.flops, self.trained = flops_of(model), flops_of(model, trained=True)

    def begin(self) -> None:
        """Count what is generated from here on."""
        self.generated = self._generated_tokens()

    def _generated_tokens(self) -> int:
        """Of all completions so far, where the trainer lets the policy write any."""
        return getattr(self.trainer, "generated_tokens", 0)

    def row(self, tokens: float, attended: float, seconds: float) -> dict[str, float]:
        """Columns of a row, of the trained tokens since the last one.

        Args:
            attended: the sum over these tokens of how many each one attends to.
        """
        generated, self.generated = self._generated_tokens() - self.generated, self._generated_tokens()
        row: dict[str, float] = {}
        if tokens:
            row |= {"perf/tokens": tokens, "perf/tokens_per_second": tokens / seconds}
        if generated:
            row["perf/generated_tokens_per_second"] = generated / seconds
        if self.peak_flops is None or not (tokens or generated):
            return row
        peak = self.peak_flops * seconds
        forward = self.flops.of(tokens, attended)
        backward = forward + self.trained.of(tokens, attended)  # by the inputs, and by the weights
        row["perf/mfu"] = (forward + backward) / peak
        if generated:
            row["perf/mfu_generation"] = self.flops.of(generated, 0) / peak
        return row


def _peak_flops(trainer: Any) -> float | None:
    """Of all processes together; None where it is not known, or says nothing (mixtures of experts use a part
    of their weights)."""
    config, accelerator = getattr(trainer.model, "config", None), trainer.accelerator
    text = config.get_text_config() if config is not None else None
    experts = ("num_experts", "num_local_experts", "n_routed_experts")
    if text is None or any(hasattr(text, key) for key in experts):
        return None
    stored = str(trainer.model.dtype).removeprefix("torch.")
    dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(accelerator.mixed_precision, stored)
    if dtype not in ("float32", "bfloat16", "float16"):
        return None
    on_gpu = trainer.args.device.type == "cuda"
    peak = peak_flops(torch.cuda.get_device_name() if on_gpu else trainer.args.device.type, dtype)
    return None if peak is None else peak * accelerator.num_processes
