"""Whether traces are longer than a student can use: told before compute is spent on them.

Small models learn less from long chains of thought than from short ones (Li et al. 2025, arXiv 2502.12143:
models up to 3B, with mixtures of long and short traces as the remedy), and no model uses positions that it
was never trained for. All is read from config.json, without weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from inference.models import locate

SMALL_PARAMETERS = 3e9
"""A student below this is small (arXiv 2502.12143, section 3)."""
LONG_TOKENS = 4096
"""Traces of which half are longer than this are long."""
EXTRAPOLATED = ("linear", "dynamic", "yarn")
"""Kinds of rope scaling that stretch a trained model to more positions; the others (llama3, longrope) were in
its training."""


def context_warnings(
    model: str, lengths: Sequence[int], init_kwargs: Mapping[str, Any] | None = None
) -> list[str]:
    """What to tell of traces that are too long for a student, each with the fix; nothing where the model has
    no config.json (an adapter, a name that no hub knows).

    Args:
        lengths: tokens of each trace, prompt included.
        init_kwargs: what the model is loaded with; overrides its config.json.
    """
    text = _text_config(model, init_kwargs or {})
    if text is None:
        return []
    found = [*_beyond_positions(_positions(text), lengths), *_outside_window(_window(model, text), lengths)]
    if median(lengths) > LONG_TOKENS:
        found += _long_for_small(parameter_count(model), lengths)
    return found


def _text_config(model: str, init_kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
    from transformers import PretrainedConfig

    try:
        values, _ = PretrainedConfig.get_config_dict(locate(model))
    except OSError:
        return None
    text = dict(values.get("text_config", values))
    if "rope_parameters" in init_kwargs:
        text.pop("rope_scaling", None)
    return {**text, **init_kwargs}


def _positions(text: Mapping[str, Any]) -> int | None:
    """Tokens that the student was trained for; None where its config does not say it."""
    rope = text.get("rope_scaling") or text.get("rope_parameters") or {}
    before = rope.get("original_max_position_embeddings")
    if before is not None and rope.get("rope_type", rope.get("type")) in EXTRAPOLATED:
        return int(before)
    return text.get("max_position_embeddings")


def _window(model: str, text: Mapping[str, Any]) -> int | None:
    """Tokens that each layer attends to; None where a layer attends to all, or where transformers does not
    have the architecture."""
    from transformers import AutoConfig

    window = text.get("sliding_window")
    if window is None or not text.get("use_sliding_window", True):
        return None
    try:  # which layers have the window is often said by the config's class alone (Gemma 2 and 3)
        config = AutoConfig.from_pretrained(locate(model), trust_remote_code=False).get_text_config()
    except (OSError, ValueError):
        return None
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    return window if kinds == {"sliding_attention"} else None


def parameter_count(model: str) -> int | None:
    """Parameters of a model by its config.json, counted in a network without memory; None where transformers
    does not have its architecture."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(locate(model), trust_remote_code=False)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError):
        return None
    return sum(parameter.numel() for parameter in network.parameters())


def _beyond_positions(positions: int | None, lengths: Sequence[int]) -> Iterator[str]:
    longer = [length for length in lengths if positions is not None and length > positions]
    if longer:
        room = 1 << (max(longer) - 1).bit_length()
        yield (
            f"{len(longer)} of {len(lengths)} traces are longer than the {positions} positions that the "
            f"student was trained for (the longest has {max(longer)} tokens); give it a longer rope base, as "
            "open-r1 does (Qwen2.5-Math-7B-RoPE-300k): `model_init_kwargs: {rope_parameters: {rope_type: "
            f"default, rope_theta: 300000}}, max_position_embeddings: {room}}}`; or leave them out with "
            f"max_length: {positions} and max_overlong_fraction, or curate shorter traces"
        )


def _outside_window(window: int | None, lengths: Sequence[int]) -> Iterator[str]:
    longer = [length for length in lengths if window is not None and length > window]
    if longer:
        yield (
            f"{len(longer)} of {len(lengths)} traces are longer than the {window} tokens that the student "
            f"attends to (sliding_window; the longest has {max(longer)} tokens): at their end it no longer "
            f"sees the question; leave them out with max_length: {window} and max_overlong_fraction, or "
            "curate shorter traces"
        )


def _long_for_small(parameters: int | None, lengths: Sequence[int]) -> Iterator[str]:
    if parameters is not None and parameters < SMALL_PARAMETERS:
        yield (
            f"half of the traces are longer than {median(lengths):g} tokens and the student has "
            f"{parameters / 1e9:.2g}B parameters: models up to 3B learn less from long traces than from "
            "short ones (arXiv 2502.12143), and users report 1.5B models that solve nothing any more after "
            "1,000 of them; train on 20 % long and 80 % short traces (stage `mix`), or curate with "
            "max_thinking_tokens"
        )
