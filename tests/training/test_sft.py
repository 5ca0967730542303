"""SFT on a small real model, in this process."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig, SFTConfig

from data.chat import IGNORED, Example
from data.control_sets import ControlSetsConfig, control_sets
from data.prompts import Prompter
from data.schema import Attempt, Completion, Problem, problem_id
from data.store import read_attempts, read_json, read_rows, write_attempts
from data.thinking import THINK_TAGS, thinking_format
from training.lint import Rendered, render_traces
from training.sft import SftConfig, make_trainer, sft, split

pytestmark = pytest.mark.slow


def traces(count: int = 24, role: Any = "train") -> list[Attempt]:
    rng = random.Random(0)
    made = []
    for i in range(count):
        a, b = rng.randint(1, 50), rng.randint(1, 50)
        question = f"{i}: what is {a} + {b}?"
        completion = Completion(
            text="",
            thinking=f"{a} and {b}. " * rng.randint(1, 8),
            response=f"\\boxed{{{a + b}}}",
            finish_reason="stop",
            prompt_tokens=0,
            thinking_tokens=0,
            completion_tokens=0,
            model="m",
            seed=0,
        )
        problem = Problem(
            id=problem_id(question), question=question, answer=str(a + b), role=role, source="s"
        )
        made.append(
            Attempt(problem=problem, index=0, completion=completion, verdict="correct", extracted=str(a + b))
        )
    return made


def one_overlong() -> list[Attempt]:
    """24 traces, the first of them longer than the max_length of `arguments`."""
    first, *rest = traces()
    return [replace(first, completion=replace(first.completion, thinking="x y z " * 400)), *rest]


def arguments(folder: Path, **options: Any) -> SFTConfig:
    defaults: dict[str, Any] = {
        "pad_token": "<|fim_pad|>",
        "max_length": 256,
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        "save_steps": 3,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "use_cpu": True,
        "seed": 3,
    }
    return SFTConfig(output_dir=str(folder), **{**defaults, **options})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    write_attempts(tmp_path / "traces", traces(), "traces")
    return tmp_path / "traces"


@pytest.mark.parametrize("packing", [True, False])
def test_training_learns_and_saves_a_loadable_model(
    tiny_model: Path, dataset: Path, tmp_path: Path, packing: bool
) -> None:
    config = SftConfig(dataset=str(dataset), eval_rows=4)
    options = {"packing": packing, "gradient_checkpointing": not packing, "max_steps": 12}
    model = ModelConfig(model_name_or_path=str(tiny_model))
    metrics = sft(config, arguments(tmp_path / "out", **options), model, tmp_path / "out")
    assert metrics["rows"] == 20
    assert metrics["held_out_loss_after"] < metrics["held_out_loss_before"] - 0.1
    assert metrics["loss_last"] < metrics["loss_first"]
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    fresh = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert not torch.equal(saved.lm_head.weight, fresh.lm_head.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token == "<|fim_pad|>"


def test_counted_steps_of_s1_are_trained(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    rows = [replace(t, completion=replace(t.completion, thinking="One.\n\nTwo.")) for t in traces(8)]
    write_attempts(tmp_path / "traces", rows, "traces")
    form = "s1_steps"
    steps = ControlSetsConfig(traces=str(tmp_path / "traces"), kind="steps", thinking_format=form)
    control_sets(steps, tmp_path / "steps")
    [first, *_] = made = read_attempts(tmp_path / "steps", "traces")
    prompter = Prompter(tokenizer=tokenizer, style="direct", thinking_format=thinking_format(form))
    [example, *_] = render_traces(prompter, made, max_length=None).examples
    target = tokenizer.decode([label for label in example.labels if label != IGNORED])
    assert target == first.completion.text + "<|im_end|>"
    assert target.count("<|im_start|>") == 3
    config = SftConfig(dataset=str(tmp_path / "steps"), thinking_format=form)
    model = ModelConfig(model_name_or_path=str(tiny_model))
    metrics = sft(config, arguments(tmp_path / "out", max_steps=1), model, tmp_path / "out")
    assert (metrics["rows"], metrics["rejected"], metrics["steps"]) == (8, 0, 1)


def test_loss_is_the_mean_over_target_tokens(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    """The trainer's loss, packed and not, against cross entropy summed by hand over the tokens with loss."""
    prompter = Prompter(tokenizer=tokenizer, style="direct", thinking_format=THINK_TAGS)
    examples = render_traces(prompter, traces(6), max_length=None).examples
    model = AutoModelForCausalLM.from_pretrained(tiny_model).double()
    total, count = 0.0, 0
    for example in examples:
        logits = model(torch.tensor([example.input_ids])).logits[0, :-1]
        labels = torch.tensor(example.labels[1:])
        total += torch.nn.functional.cross_entropy(
            logits, labels, ignore_index=IGNORED, reduction="sum"
        ).item()
        count += int((labels != IGNORED).sum())
    for attention, options in (
        (None, {"packing": True, "max_length": 2048}),
        (None, {"packing": False}),
        (None, {"padding_free": True}),
        ("documents", {"padding_free": True}),
        ("documents", {"packing": True, "max_length": 2048}),
    ):
        args = arguments(tmp_path / "o", per_device_eval_batch_size=6, **options)
        config = ModelConfig(model_name_or_path=str(tiny_model), attn_implementation=attention)
        trainer = make_trainer(args, config, prompter, examples, examples)
        assert trainer.evaluate()["eval_loss"] == pytest.approx(total / count, abs=1e-4), (attention, options)


def test_resumed_training_continues_the_loss_curve(tiny_model: Path, dataset: Path, tmp_path: Path) -> None:
    model = ModelConfig(model_name_or_path=str(tiny_model))
    config = SftConfig(dataset=str(dataset))
    sft(config, arguments(tmp_path / "whole"), model, tmp_path / "whole")
    sft(config, arguments(tmp_path / "parts"), model, tmp_path / "parts")
    last = tmp_path / "parts" / "checkpoint-6"
    (last / ".complete").unlink()  # as a kill in the middle of the last checkpoint leaves it
    (last / "model.safetensors").write_bytes(b"half")
    sft(config, arguments(tmp_path / "parts"), model, tmp_path / "parts")
    whole, parts = (
        [(e["step"], e["loss"]) for e in read_json(tmp_path / name / "log_history.json") if "loss" in e]
        for name in ("whole", "parts")
    )
    assert [step for step, _ in whole] == [1, 2, 3, 4, 5, 6]
    assert parts == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in whole]


def test_lora_saves_an_adapter(tiny_model: Path, dataset: Path, tmp_path: Path) -> None:
    model = ModelConfig(
        model_name_or_path=str(tiny_model), use_peft=True, lora_r=4, lora_target_modules=["q_proj", "v_proj"]
    )
    metrics = sft(
        SftConfig(dataset=str(dataset)), arguments(tmp_path / "out", max_steps=2), model, tmp_path / "out"
    )
    assert metrics["steps"] == 2
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 4
    from inference.transformers_engine import TransformersEngine

    assert (
        TransformersEngine.load(str(tmp_path / "out"), dtype="float32", batch_size=2).max_model_tokens == 2048
    )


def test_overlong_rows_are_kept_in_rejected(tiny_model: Path, tmp_path: Path) -> None:
    write_attempts(tmp_path / "traces", one_overlong(), "traces")
    config = SftConfig(dataset=str(tmp_path / "traces"), max_overlong_fraction=0.1)
    model = ModelConfig(model_name_or_path=str(tiny_model))
    metrics = sft(config, arguments(tmp_path / "out", max_steps=1), model, tmp_path / "out")
    assert metrics["rejected"] == 1
    assert read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")[0]["rule"] == "overlong"


def test_no_problem_is_trained_on_and_held_out() -> None:
    examples = [Example(input_ids=[i], labels=[i]) for i in range(6)]
    rendered = Rendered(examples=examples, problems=list("abcacd"), rejected=[])
    train, held_out = split(rendered, 2)
    assert [e.input_ids[0] for e in train] == [0, 1, 3]
    assert [e.input_ids[0] for e in held_out] == [2, 4, 5]
    assert split(rendered, 0) == (examples, [])
    with pytest.raises(ValueError, match="eval_rows: 9 of 6 traces leave none"):
        split(rendered, 9)


def test_mistakes_are_refused_before_training(tiny_model: Path, dataset: Path, tmp_path: Path) -> None:
    model = ModelConfig(model_name_or_path=str(tiny_model))
    config = SftConfig(dataset=str(dataset))

    def refuses(message: str, config: SftConfig = config, model: ModelConfig = model, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            sft(config, arguments(tmp_path / "out", **options), model, tmp_path / "out")

    write_attempts(tmp_path / "eval", traces(role="eval"), "traces")
    refuses("eval", config=SftConfig(dataset=str(tmp_path / "eval")))
    refuses("does not exist", config=SftConfig(dataset=str(tmp_path / "absent")))
    refuses("eval_rows: 24 of 24", config=SftConfig(dataset=str(dataset), eval_rows=24))
    refuses("pad_token: '<|none|>' is not in", pad_token="<|none|>")
    refuses("pad_token: '<|im_end|>' is also the end token".replace("|", r"\|"), pad_token="<|im_end|>")
    refuses("no trace can be trained on.*max_length 60", max_length=60)
    write_attempts(tmp_path / "long", one_overlong(), "traces")
    refuses("max_length: 1 of 24 traces are longer", config=SftConfig(dataset=str(tmp_path / "long")))
    refuses("model_name_or_path is missing", model=ModelConfig())
    refuses("does not exist", model=ModelConfig(model_name_or_path="/absent/model"))
    with pytest.raises(ValueError, match="thinking_format"):
        SftConfig(dataset="x", thinking_format="tags")
