from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from inference.models import load_tokenizer, locate

TEXT = "don't 12 + 30 = 42,  <|im_start|>user\nthink </think>"


def test_a_folders_own_tokenizer_is_kept(tiny_model: Path, tokenizer: Any) -> None:
    loaded = load_tokenizer(str(tiny_model))
    assert loaded(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert loaded.decode(loaded(TEXT)["input_ids"]) == TEXT
    assert loaded.padding_side == "left"
    assert loaded.chat_template == tokenizer.chat_template


def test_why_autotokenizer_alone_will_not_do(tiny_model: Path, tokenizer: Any) -> None:
    """Should this fail one day, the choice of class in `load_tokenizer` can go."""
    assert type(AutoTokenizer.from_pretrained(tiny_model)) is not type(tokenizer)


@pytest.mark.parametrize("model", ["/absent/model", "./absent", "runs/absent/04_sft"])
def test_a_folder_that_is_not_there_is_named(model: str) -> None:
    with pytest.raises(ValueError, match=rf"{model} does not exist"):
        locate(model)


def test_an_unknown_hub_id_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLOWTHINK_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="slowthink fetch-model smollm2"):
        load_tokenizer("HuggingFaceTB/SmolLM2-135M-Instruct")
    with pytest.raises(ValueError, match=r"(?s)cannot load 'nobody/nothing'.*give a local folder"):
        load_tokenizer("nobody/nothing")


def test_the_cache_stands_for_the_hub(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SLOWTHINK_CACHE", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "owner--name").symlink_to(tiny_model)
    assert locate("owner/name") == str(tmp_path / "models" / "owner--name")
