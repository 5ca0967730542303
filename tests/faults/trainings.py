"""Every training stage on a tiny model in this process, six steps of it, for tests that injure it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trl import ModelConfig

from data.store import read_json, write_attempts
from tests.training import distill_runs, grpo_runs, prm_runs, test_pretrain, test_reward_model, test_sft
from training.pretrain import pretrain
from training.sft import SftConfig, sft

SIX: dict[str, Any] = {"max_steps": 6, "save_steps": 2, "logging_steps": 1}


def run_sft(model: Path, folder: Path, **options: Any) -> None:
    dataset = folder.with_name("traces")
    write_attempts(dataset, test_sft.traces(), "traces")
    args = test_sft.arguments(folder, disable_tqdm=True, **{**SIX, **options})
    sft(SftConfig(dataset=str(dataset)), args, ModelConfig(model_name_or_path=str(model)), folder)


def run_prm(model: Path, folder: Path, **options: Any) -> None:
    dataset = prm_runs.write_solutions(folder.with_name("solutions"), prm_runs.signs(24))
    prm_runs.run(model, folder, dataset, {"held_out_fraction": 0.1}, **{**SIX, **options})


def run_reward_model(model: Path, folder: Path, **options: Any) -> None:
    test_reward_model.run(model, folder, test_reward_model.attempts(12, 1), **{**SIX, **options})


def run_distill(model: Path, folder: Path, **options: Any) -> None:
    teacher = folder.with_name("teacher")
    if not teacher.is_dir():
        distill_runs.make_teacher(teacher, model)
    distill_runs.run(model, teacher, folder, **{**SIX, "max_completion_length": 8, **options})


def run_grpo(model: Path, folder: Path, **options: Any) -> None:
    """A generation serves two steps, so that every second checkpoint is inside one."""
    chosen = {"steps_per_generation": 2, "per_device_train_batch_size": 8, "max_completion_length": 8}
    grpo_runs.run(model, folder, **{**SIX, "save_steps": 3, **chosen, **options})


def run_pretrain(model: Path, folder: Path, **options: Any) -> None:
    lengths = {"drill_steps": 2, "flawless_steps": 2, "mixture_steps": 2, "save_steps": 2, "logging_steps": 1}
    pretrain(test_pretrain.tiny(**{**lengths, **options}), folder)


TRAININGS: dict[str, Callable[..., None]] = {
    "sft": run_sft,
    "prm": run_prm,
    "reward_model": run_reward_model,
    "distill": run_distill,
    "grpo": run_grpo,
    "pretrain": run_pretrain,
}


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss of every step of a run, as its last checkpoint tells them."""
    state = read_json(folder / "checkpoint-6" / "trainer_state.json")
    return [(entry["step"], entry["loss"]) for entry in state["log_history"] if "loss" in entry]
