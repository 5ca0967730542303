from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from inference.engine import Request, SamplingParams
from inference.models import load_model, load_tokenizer, locate
from inference.transformers_engine import TransformersEngine

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


@pytest.fixture
def sharded(tiny_model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    load_model(str(tiny_model)).save_pretrained(folder, max_shard_size="40KB")
    load_tokenizer(str(tiny_model)).save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 2
    load_model(str(folder))
    return folder


def test_shards_that_are_not_whole_are_refused(sharded: Path) -> None:
    one, two, *_ = sorted(sharded.glob("*.safetensors"))
    content = two.read_bytes()
    two.write_bytes(content[:-1])
    with pytest.raises(
        ValueError, match=f"{two.name} has {len(content) - 1} bytes and not {len(content)}; copy"
    ):
        locate(str(sharded))
    two.write_bytes(b"\0" * 64 + content[64:])
    with pytest.raises(ValueError, match=f"{two.name} has no header that can be read"):
        locate(str(sharded))
    shutil.copy(one, two)  # transformers gives what is missing random values
    with pytest.raises(ValueError, match=rf"{two.name} lacks model\.\S+ and \d+ more"):
        locate(str(sharded))
    two.unlink()
    with pytest.raises(ValueError, match=f"{two.name} is missing, and model.safetensors.index.json names it"):
        locate(str(sharded))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_weights_that_are_not_finite_give_no_completions(
    tiny_model: Path, tmp_path: Path, temperature: float
) -> None:
    import torch

    model = load_model(str(tiny_model))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 5] = torch.nan
    model.save_pretrained(tmp_path)
    load_tokenizer(str(tiny_model)).save_pretrained(tmp_path)
    engine = TransformersEngine(
        load_model(str(tmp_path)), load_tokenizer(str(tmp_path)), name="m", batch_size=2
    )
    params = SamplingParams(max_tokens=4, temperature=temperature)
    with pytest.raises(ValueError, match=r"logits are not finite.*weights are broken, or overflow"):
        list(engine.generate([Request(prompt_ids=(20, 30), params=params, seed=0)]))
