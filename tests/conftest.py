"""Fixtures that every test folder shares: real data where it is at hand, and a small real model made on the
spot."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads of tiny models wait for each other on a busy machine
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TEXT = """Natalia sold clips to 48 of her friends. What is 12 + 30? Please reason step by step, and put your
final answer within \\boxed{42}. First we add 10 and 30, then 2. Wait, let me check: 12 + 30 = 42. The answer
is 42. You are Qwen, created by Alibaba Cloud. You are a helpful assistant. user assistant system think answer
<think> </think> <answer> </answer> \\boxed{7} 0 1 2 3 4 5 6 7 8 9 + - * / = ( ) { } hello world\n\n"""


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Path of a real data file under $SLOWTHINK_DATA; the test is skipped where it is absent."""

    def find(relative: str) -> Path:
        root = os.environ.get("SLOWTHINK_DATA")
        if not root:
            pytest.skip(f"needs real data: set SLOWTHINK_DATA to a folder that holds {relative}")
        path = Path(root) / relative
        if not path.exists():
            pytest.skip(f"needs real data: {path} is absent")
        return path

    return find


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A byte-level BPE tokenizer with Qwen2.5's control tokens and its chat template (as TRL ships it)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|fim_pad|>"],
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = files("trl").joinpath("chat_templates/qwen2_5.jinja").read_text(encoding="utf-8")
    return made


@pytest.fixture(scope="session")
def tiny_model(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a randomly initialised Qwen2 of 50 thousand parameters, with its tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-qwen2"
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
