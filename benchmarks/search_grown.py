"""A small trained model made large without changing what it computes: forward passes cost what they cost in a
model of that size, and the texts stay those of the trained one."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from data.store import read_json, write_json

SILENT = ("self_attn.o_proj", "mlp.down_proj")
"""What a block adds to the stream goes through these."""


def grow(source: Path, target: Path, layers: int, intermediate_size: int) -> int:
    """Write a Llama or Qwen2 of `source` with more blocks, which add nothing, and wider feed-forward layers,
    whose new units are multiplied by zero; the number of its parameters.

    Raises:
        ValueError: the model is not smaller.
    """
    config = read_json(source / "config.json")
    known = config["num_hidden_layers"]
    if layers < known or intermediate_size < config["intermediate_size"]:
        raise ValueError(f"--grow: {source} has {known} layers of {config['intermediate_size']} already")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint-*", "*.bin", "rejected"))
    weights = load_file(source / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in weights if ".mlp." in name]:
        weights[name] = _wider(weights[name], name, intermediate_size, generator)
    block = {name: value for name, value in weights.items() if ".layers.0." in name}
    for layer in range(known, layers):
        for name, value in block.items():
            silent = any(part in name for part in SILENT)
            new = torch.zeros_like(value) if silent else value.clone()
            weights[name.replace(".layers.0.", f".layers.{layer}.")] = new
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    config |= {"num_hidden_layers": layers, "intermediate_size": intermediate_size}
    config.pop("layer_types", None)
    write_json(target / "config.json", config)
    return sum(value.numel() for value in weights.values())


def _wider(weight: torch.Tensor, name: str, size: int, generator: torch.Generator) -> torch.Tensor:
    """Units behind those of a feed-forward matrix; zeros in the one that writes to the stream."""
    if "down_proj" in name:
        return torch.cat([weight, torch.zeros(weight.shape[0], size - weight.shape[1])], dim=1)
    more = torch.randn(size - weight.shape[0], weight.shape[1], generator=generator) * weight.std()
    return torch.cat([weight, more])
