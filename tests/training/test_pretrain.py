"""Pretraining on the small world, in this process and very small."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.small_world import ENGLISH_PHRASES, build_tokenizer
from data.small_world_texts import pretraining_texts
from training.checkpoints import MARKER, newest_complete_checkpoint
from training.pretrain import IGNORED, PretrainConfig, batches, pack, pretrain


def tiny(**options: Any) -> PretrainConfig:
    defaults: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "drill_steps": 4,
        "drill_lines": 8,
        "flawless_steps": 3,
        "mixture_steps": 5,
        "batch_tokens": 512,
        "save_steps": 4,
        "logging_steps": 2,
    }
    return PretrainConfig(**{**defaults, **options})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pretrain")
    return folder, pretrain(tiny(), folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_folder_is_a_model_that_generates(finished):
    folder, metrics = finished
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id in (tokenizer.eos_token_id, [tokenizer.eos_token_id])
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    prompt = tokenizer("<|im_start|>user\n47; A+8<|im_end|>\n", return_tensors="pt")
    assert model.generate(**prompt, max_new_tokens=4, do_sample=False).shape[1] > prompt.input_ids.shape[1]


def test_the_saved_tokenizer_is_loaded_as_it_was(finished):
    """AutoTokenizer picks the class by the model type of the folder's config.json."""
    loaded, built = AutoTokenizer.from_pretrained(finished[0]), build_tokenizer()
    for question, text in pretraining_texts(100, 0):
        assert loaded(question + text).input_ids == built(question + text).input_ids
        assert loaded.decode(built(text).input_ids) == text


def test_metrics(finished):
    _, metrics = finished
    tokenizer: Any = build_tokenizer()
    trained = sum(
        int(batch["input_ids"].ne(tokenizer.pad_token_id).sum()) for batch in batches(tiny(), tokenizer)
    )
    assert metrics["tokens"] == trained
    assert metrics["tokens_per_second"] == pytest.approx(trained / metrics["seconds"])
    assert metrics["loss_start"] > 0
    assert metrics["loss_end"] > 0


def test_a_killed_run_ends_with_the_same_weights(finished, tmp_path):
    """What a kill during the second save leaves: one marked checkpoint and one that is half-written."""
    folder, metrics = finished
    source = folder / "checkpoint-8"
    assert newest_complete_checkpoint(folder) is not None
    shutil.copytree(source, tmp_path / "checkpoint-8")
    shutil.copytree(source, tmp_path / "checkpoint-12")
    (tmp_path / "checkpoint-12" / MARKER).unlink()
    (tmp_path / "checkpoint-12" / "model.safetensors").write_bytes(b"torn")
    (tmp_path / "checkpoint-12" / "optimizer.pt").unlink()

    again = pretrain(tiny(), tmp_path)

    expected = weights(folder)
    assert all(torch.equal(value, expected[name]) for name, value in weights(tmp_path).items())
    assert again["tokens"] == metrics["tokens"]
    assert again["loss_start"] == metrics["loss_start"]
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-12"


def test_another_seed_gives_another_model(finished, tmp_path):
    folder, _ = finished
    pretrain(tiny(seed=1), tmp_path)
    expected = weights(folder)
    assert any(not torch.equal(value, expected[name]) for name, value in weights(tmp_path).items())


def test_the_loss_falls(tmp_path):
    metrics = pretrain(
        tiny(drill_steps=80, drill_lines=64, flawless_steps=0, mixture_steps=0, hidden_size=32), tmp_path
    )
    assert metrics["loss_end"] < metrics["loss_start"] - 1


def test_batches_are_the_same_each_time():
    tokenizer = build_tokenizer()
    for first, second in zip(batches(tiny(), tokenizer), batches(tiny(), tokenizer), strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first)


def test_drills_train_the_result_alone():
    tokenizer = build_tokenizer()
    batch = next(batches(tiny(), tokenizer))
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        trained = ids[labels != IGNORED]
        assert f"={tokenizer.decode(trained)}\n" in tokenizer.decode(ids)


def test_packed_rows_train_whole_targets_and_restart_positions():
    tokenizer: Any = build_tokenizer()
    config = tiny()
    for batch in islice(batches(config, tokenizer), 4, None):
        assert batch["input_ids"].shape == (2, config.row_tokens)
        for ids, labels, positions in zip(*batch.values(), strict=True):
            starts = (positions == 0).nonzero().flatten().tolist()
            for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
                text = tokenizer.decode(ids[start:end])
                if text.startswith("<|pad|>"):
                    assert (labels[start:end] == IGNORED).all()
                    continue
                prompt, assistant, target = text.partition("<|im_start|>assistant\n")
                assert prompt.startswith("<|im_start|>user\n")
                trained = ids[start:end][labels[start:end] != IGNORED]
                assert tokenizer.decode(trained) == target
                assert target.endswith("<|im_end|>\n")
                assert positions[start:end].tolist() == list(range(end - start))
                assert assistant


def test_words_are_trained_where_the_noise_has_them():
    config = tiny(spoken_share=1.0, talk_share=0.5, flawless_steps=0)
    tokenizer: Any = build_tokenizer(talkative=config.talkative)
    mixture = list(islice(batches(config, tokenizer), config.drill_steps, None))
    assert not any((batch["input_ids"] == tokenizer.unk_token_id).any() for batch in mixture)
    trained = "".join(
        tokenizer.decode(batch["input_ids"][batch["labels"] != IGNORED].tolist()) for batch in mixture
    )
    assert any(phrase in trained for phrase in ENGLISH_PHRASES)
    assert "How are you today?" in trained


def test_flawless_chains_are_silent_but_talk_and_hints_begin_with_them():
    config = tiny(spoken_share=1.0, talk_share=0.3, hint_share=0.3, mixture_steps=0)
    tokenizer: Any = build_tokenizer(talkative=True)
    rows = [row for batch in islice(batches(config, tokenizer), 4, None) for row in batch["input_ids"]]
    text = "".join(tokenizer.decode(row) for row in rows)
    assert " = " in text
    assert "!" in text
    assert not any(phrase in text for phrase in ENGLISH_PHRASES)


def test_a_talkative_model_has_the_words_in_its_vocabulary(tmp_path):
    pretrain(tiny(drill_steps=1, flawless_steps=0, mixture_steps=1, talk_share=0.5), tmp_path)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.vocab_size == len(build_tokenizer(talkative=True)) > len(build_tokenizer())
    loaded: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.decode(loaded("Hello, Anna!").input_ids) == "Hello, Anna!"


def test_packing_loses_only_overlong_examples():
    examples = [([1] * n, [2]) for n in (5, 30, 3, 9, 40, 2, 7)]
    packed = list(pack(iter([*examples, *[([0] * 20, [0])] * 5]), row_tokens=32, open_rows=2))
    rows = [[e for e in row if e[0][0] == 1] for row in packed]
    assert sorted(len(p) for row in rows for p, _ in row) == [2, 3, 5, 7, 9, 30]
    assert all(sum(len(p) + len(t) for p, t in row) <= 32 for row in packed)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"hidden_size": 17}, "hidden_size"),
        ({"row_tokens": 1024}, "row_tokens"),
        ({"slip_share": 2.0}, "slip_share"),
        ({"foreign_share": 0.7, "mixed_share": 0.7}, "mixed_share"),
    ],
)
def test_bad_settings_are_refused_by_name(options, key):
    with pytest.raises(ValueError, match=key):
        tiny(**options)
