"""Traces that are too long for a student, by config.json files as models have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config
from trl import ModelConfig, SFTConfig

from data.chat import Example
from training.sft import context_facts
from training.useful_context import context_warnings, parameter_count

SIZE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
QWEN_3B: dict[str, Any] = {  # Qwen2.5-3B: 3.09 billion parameters
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
QWEN_1_5B = {**QWEN_3B, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
QWEN_1_5B["num_attention_heads"] = 12


def save(folder: Path, config: Any, **raw: Any) -> str:
    """A folder with a config.json and no weights; `raw` are set in the file itself."""
    config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **raw}))
    (folder / "tokenizer_config.json").write_text("{}")
    return str(folder)


def test_traces_longer_than_the_trained_positions(tmp_path: Path) -> None:
    model = save(tmp_path, Qwen2Config(**SIZE, max_position_embeddings=4096))
    assert context_warnings(model, [100, 4096]) == []
    [warning] = context_warnings(model, [100, 200, 300, 4097, 9000])
    assert "2 of 5 traces are longer than the 4096 positions" in warning
    assert "the longest has 9000 tokens" in warning
    assert "rope_theta: 300000}, max_position_embeddings: 16384}`" in warning
    assert "max_length: 4096 and max_overlong_fraction" in warning
    longer = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 3e5},
        "max_position_embeddings": 16384,
    }
    assert context_warnings(model, [100, 4000, 9000], longer) == []


def test_the_fix_loads(tmp_path: Path) -> None:
    LlamaForCausalLM(LlamaConfig(**SIZE, max_position_embeddings=64)).save_pretrained(tmp_path)
    rope = {"rope_type": "default", "rope_theta": 300000}
    model = AutoModelForCausalLM.from_pretrained(tmp_path, rope_parameters=rope, max_position_embeddings=128)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.max_position_embeddings == 128
    assert model.model.rotary_emb.inv_freq[1] < plain.model.rotary_emb.inv_freq[1]


@pytest.mark.parametrize(
    ("rope", "positions"),
    [
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_type": "linear", "factor": 2.0, "original_max_position_embeddings": 4096}, 4096),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 4096}, 8192),
        ({"rope_type": "linear", "factor": 2.0}, 8192),
        (None, 8192),
    ],
)
def test_scaled_positions_count_where_they_were_trained(
    tmp_path: Path, rope: dict[str, Any] | None, positions: int
) -> None:
    model = save(tmp_path, Qwen2Config(**SIZE), max_position_embeddings=8192, rope_scaling=rope)
    assert context_warnings(model, [1, 1, positions]) == []
    [warning] = context_warnings(model, [1, 1, positions + 1])
    assert f"the {positions} positions" in warning


def test_a_window_in_every_layer(tmp_path: Path) -> None:
    mistral = MistralConfig(**SIZE, max_position_embeddings=32768, sliding_window=4096)
    [warning] = context_warnings(save(tmp_path / "m", mistral), [100, 200, 5000])
    assert "1 of 3 traces are longer than the 4096 tokens that the student attends to" in warning
    for name, options in (
        ("off", {"use_sliding_window": False, "sliding_window": 4096}),
        ("some", {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 1}),
    ):
        qwen = Qwen2Config(**SIZE, max_position_embeddings=32768, **options)
        assert context_warnings(save(tmp_path / name, qwen), [100, 200, 5000]) == []


@pytest.mark.parametrize("text_config", [False, True])
def test_a_window_in_some_layers_by_the_architecture_alone(tmp_path: Path, text_config: bool) -> None:
    """As Gemma 2 and 3 are published: config.json has a window and no word of the layers without it."""
    text = {**SIZE, "sliding_window": 1024, "num_hidden_layers": 6, "max_position_embeddings": 8192}
    config: dict[str, Any] = {"model_type": "gemma2", **text}
    if text_config:
        config = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", **text}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert context_warnings(str(tmp_path), [2000, 3000]) == []


def test_long_traces_for_a_small_student(tmp_path: Path) -> None:
    small = save(tmp_path / "small", Qwen2Config(**QWEN_1_5B, max_position_embeddings=32768))
    assert parameter_count(small) == 1_543_714_304
    [warning] = context_warnings(small, [4000, 9000, 10000])
    assert "half of the traces are longer than 9000 tokens and the student has 1.5B parameters" in warning
    assert "20 % long and 80 % short traces (stage `mix`), or curate with max_thinking_tokens" in warning
    assert context_warnings(small, [4000, 4096, 10000]) == []
    large = save(tmp_path / "large", Qwen2Config(**QWEN_3B, max_position_embeddings=32768))
    assert parameter_count(large) == 3_085_938_688
    assert context_warnings(large, [9000]) == []


def test_what_is_not_known_is_not_told(tmp_path: Path) -> None:
    assert context_warnings("no-such/model-on-any-hub", [10**6]) == []
    odd = save(tmp_path, Qwen2Config(**SIZE, max_position_embeddings=1 << 20), model_type="no_such_type")
    assert context_warnings(odd, [9000]) == []


def test_metrics_have_lengths_and_warnings_where_there_are_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ModelConfig(
        model_name_or_path=save(tmp_path / "m", Qwen2Config(**SIZE, max_position_embeddings=8))
    )
    args = SFTConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True)
    examples = [Example(input_ids=[1] * n, labels=[1] * n) for n in (3, 8, 9)]
    assert context_facts(model, args, examples[:2]) == {}
    told = context_facts(model, args, examples)
    assert (told["tokens_median"], told["tokens_longest"], len(told["warnings"])) == (8, 9, 1)
    assert "1 of 3 traces are longer than the 8 positions" in caplog.text
    args.model_init_kwargs = {"max_position_embeddings": 16}
    assert context_facts(model, args, examples) == {}
