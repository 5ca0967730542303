"""Finding models and tokenizers: a folder, the local cache of converted models, or the model hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.store import read_json
from inference.weight_files import check_weight_files

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

FETCHABLE = {"HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2"}
"""Models that `slowthink fetch-model` can get without the hub."""


GENERIC_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes whose whole behaviour is in tokenizer.json."""


def model_cache() -> Path:
    """Where converted models are kept: $SLOWTHINK_CACHE, else ~/.cache/slowthink."""
    return Path(os.environ.get("SLOWTHINK_CACHE", Path.home() / ".cache" / "slowthink")) / "models"


def cached_folder(model: str) -> Path:
    """Folder of a model of the hub in the local cache, whether it is there or not."""
    return model_cache() / model.replace("/", "--")


def locate(model: str) -> str:
    """A local folder or hub id that transformers can load.

    Raises:
        ValueError: a local folder that holds no model or no tokenizer, or weights that are not whole.
    """
    folder = Path(model)
    if not folder.is_dir():
        folder = cached_folder(model)
        if not folder.is_dir():
            if model.startswith((".", "/", "runs/")):
                raise ValueError(f"model_name_or_path: {model} does not exist")
            return model
    needed = {"model": ("config.json", "adapter_config.json"), "tokenizer": ("tokenizer_config.json",)}
    for what, files in needed.items():
        if not any((folder / file).is_file() for file in files):
            raise ValueError(
                f"model_name_or_path: {folder} has no {what} ({files[0]} is missing); save it there first"
            )
    check_weight_files(folder)
    return str(folder)


def load_tokenizer(model: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Tokenizer of a model, padding on the left.

    Raises:
        ValueError: see `locate`; or neither the cache nor the hub has it.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # AutoTokenizer replaces a folder's own tokenizer by the class of the model type (Qwen2Tokenizer) and
    # keeps nothing of it but the vocabulary; a folder that says what it is gets what it says
    config = Path(locate(model)) / "tokenizer_config.json"
    own = config.is_file() and read_json(config).get("tokenizer_class") in GENERIC_TOKENIZERS
    return _load(
        PreTrainedTokenizerFast if own else AutoTokenizer,
        model,
        padding_side="left",
        clean_up_tokenization_spaces=False,  # decoding must give back what was encoded
        trust_remote_code=trust_remote_code,
    )


def load_model(model: str, *, trust_remote_code: bool = False, **options: Any) -> Any:
    """Causal language model in evaluation mode.

    Raises:
        ValueError: see `locate`; or neither the cache nor the hub has it.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, model, trust_remote_code=trust_remote_code, **options).eval()


def _load(auto_class: Any, model: str, **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(locate(model), **options)
    except OSError as error:
        fetch = (
            f"run `slowthink fetch-model {FETCHABLE[model]}`" if model in FETCHABLE else "give a local folder"
        )
        raise ValueError(
            f"model_name_or_path: cannot load {model!r} ({error}); without a hub, {fetch}"
        ) from error


def own_device() -> torch.device:
    """The device of this process; of several on one machine each has a GPU of its own."""
    import torch

    number = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", number) if torch.cuda.is_available() else torch.device("cpu")
