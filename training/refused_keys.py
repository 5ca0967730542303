"""Keys of TRL's and transformers' configs that stages refuse, since they would ignore them or train something
else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

NOT_RESUMED = {
    "resume_from_checkpoint": "a stage that was killed goes on from its last complete checkpoint; drop it",
    "save_only_model": "a run that was killed goes on with its optimizer, which this leaves out; drop it",
    "enable_jit_checkpoint": "remove it; every training stage saves when asked to stop",
}
"""Keys with which a killed run would not go on as it was, and what to do instead."""
TEMPLATE = (
    "prompts are rendered by `prompt_style:` and `system_prompt:` alone; drop it, or put what it sets into "
    "the model's chat template"
)
_WITH_VLLM = "only with use_vllm: true; without it there are temperature, top_p and top_k"
ENGINE_LACKS = {
    "min_p": _WITH_VLLM,
    "generation_kwargs": _WITH_VLLM,
    "cache_implementation": _WITH_VLLM,
    "repetition_penalty": _WITH_VLLM,
}
"""Keys of generation that the transformers engine does not have."""


def refuse(args: Any, reasons: Mapping[str, str]) -> None:
    """Refuse keys that do not have their default.

    Args:
        args: a config dataclass.
        reasons: what to do instead, by key; one that the config does not have is passed over.
    Raises:
        ValueError: names the first key.
    """
    for each in fields(args):
        if each.name in reasons and getattr(args, each.name) != default_of(each):
            raise ValueError(f"{each.name}: {reasons[each.name]}")


def default_of(key: Field) -> Any:
    """Of a field of a dataclass."""
    return key.default if key.default_factory is MISSING else key.default_factory()
