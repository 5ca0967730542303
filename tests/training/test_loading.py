"""The tokenizer that a recipe trains with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from trl import ModelConfig

from training.loading import training_tokenizer


def test_the_chat_template_of_another_model_or_file_is_taken(
    tiny_model: Path, tokenizer: Any, tmp_path: Path
) -> None:
    bare, file = tmp_path / "bare", tmp_path / "own.jinja"
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        tokenizer.save_pretrained(bare)
    finally:
        tokenizer.chat_template = template
    shutil.copy(tiny_model / "config.json", bare)
    file.write_text("{{ messages[0]['content'] }}", encoding="utf-8")

    def made(path: str | None) -> Any:
        model = ModelConfig(model_name_or_path=str(bare))
        return training_tokenizer(model, trust_remote_code=False, chat_template_path=path).chat_template

    assert made(None) is None
    assert made(str(tiny_model)) == template
    assert made(str(file)) == "{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match=r"chat_template_path: .* has no chat template"):
        made(str(bare))
    with pytest.raises(ValueError, match=r"chat_template_path: .*absent.jinja: no such file"):
        made(str(tmp_path / "absent.jinja"))
    with pytest.raises(ValueError, match=r"^chat_template_path: .*absent does not exist"):
        made(str(tmp_path / "absent"))
