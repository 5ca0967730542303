"""Reward models with several processes of one launch: the losses of one process, also after a kill."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import TrainingArguments
from trl import ModelConfig

from data.store import read_json, write_json
from inference.models import load_tokenizer
from inference.scorers.reward_model import load_reward_model
from tests.training.prm_runs import arguments, losses, signs, write_solutions
from training.prm import PrmConfig, make_rows, make_trainer, prm, split_by_problem

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

DDP = ["--config_file", str(ROOT / "launch/accelerate/ddp_cpu.yaml"), "--num_processes", "2"]
ZERO3 = [
    *(
        "--use_deepspeed",
        "--zero_stage",
        "3",
        "--zero3_init_flag",
        "true",
        "--zero3_save_16bit_model",
        "true",
    ),
    *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
]
LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["all-linear"]}
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="DeepSpeed compiles its CPU operations with g++"
)


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
    """Run the stage with two processes; its folder."""
    path = folder / "01_prm.yaml"
    given = fields(model, write_solutions(folder / "labelled", signs(40)), **options)
    path.write_text(yaml.safe_dump({"stage": "prm", "per_device_train_batch_size": 2, **given}))
    environment = {**os.environ, "SLOWTHINK_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "launch.accelerated", *launcher, "-m", "training.prm", "--config", str(path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,  # DeepSpeed compiles its optimizer first
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / folder.name / "01_prm"


def unfinish(folder: Path) -> None:
    """As if the run had been killed before its last checkpoint was complete: in its second epoch."""
    (folder / "checkpoint-8" / ".complete").unlink()
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"running"'))


def same(folder: Path, expected: Path, *, within: float) -> None:
    """Losses, held-out measures and saved weights of two finished runs."""
    assert [step for step, _ in losses(folder)] == list(range(1, 9))
    assert losses(folder) == [pytest.approx(step, abs=within) for step in losses(expected)]
    found, wanted = read_json(folder / "metrics.json"), read_json(expected / "metrics.json")
    for name in ("loss_before", "loss", "solutions", "held_out"):
        assert found[name] == pytest.approx(wanted[name], abs=within), name
    one, two = (load_reward_model(str(each)).model.state_dict() for each in (folder, expected))
    assert all(torch.allclose(one[name], two[name], atol=10 * within) for name in two)


def test_two_processes_have_the_losses_of_one(tiny_model: Path, tmp_path: Path) -> None:
    options = {"train_sampling_strategy": "group_by_length"}
    expected = alone(tmp_path, tiny_model, **options)
    folder = launch(tmp_path, tiny_model, DDP, use_cpu=True, **options)
    same(folder, expected, within=1e-5)
    unfinish(folder)
    same(launch(tmp_path, tiny_model, DDP, use_cpu=True, **options), expected, within=1e-5)


@needs_compiler
def test_zero3_has_the_losses_of_one_process_and_resumes(tiny_model: Path, tmp_path: Path) -> None:
    expected = alone(tmp_path, tiny_model)
    folder = launch(tmp_path, tiny_model, ZERO3, ddp_backend="gloo")
    same(folder, expected, within=1e-4)
    unfinish(folder)
    same(launch(tmp_path, tiny_model, ZERO3, ddp_backend="gloo"), expected, within=1e-4)


@needs_compiler
def test_zero3_puts_adapters_into_the_saved_weights(tiny_model: Path, tmp_path: Path) -> None:
    options = {"gradient_checkpointing": True, "head": "tokens", "learning_rate": 0.05}
    folder = launch(tmp_path, tiny_model, ZERO3, ddp_backend="gloo", **LORA, **options)
    metrics = read_json(folder / "metrics.json")
    config = PrmConfig(dataset=["-"], head="tokens", step_separator="\n")
    tokenizer: Any = load_tokenizer(str(folder))
    _, held_out = split_by_problem(make_rows(config, tokenizer, signs(40)).rows, 0.2, seed=1)
    saved = ModelConfig(model_name_or_path=str(folder))
    trainer = make_trainer(config, arguments(tmp_path), saved, tokenizer, held_out, held_out, (1.0, 1.0))
    assert trainer.evaluate()["eval_loss"] == pytest.approx(metrics["loss"], abs=1e-5)
    assert abs(metrics["loss"] - metrics["loss_before"]) > 1e-3
