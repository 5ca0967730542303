"""Which tokenizer and which arguments a model is loaded with for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.models import load_tokenizer

if TYPE_CHECKING:
    from trl import ModelConfig


def training_tokenizer(
    model: ModelConfig,
    *,
    trust_remote_code: bool,
    eos_token: str | None = None,
    pad_token: str | None = None,
    chat_template_path: str | None = None,
) -> Any:
    """The model's tokenizer with the tokens and the chat template that the recipe gives.

    Raises:
        ValueError: no model is named, or a token is not in the vocabulary.
    """
    if model.model_name_or_path is None:
        raise ValueError("model_name_or_path is missing: a folder, a run: reference or a hub id")
    tokenizer: Any = load_tokenizer(model.model_name_or_path, trust_remote_code=trust_remote_code)
    for key, token in (("eos_token", eos_token), ("pad_token", pad_token)):
        if token is None:
            continue
        if token not in tokenizer.get_vocab():
            raise ValueError(f"{key}: {token!r} is not in the tokenizer's vocabulary")
        setattr(tokenizer, key, token)
    if chat_template_path:
        tokenizer.chat_template = _chat_template(chat_template_path, trust_remote_code=trust_remote_code)
    return tokenizer


def _chat_template(path: str, *, trust_remote_code: bool) -> Any:
    """The template in a .jinja file, or that of another model's tokenizer.

    Raises:
        ValueError: no such file or tokenizer, or that tokenizer has none.
    """
    if path.endswith((".jinja", ".j2")):
        if not Path(path).is_file():
            raise ValueError(f"chat_template_path: {path}: no such file")
        return Path(path).read_text(encoding="utf-8")
    try:
        template = load_tokenizer(path, trust_remote_code=trust_remote_code).chat_template
    except ValueError as error:
        raise ValueError(str(error).replace("model_name_or_path:", "chat_template_path:", 1)) from error
    if template is None:
        raise ValueError(f"chat_template_path: the tokenizer of {path} has no chat template")
    return template


def model_init_kwargs(model: ModelConfig, given: dict[str, Any] | str | None) -> dict[str, Any]:
    """What TRL loads the model with: the fields of ModelConfig, then `given` (the recipe's own)."""
    from trl import get_quantization_config

    if model.attn_implementation == "documents":
        import training.document_attention  # noqa: F401  (registers it)

    quantization = get_quantization_config(model)
    own: Any = given or {}
    return {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **({} if quantization is None else {"quantization_config": quantization}),
        **own,
    }
