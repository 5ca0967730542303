"""Loading what training left as one whole model in float32: plain weights, ZeRO-3 shards, an adapter in its
base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.models import load_tokenizer
from training.model_source import Source, locate_any

if TYPE_CHECKING:
    from torch import Tensor

PROBE = "What is 12 + 30?\nFirst, 10 + 30 = 40. Then 40 + 2 = 42, so the answer is \\boxed{42}."
"""Text whose logits are compared before and after."""
MERGE_TOLERANCE = 1e-3
"""Largest change of a logit by merging in float32, relative to the largest one; rounding gives 1e-6."""


def load_source(source: Source, base_model: str | None, trust_remote_code: bool) -> tuple[Any, Any, Tensor]:
    """The whole model in float32, its tokenizer, and the logits of the source on the probe text.

    The `config.dtype` of the model is that of the source.

    Raises:
        ValueError: see `load_adapter`, `load_whole` and `load_shards`.
    """
    if source.kind == "adapter":
        return load_adapter(Path(source.model), base_model, trust_remote_code)
    load = load_shards if source.kind == "zero3" else load_whole
    model = load(source.model, trust_remote_code)
    tokenizer = _tokenizer(source.model, trust_remote_code)
    _check_rows(tokenizer, model, source.model)
    return model, tokenizer, probe_logits(model, tokenizer)


def load_whole(model: str, trust_remote_code: bool) -> Any:
    """A plain model in float32.

    Raises:
        ValueError: it cannot be loaded, or some of its weights are missing or of other shapes.
    """
    import torch
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(locate_any(model), trust_remote_code=trust_remote_code)
        loaded, info = model_class(config).from_pretrained(
            locate_any(model),
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except OSError as error:
        raise ValueError(f"{model} cannot be loaded: {error}") from error
    bad = [*info["missing_keys"], *info["mismatched_keys"]]
    if bad:
        raise ValueError(
            f"{model}: {len(bad)} weights are missing or of another shape, the first: {bad[0]}; "
            "the folder is not whole: copy or make it again"
        )
    loaded.config.dtype = config.dtype  # loading has set it to float32
    return loaded.eval()


def model_class(config: Any) -> Any:
    """The class that a model's config names, which for a reward model is no language model."""
    import transformers

    names = config.architectures or []
    own = getattr(transformers, names[0], None) if names else None
    return own or transformers.AutoModelForCausalLM


def load_shards(folder: str, trust_remote_code: bool) -> Any:
    """The model of a ZeRO-3 checkpoint, from the float32 weights of the optimizer's shards.

    Raises:
        ValueError: shards are missing or unreadable, or are of another model.
    """
    import torch
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    dtype = config.dtype
    config.dtype = torch.float32
    try:
        state = get_fp32_state_dict_from_zero_checkpoint(folder)
        made = model_class(config)(config)
        made.load_state_dict(state)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ValueError(
            f"source: the ZeRO-3 shards in {folder} cannot be put together ({error}); "
            "copy the whole folder with its global_step* again, or take another checkpoint"
        ) from error
    made.tie_weights()
    if (Path(folder) / "generation_config.json").is_file():
        made.generation_config = type(made.generation_config).from_pretrained(folder)
    made.config.dtype = dtype
    return made.eval()


def load_adapter(folder: Path, base_model: str | None, trust_remote_code: bool) -> tuple[Any, Any, Tensor]:
    """The base of an adapter with the adapter in its weights, in float32.

    Raises:
        ValueError: no base, one that cannot be loaded, is itself an adapter or has another vocabulary, an
            adapter without weights or of a reward model, or logits that change by merging.
    """
    from peft import PeftConfig, PeftModel

    options = PeftConfig.from_pretrained(str(folder))
    if options.task_type not in (None, "CAUSAL_LM"):
        raise ValueError(
            f"source: {folder} is an adapter for {options.task_type}; stages prm and reward_model merge "
            "theirs themselves: give the folder of the stage, without checkpoint"
        )
    name = base_model or options.base_model_name_or_path
    if not name:
        raise ValueError(f"base_model: the adapter in {folder} does not say its base; give it")
    base = _base(name, trust_remote_code, folder)
    tokenizer = _tokenizer(str(folder), trust_remote_code, name)
    _check_vocabulary(tokenizer, load_tokenizer(name, trust_remote_code=trust_remote_code), name)
    _check_rows(tokenizer, base, name)
    _check_adapter_weights(folder)
    try:
        model: Any = PeftModel.from_pretrained(base, str(folder)).eval()
    except RuntimeError as error:  # shapes that differ
        raise ValueError(
            f"base_model: {name} does not fit the adapter in {folder} ({str(error)[:500]}); "
            "give the model that it was trained on"
        ) from error
    before = probe_logits(model, tokenizer)
    merged = model.merge_and_unload(safe_merge=True)
    change = float((probe_logits(merged, tokenizer) - before).abs().max() / before.abs().max())
    if not change < MERGE_TOLERANCE:
        raise ValueError(
            f"source: merging {folder} into {name} changes logits by {change:.2g} of the largest; "
            "this adapter cannot be merged: serve it as an adapter"
        )
    _set_end(merged, tokenizer)
    return merged, tokenizer, before


def _base(name: str, trust_remote_code: bool, adapter: Path) -> Any:
    if (Path(name) / "adapter_config.json").is_file():
        raise ValueError(
            f"base_model: {name}, the base of {adapter}, is itself an adapter; make a plain model of it "
            "first and give that"
        )
    try:
        return load_whole(name, trust_remote_code)
    except ValueError as error:
        raise ValueError(
            f"base_model: the base of the adapter in {adapter} is missing ({error}); give `base_model`, the "
            "folder or hub id that it was trained on"
        ) from error


def _tokenizer(model: str, trust_remote_code: bool, base: str = "") -> Any:
    """The tokenizer of a folder, of the stage that a checkpoint is of, or of the base."""
    folder = Path(model)
    places = [folder, *([folder.parent] if folder.name.startswith("checkpoint-") else [])]
    own = [str(place) for place in places if (place / "tokenizer_config.json").is_file()]
    return load_tokenizer([*own, base or model][0], trust_remote_code=trust_remote_code)


def _check_vocabulary(tokenizer: Any, of_base: Any, name: str) -> None:
    """Refuse a base whose tokens have other ids than those that the adapter was trained with."""
    ids = tokenizer.get_vocab()
    other = sorted(token for token, index in of_base.get_vocab().items() if ids.get(token) != index)
    if other:
        raise ValueError(
            f"base_model: {name} has another vocabulary than the adapter: {len(other)} of its tokens have "
            f"other ids, for example {other[0]!r}; give the model that the adapter was trained on"
        )


def _check_rows(tokenizer: Any, model: Any, name: str) -> None:
    """Refuse a tokenizer with ids that the model has no embedding of."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"{name} has another vocabulary: {rows} embeddings for the {len(tokenizer)} tokens of its "
            "tokenizer; give the model (base_model of an adapter) that was trained with this tokenizer"
        )


def _check_adapter_weights(folder: Path) -> None:
    """ZeRO-3 without zero3_save_16bit_model writes an adapter file that holds nothing."""
    from peft.utils.save_and_load import load_peft_weights

    weights = load_peft_weights(str(folder), device="cpu")
    if not any(tensor.numel() for tensor in weights.values()):
        raise ValueError(
            f"source: the adapter file in {folder} holds no weights, as ZeRO-3 writes it without "
            "`zero3_save_16bit_model: true`; train with that"
        )


def _set_end(model: Any, tokenizer: Any) -> None:
    """Generation stops at the end token that the adapter was trained with, whatever the base had."""
    end = tokenizer.eos_token_id
    options = model.generation_config
    ends = options.eos_token_id if isinstance(options.eos_token_id, list) else [options.eos_token_id]
    if end is not None and end not in ends:
        options.eos_token_id = [end, *(each for each in ends if each is not None)]
        model.config.eos_token_id = end
    if tokenizer.pad_token_id is not None:
        options.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id


def probe_logits(model: Any, tokenizer: Any) -> Tensor:
    """Logits of `PROBE` [1, T, V], on the CPU.

    Raises:
        ValueError: they are not finite.
    """
    import torch

    with torch.no_grad():
        ids = torch.tensor([tokenizer(PROBE).input_ids], device=model.device)
        logits = model(input_ids=ids).logits.float().cpu()
    if not torch.isfinite(logits).all():
        raise ValueError("source: the model's logits are not finite; its weights are broken")
    return logits
