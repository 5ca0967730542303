"""The config of a model that need not be at hand: its config.json, or the published shape of known ones."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from inference.models import locate


class Shape(NamedTuple):
    """Numbers of a config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool


KNOWN: tuple[tuple[str, str, Shape], ...] = (
    (r"Qwen2\.5-(\w+-)?0\.5B", "qwen2", Shape(896, 4864, 24, 14, 2, 151936, True)),
    (r"R1-Distill-Qwen-1\.5B", "qwen2", Shape(1536, 8960, 28, 12, 2, 151936, False)),
    (r"Qwen2\.5-(\w+-)?1\.5B", "qwen2", Shape(1536, 8960, 28, 12, 2, 151936, True)),
    (r"Qwen2\.5-(\w+-)?3B", "qwen2", Shape(2048, 11008, 36, 16, 2, 151936, True)),
    (r"(Qwen2\.5-(\w+-)?|R1-Distill-Qwen-)7B", "qwen2", Shape(3584, 18944, 28, 28, 4, 152064, False)),
    (r"(Qwen2\.5-(\w+-)?|R1-Distill-Qwen-)14B", "qwen2", Shape(5120, 13824, 48, 40, 8, 152064, False)),
    (r"(Qwen2\.5-(\w+-)?|R1-Distill-Qwen-)32B", "qwen2", Shape(5120, 27648, 64, 40, 8, 152064, False)),
    (r"Qwen2\.5-(\w+-)?72B", "qwen2", Shape(8192, 29568, 80, 64, 8, 152064, False)),
    (r"Llama-3\.2-1B", "llama", Shape(2048, 8192, 16, 32, 8, 128256, True)),
    (r"Llama-3\.2-3B", "llama", Shape(3072, 8192, 28, 24, 8, 128256, True)),
    (r"(Llama-?3(\.1)?|R1-Distill-Llama)-8B", "llama", Shape(4096, 14336, 32, 32, 8, 128256, False)),
    (r"(Llama-3(\.[13])?|R1-Distill-Llama)-70B", "llama", Shape(8192, 28672, 80, 64, 8, 128256, False)),
    (r"mistral-7b", "mistral", Shape(4096, 14336, 32, 32, 8, 32000, False)),
    (r"SmolLM2-135M", "llama", Shape(576, 1536, 30, 9, 3, 49152, True)),
    (r"SmolLM2-360M", "llama", Shape(960, 2560, 32, 15, 5, 49152, True)),
    (r"SmolLM2-1\.7B", "llama", Shape(2048, 8192, 24, 32, 32, 49152, True)),
)
"""Name, architecture and shape, of the config.json of each model on the hub."""


def network_of(model: str) -> Any | None:
    """transformers config of a text model, without asking any hub: of a folder, of the hub's cache, or of the
    known ones; None where it is none of these."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate(model), local_files_only=True).get_text_config()
    except (OSError, ValueError):  # not here, or an architecture of code in its repository
        return _known(model)


def _known(model: str) -> Any | None:
    from transformers import AutoConfig

    for pattern, kind, shape in KNOWN:
        if re.search(pattern + r"(?![\w.])", model, re.IGNORECASE):
            return AutoConfig.for_model(kind, **shape._asdict(), dtype="bfloat16")
    return None
