"""Plain models from adapters, checkpoints, ZeRO-3 shards and plain folders: real ones, small."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig
from trl import ModelConfig

from data.step_formats import StepFormatOptions
from data.store import read_json, write_attempts, write_json
from inference.models import load_tokenizer
from inference.scorers.load import kind_of
from inference.scorers.outcome_scorer import save_pairwise_options
from tests.training.ranks import ZERO3, launch, needs_compiler, write_recipe
from tests.training.test_sft import arguments, traces
from training.checkpoints import MARKER, mark_complete
from training.plain_model import PlainModelConfig, plain_model
from training.sft import SftConfig, sft

ROOT = Path(__file__).resolve().parents[2]
TEXT = "Natalia sold 48 clips."


def adapter(model: Path, folder: Path, tokenizer: Any, *, base: str | None = None, **options: Any) -> Path:
    """A random adapter on `model`: B is not zero."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    wanted = LoraConfig(
        r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **options
    )
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(model), wanted)
    made.save_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    if base is not None:
        options = read_json(folder / "adapter_config.json")
        write_json(folder / "adapter_config.json", {**options, "base_model_name_or_path": base or None})
    return folder


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**tokenizer(TEXT, return_tensors="pt")).logits.float()


def export(folder: Path, source: Path | str, **options: Any) -> dict[str, Any]:
    return plain_model(PlainModelConfig(source=str(source), **options), folder)


def refuses(message: str, folder: Path, source: Path | str, **options: Any) -> None:
    with pytest.raises(ValueError, match=message):
        export(folder, source, **options)


@pytest.mark.slow
@pytest.mark.parametrize("use_dora", [False, True])
def test_adapter_is_merged(tiny_model: Path, tokenizer: Any, tmp_path: Path, use_dora: bool) -> None:
    from peft import PeftModel

    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    GenerationConfig(eos_token_id=7, max_length=99).save_pretrained(base)
    source = adapter(base, tmp_path / "adapter", tokenizer, use_dora=use_dora)
    expected = logits(
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(source)), tokenizer
    )
    metrics = export(tmp_path / "out", source)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    saved: Any = load_tokenizer(str(tmp_path / "out"))
    assert torch.allclose(logits(model, saved), expected, atol=1e-5)
    plain = logits(AutoModelForCausalLM.from_pretrained(base), tokenizer)
    assert (plain - expected).abs().max() > 0.01, "the adapter does something"
    assert metrics["max_logit_difference"] < 1e-5
    assert (metrics["kind"], metrics["dtype"], metrics["step"]) == ("adapter", "float32", None)
    assert metrics["parameters"] == sum(each.numel() for each in model.parameters())
    assert saved.chat_template == tokenizer.chat_template
    assert not list((tmp_path / "out").glob("adapter*"))
    # the end token that the adapter was trained with comes first, what the base had stays
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, 7]
    assert model.generation_config.max_length == 99


@pytest.mark.slow
def test_checkpoint_of_a_real_lora_run(tiny_model: Path, tmp_path: Path) -> None:
    write_attempts(tmp_path / "traces", traces(8), "traces")
    loading = ModelConfig(
        model_name_or_path=str(tiny_model), use_peft=True, lora_r=4, lora_target_modules=["all-linear"]
    )
    stage, config = tmp_path / "stage", SftConfig(dataset=str(tmp_path / "traces"))
    sft(config, arguments(stage, max_steps=3, save_steps=1, save_total_limit=3), loading, stage)
    (stage / "checkpoint-2" / ".complete").unlink()
    shutil.copytree(stage / "checkpoint-1", stage / "checkpoint-best")
    first = export(tmp_path / "first", stage, checkpoint=1)
    assert (first["kind"], first["step"], first["tensors"]) == (
        "adapter",
        1,
        export(tmp_path / "o", stage)["tensors"],
    )
    one, last = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("first", "o"))
    assert not torch.equal(one.model.layers[0].mlp.up_proj.weight, last.model.layers[0].mlp.up_proj.weight)
    out = tmp_path / "none"
    refuses(r"checkpoint-2 was cut short .*complete ones are \[1, 3\]", out, stage, checkpoint=2)
    refuses(r"checkpoint-2 was cut short", out, stage / "checkpoint-2")
    refuses(r"checkpoint-9 does not exist .*complete ones are \[1, 3\]", out, stage, checkpoint=9)
    write_json(stage / "manifest.json", {"name": "05_sft", "status": "interrupted"})
    refuses("05_sft .* is not finished .*set `checkpoint: 3`", out, stage)
    (stage / "manifest.json").unlink()
    (stage / "adapter_model.safetensors").unlink()
    refuses("holds no model.*set `checkpoint: 3`", out, stage)


@pytest.mark.slow
def test_dtype_and_shards(tiny_model: Path, tmp_path: Path) -> None:
    metrics = export(tmp_path / "out", tiny_model, dtype="bfloat16", max_shard_size="50KB")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 1
    for file in files:
        with safe_open(file, framework="pt") as weights:
            assert all(weights.get_tensor(name).dtype == torch.bfloat16 for name in weights.keys())  # noqa: SIM118
    assert 0 < metrics["max_logit_difference"] < 0.02 * metrics["max_logit"]
    assert metrics["bytes"] == pytest.approx(2 * metrics["parameters"], rel=0.05)
    assert read_json(tmp_path / "out" / "config.json")["dtype"] == "bfloat16"
    # auto keeps what the source has, and nothing is lost on the way through float32
    again = export(tmp_path / "again", tmp_path / "out")
    assert (again["dtype"], again["max_logit_difference"]) == ("bfloat16", 0.0)


@pytest.mark.slow
def test_what_cannot_be_exported(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    out = tmp_path / "none"
    (tmp_path / "empty").mkdir()
    refuses("source: .*empty holds no model.*adapter_config.json", out, tmp_path / "empty")
    refuses("^source: /absent does not exist", out, "/absent")
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = AutoModelForCausalLM.from_pretrained(broken)
    state = {name: each for name, each in weights.state_dict().items() if "layers.1" not in name}
    weights.save_pretrained(broken, state_dict=state)
    refuses("weights are missing or of another shape, the first: model.layers.1", out, broken)
    huge = AutoModelForCausalLM.from_pretrained(tiny_model)
    huge.model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e5
    huge.save_pretrained(tmp_path / "huge")
    tokenizer.save_pretrained(tmp_path / "huge")
    refuses(
        "dtype: model.layers.0.mlp.up_proj.weight .*float16; use bfloat16",
        out,
        tmp_path / "huge",
        dtype="float16",
    )


@pytest.mark.slow
def test_bases_that_do_not_fit(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    out = tmp_path / "none"
    gone = adapter(tiny_model, tmp_path / "gone", tokenizer, base="/absent/base")
    refuses("base_model: .*missing .*/absent/base does not exist.*give `base_model`", out, gone)
    assert export(tmp_path / "found", gone, base_model=str(tiny_model))["max_logit_difference"] < 1e-5
    unnamed = adapter(tiny_model, tmp_path / "unnamed", tokenizer, base="")
    refuses("base_model: .*does not say its base; give it", out, unnamed)
    stacked = adapter(tiny_model, tmp_path / "stacked", tokenizer, base=str(gone))
    refuses("base_model: .*is itself an adapter", out, stacked)
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    changed = read_json(other / "tokenizer.json")
    ids = changed["model"]["vocab"]
    ids["!"], ids["?"] = ids["?"], ids["!"]
    write_json(other / "tokenizer.json", changed)
    refuses(
        "another vocabulary.*2 of its tokens have other ids, for example '!'",
        out,
        gone,
        base_model=str(other),
    )
    more: Any = load_tokenizer(str(tiny_model))
    more.add_tokens([f"<new{i}>" for i in range(3)])
    more.save_pretrained(gone)
    refuses(
        r"another vocabulary: \d+ embeddings for the \d+ tokens.*base_model",
        out,
        gone,
        base_model=str(tiny_model),
    )


def test_a_checkpoint_of_a_reward_model(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    """How it reads solutions stands in the folder of its stage."""
    stage = tmp_path / "stage"
    made = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    made.save_pretrained(stage / "checkpoint-2")
    tokenizer.save_pretrained(stage / "checkpoint-2")
    mark_complete(stage / "checkpoint-2")
    save_pairwise_options(stage, StepFormatOptions())
    export(tmp_path / "out", stage, checkpoint=2)
    assert kind_of(str(tmp_path / "out")) == "pairwise"


def test_mistakes_in_the_recipe_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_shard_size: '5 gigabytes'.*5GB"):
        PlainModelConfig(source="x", max_shard_size="5 gigabytes")
    with pytest.raises(ValueError, match="checkpoint: 0"):
        PlainModelConfig(source="x", checkpoint=0)


@pytest.mark.slow
@needs_compiler
def test_zero3_shards_become_one_model(tiny_model: Path, tmp_path: Path) -> None:
    """The model of two processes that kept shards alone has the weights of a run of one process."""
    write_attempts(tmp_path / "traces", traces(10), "traces")
    options = {"max_steps": 2, "save_steps": 1, "max_length": 256, "learning_rate": 5e-3, "seed": 3}
    loading = ModelConfig(model_name_or_path=str(tiny_model))
    sft(
        SftConfig(dataset=str(tmp_path / "traces"), eval_rows=2),
        arguments(tmp_path / "one", **options),
        loading,
        tmp_path / "one",
    )
    recipe = {
        "stage": "sft",
        "dataset": str(tmp_path / "traces"),
        "eval_rows": 2,
        "model_name_or_path": str(tiny_model),
        "pad_token": "<|fim_pad|>",
        "per_device_train_batch_size": 2,
        **options,
    }
    path = write_recipe(tmp_path / "01_sft.yaml", recipe)
    stage = launch(path, [*ZERO3, "--zero3_save_16bit_model", "false"])
    assert not list(stage.rglob("*.safetensors")), "the weights are in shards alone"
    for step, name in ((1, "one/checkpoint-1"), (None, "one")):
        metrics = export(tmp_path / "out", stage, checkpoint=step)
        assert (metrics["kind"], metrics["dtype"], metrics["step"]) == ("zero3", "float32", step)
        assert metrics["max_logit_difference"] == 0.0
        made, expected, fresh = (
            AutoModelForCausalLM.from_pretrained(each).state_dict()
            for each in (tmp_path / "out", tmp_path / name, tiny_model)
        )
        assert made.keys() == expected.keys()
        assert all(torch.allclose(made[name], expected[name], atol=1e-4) for name in made), name
        assert not torch.allclose(made["lm_head.weight"], fresh["lm_head.weight"], atol=1e-3)
    next((stage / "checkpoint-1").glob("global_step*/*optim_states.pt")).unlink()
    refuses("checkpoint-1 is damaged .*optim_states.pt is gone", tmp_path / "none", stage, checkpoint=1)
    (stage / "checkpoint-1" / MARKER).write_bytes(b"")  # of an older version, which tells of no files
    refuses("ZeRO-3 shards .* cannot be put together", tmp_path / "none", stage, checkpoint=1)
