"""Stage `plain_model`: one folder that every loader reads, from whatever training left.

An adapter is merged into its base, the shards of a ZeRO-3 checkpoint are put together, a plain model gets
another dtype. The work is done in float32 (4 bytes a parameter in memory); what was written is loaded again
and compared before the stage counts as finished.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from data.stage import run_stage
from data.store import write_json
from inference.models import load_tokenizer
from inference.scorers.reward_model import OPTIONS_FILE, saved_options
from training.model_source import find_source
from training.whole_model import PROBE, load_source, load_whole, probe_logits

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(kw_only=True)
class PlainModelConfig:
    """Fields of stage `plain_model`."""

    source: str
    """Stage folder (run:05_sft), a checkpoint-N inside one, another folder with a model or adapter, or a hub
    id."""
    checkpoint: int | None = None
    """Step of a checkpoint of the stage folder; without it the model that the stage ended with."""
    base_model: str | None = None
    """Folder or hub id of the model that an adapter was trained on; by default what the adapter says."""
    dtype: Dtype = "auto"
    """float32, bfloat16, float16, or auto: that of the source (for an adapter, of its base)."""
    max_shard_size: str = "5GB"
    """Largest weight file, as in 5GB or 500MB."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+(\.\d+)?[KMGT]B", self.max_shard_size):
            raise ValueError(f"max_shard_size: {self.max_shard_size!r} is no size; write for example 5GB")
        if self.checkpoint is not None and self.checkpoint < 1:
            raise ValueError(f"checkpoint: {self.checkpoint} must be the step of a checkpoint, 1 or more")


def plain_model(config: PlainModelConfig, folder: Path) -> dict[str, Any]:
    """Write config, weights, tokenizer with chat template and generation config into `folder`.

    Returns:
        parameters, tensors, vocabulary, bytes, kind, dtype, step; `max_logit_difference`: largest difference
        between a logit of the source and of what was written, both computed in float32, over a short text;
        `max_logit`: the largest logit there.
    Raises:
        ValueError: see `find_source`, `load_source` and `check_written`.
    """
    source = find_source(config.source, config.checkpoint)
    logger.info("%s: %s", source.kind, source.model)
    model, tokenizer, expected = load_source(source, config.base_model, config.trust_remote_code)
    dtype = set_dtype(model, config.dtype)
    model.save_pretrained(folder, max_shard_size=config.max_shard_size)
    tokenizer.save_pretrained(folder)
    stage = source.model if source.step is None else str(Path(source.model).parent)
    if options := saved_options(stage):  # of a reward model
        write_json(folder / OPTIONS_FILE, options)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    rounded = probe_logits(model.float(), tokenizer)
    parameters = sum(each.numel() for each in model.parameters())
    del model
    check_written(folder, config, shapes, tokenizer, rounded)
    return {
        "parameters": parameters,
        "tensors": len(shapes),
        "vocabulary": len(tokenizer),
        "bytes": sum(each.stat().st_size for each in folder.glob("*.safetensors")),
        "kind": source.kind,
        "dtype": dtype,
        "step": source.step,
        "max_logit_difference": float((rounded - expected).abs().max()),
        "max_logit": float(expected.abs().max()),
    }


def set_dtype(model: Any, wanted: Dtype) -> str:
    """Give the parameters their dtype; buffers keep theirs. Returns its name.

    Raises:
        ValueError: a weight that float16 cannot hold.
    """
    import torch

    dtype = getattr(torch, wanted) if wanted != "auto" else model.config.dtype or torch.float32
    for name, parameter in model.named_parameters():
        cast = parameter.data.to(dtype)
        if not torch.isfinite(cast).all():
            raise ValueError(
                f"dtype: {name} holds values that are not finite in {str(dtype).removeprefix('torch.')}; "
                "use bfloat16 or float32, or look at the training if float32 says the same"
            )
        parameter.data = cast
    model.config.dtype = dtype
    return str(dtype).removeprefix("torch.")


def check_written(
    folder: Path, config: PlainModelConfig, shapes: dict[str, tuple[int, ...]], tokenizer: Any, logits: Tensor
) -> None:
    """Load the folder as any loader does and compare names, shapes, token ids and logits.

    Raises:
        ValueError: what was written is not what was meant.
    """
    import torch

    again = load_whole(str(folder), config.trust_remote_code)
    found = {name: tuple(tensor.shape) for name, tensor in again.state_dict().items()}
    other = sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name))
    if other:
        raise ValueError(f"{folder}: {len(other)} weights were not written as they are, first {other[0]}")
    reloaded = load_tokenizer(str(folder), trust_remote_code=config.trust_remote_code)
    if reloaded(PROBE).input_ids != tokenizer(PROBE).input_ids:
        raise ValueError(f"{folder}: the written tokenizer gives other ids; say `trust_remote_code: true`")
    if not torch.allclose(probe_logits(again, reloaded), logits, rtol=1e-4, atol=1e-4):
        raise ValueError(f"{folder}: the written model has other logits than the one in memory")


if __name__ == "__main__":
    run_stage(plain_model, PlainModelConfig)
