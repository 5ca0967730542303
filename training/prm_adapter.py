"""Adapters of reward models: a scorer gets one plain folder, whatever was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def merge_adapter(load: Callable[[], Any], folder: Path) -> None:
    """Replace the trained adapter in `folder` by the whole model, with the adapter in its weights.

    Args:
        load: gives the network that the adapter was trained on.
    """
    from peft import PeftModel
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # or the weights would be sharded over processes that are not here
    PeftModel.from_pretrained(load(), str(folder)).merge_and_unload().save_pretrained(folder)
    for leftover in folder.glob("adapter_*"):
        leftover.unlink()
