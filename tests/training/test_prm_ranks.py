"""Reward models with several processes of one launch: the losses of one process, also after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments
from trl import ModelConfig

from data.metric_log import read_metrics
from data.store import read_json, write_json
from inference.models import load_tokenizer
from inference.scorers.reward_model import load_reward_model
from tests.training.prm_runs import arguments, losses, signs, write_solutions
from tests.training.ranks import DDP, ZERO2, ZERO3, needs_compiler, unfinish, write_recipe
from tests.training.ranks import launch as start
from training.prm import PrmConfig, make_rows, make_trainer, prm, split_by_problem

pytestmark = pytest.mark.slow

LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"]}


def fields(model: Path, dataset: str, **options: Any) -> dict[str, Any]:
    """32 solutions for two epochs of four optimizer steps, checkpoints behind the third and the sixth."""
    return {
        "dataset": [dataset],
        "model_name_or_path": str(model),
        "step_separator": "\n",
        "held_out_fraction": 0.2,
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 5.0e-3,
        "logging_steps": 1,
        "save_steps": 3,
        "report_to": "none",
        "seed": 1,
        **options,
    }


def alone(folder: Path, model: Path, **options: Any) -> Path:
    """The folder of a run in this process, whose micro-batches are twice as large."""
    given = fields(model, write_solutions(folder / "labelled", signs(40)), use_cpu=True, **options)
    classes = (PrmConfig, TrainingArguments, ModelConfig)
    given |= {"per_device_train_batch_size": 4, "output_dir": str(folder / "alone")}
    configs: Any = [
        cls(**{k: v for k, v in given.items() if k in cls.__dataclass_fields__}) for cls in classes
    ]
    write_json(folder / "alone" / "metrics.json", prm(*configs, folder=folder / "alone"))
    return folder / "alone"


def launch(folder: Path, model: Path, launcher: list[str], **options: Any) -> Path:
    """The folder of a run in two processes."""
    given = fields(model, write_solutions(folder / "labelled", signs(40)), **options)
    recipe = {"stage": "prm", "per_device_train_batch_size": 2, **given}
    return start(write_recipe(folder / "01_prm.yaml", recipe), launcher)


def same(folder: Path, expected: Path, *, within: float) -> None:
    """Losses, held-out measures and saved weights of two finished runs."""
    assert [step for step, _ in losses(folder)] == list(range(1, 9))
    assert losses(folder) == [pytest.approx(step, abs=within) for step in losses(expected)]
    assert trained_tokens(folder) == trained_tokens(expected)
    found, wanted = read_json(folder / "metrics.json"), read_json(expected / "metrics.json")
    for name in ("loss_before", "loss", "solutions", "held_out"):
        assert found[name] == pytest.approx(wanted[name], abs=within), name
    one, two = (load_reward_model(str(each)).model.state_dict() for each in (folder, expected))
    assert all(torch.allclose(one[name], two[name], atol=10 * within) for name in two)


def trained_tokens(folder: Path) -> list[tuple[int, float]]:
    """Of each step, by the rows of metrics."""
    return [(row["step"], row["perf/tokens"]) for row in read_metrics(folder) if "train/loss" in row]


def test_two_processes_have_the_losses_of_one(tiny_model: Path, tmp_path: Path) -> None:
    options = {"train_sampling_strategy": "group_by_length"}
    expected = alone(tmp_path, tiny_model, **options)
    folder = launch(tmp_path, tiny_model, DDP, **options)
    same(folder, expected, within=1e-5)
    unfinish(folder, 8)  # in its second epoch
    same(launch(tmp_path, tiny_model, DDP, **options), expected, within=1e-5)


@needs_compiler
def test_deepspeed_has_the_losses_of_one_process_and_resumes(tiny_model: Path, tmp_path: Path) -> None:
    expected = alone(tmp_path, tiny_model)
    same(launch(tmp_path / "zero2", tiny_model, ZERO2), expected, within=1e-4)
    folder = launch(tmp_path, tiny_model, ZERO3)
    same(folder, expected, within=1e-4)
    unfinish(folder, 8)
    same(launch(tmp_path, tiny_model, ZERO3), expected, within=1e-4)


@needs_compiler
def test_zero3_puts_adapters_into_the_saved_weights(tiny_model: Path, tmp_path: Path) -> None:
    options = {"gradient_checkpointing": True, "head": "tokens", "learning_rate": 0.05}
    folder = launch(tmp_path, tiny_model, ZERO3, **LORA, **options)
    metrics = read_json(folder / "metrics.json")
    config = PrmConfig(dataset=["-"], head="tokens", step_separator="\n")
    tokenizer: Any = load_tokenizer(str(folder))
    _, held_out = split_by_problem(make_rows(config, tokenizer, signs(40)).rows, 0.2, seed=1)
    saved = ModelConfig(model_name_or_path=str(folder))
    trainer = make_trainer(config, arguments(tmp_path), saved, tokenizer, held_out, held_out, (1.0, 1.0))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(metrics["loss"], abs=1e-5)
    assert abs(metrics["loss"] - metrics["loss_before"]) > 1e-3
