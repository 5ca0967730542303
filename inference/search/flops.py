"""Floating-point operations of decoder models: 2 x parameters x tokens, and attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Flops:
    """What a token costs in one model (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)."""

    parameters: int
    """Those that a token is multiplied with: all but the table of input embeddings, which is counted where it
    is the output's too."""
    layers: int
    width: int
    """Of the attention: heads x size of a head."""

    def __call__(self, tokens: float, start: float) -> float:
        """Of so many tokens behind `start` others; each attends to all before it (4 x layers x width for
        each of them: products with keys and with values)."""
        return self.of(tokens, tokens * start + tokens * (tokens + 1) / 2)

    def of(self, tokens: float, attended: float) -> float:
        """Of tokens that attend to so many others, all together."""
        return 2.0 * self.parameters * tokens + 4.0 * self.layers * self.width * attended


def flops_of(model: Any, *, trained: bool = False) -> Flops:
    """Of a transformers model, which may be on the meta device, or split by ZeRO-3.

    Args:
        trained: count only weights that have a gradient.
    """
    text = model.config.get_text_config()
    counted = {parameter for parameter in model.parameters() if parameter.requires_grad or not trained}
    embeddings, output = model.get_input_embeddings(), model.get_output_embeddings()
    tied = output is not None and output.weight is embeddings.weight
    if not tied:
        counted.discard(embeddings.weight)
    parameters = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in counted)
    width = text.num_attention_heads * head_size(text)
    return Flops(parameters=parameters, layers=text.num_hidden_layers, width=width)


def head_size(config: Any) -> int:
    """Of an attention head, by a text model's config."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def engine_flops(engine: Any) -> Flops | None:
    """Of an engine's model: the loaded one, or one by the config that a folder or the hub's cache has; None
    where neither is at hand, as behind a server."""
    model = getattr(engine, "model", None)
    return _flops_by_config(engine.name) if model is None else flops_of(model)


@cache
def _flops_by_config(name: str) -> Flops | None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from inference.models import locate

    try:
        config = AutoConfig.from_pretrained(locate(name), local_files_only=True)
        with torch.device("meta"):
            return flops_of(AutoModelForCausalLM.from_config(config))
    except (OSError, ValueError, AttributeError):  # no config at hand, or a model of another kind
        return None


def scorer_flops(scorer: Any) -> Flops | None:
    """Of a scorer that has a transformers model of its own; None for others."""
    model = getattr(scorer, "model", None)
    return None if model is None or not hasattr(model, "get_input_embeddings") else flops_of(model)


def total(flops: Flops | None, tokens: float, start: float) -> float:
    """`Flops` of tokens, nan where the model is not known."""
    return math.nan if flops is None else flops(tokens, start)
