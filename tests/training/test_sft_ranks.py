"""SFT with several processes of one launch: the losses of one process, also when another number goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from trl import ModelConfig

from data.store import read_json, write_attempts
from tests.training.grpo_runs import curve
from tests.training.ranks import launch, launcher, needs_compiler, unfinish, write_recipe
from tests.training.test_sft import arguments, traces
from training.sft import SftConfig, sft

pytestmark = pytest.mark.slow
NAMES = ("loss", "grad_norm")
OPTIONS = {"max_steps": 6, "save_steps": 2, "max_length": 256, "learning_rate": 5e-3, "weight_decay": 5.0}
"""24 rows, eight of a step: the first checkpoint is inside the first epoch. So much decay shows where it is
not as it should be."""


@pytest.fixture(scope="module")
def expected(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """Steps of a run of one process that nothing disturbed."""
    folder = tmp_path_factory.mktemp("one")
    write_attempts(folder / "traces", traces(24), "traces")
    args = arguments(folder, per_device_train_batch_size=8, seed=1, **OPTIONS)
    sft(SftConfig(dataset=str(folder / "traces")), args, ModelConfig(str(tiny_model)), folder)
    return curve(folder, *NAMES)


def run(folder: Path, model: Path, options: Sequence[str], rows: int) -> Path:
    """The folder of a run with so many rows in a micro-batch."""
    write_attempts(folder / "traces", traces(24), "traces")
    fields = {
        "stage": "sft",
        "dataset": str(folder / "traces"),
        "model_name_or_path": str(model),
        "pad_token": "<|fim_pad|>",
        "per_device_train_batch_size": rows,
        **OPTIONS,
    }
    return launch(write_recipe(folder / "01_sft.yaml", fields), options)


def others_go_on(
    folder: Path, model: Path, config: str, processes: tuple[int, int]
) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """Steps of a run, and of one that went on from its first checkpoint with another number of processes."""
    first, then = processes
    stage = run(folder, model, launcher(config, first), 8 // first)
    whole = curve(stage, *NAMES)
    unfinish(stage, 4, 6)
    run(folder, model, launcher(config, then), 8 // then)
    assert read_json(stage / "manifest.json")["attempts"] == 2, "it was not begun anew"
    assert "launch changed: per_device_train_batch_size" in (stage / "log.txt").read_text()
    return whole, curve(stage, *NAMES)


def test_two_processes_have_the_losses_of_one_which_goes_on(
    tiny_model: Path, tmp_path: Path, expected: list[tuple[Any, ...]]
) -> None:
    assert len(expected) == OPTIONS["max_steps"]
    for found in others_go_on(tmp_path, tiny_model, "ddp_cpu", (2, 1)):
        assert found == [pytest.approx(step, abs=1e-4) for step in expected]


@needs_compiler
@pytest.mark.parametrize(("config", "processes"), [("zero2", (2, 1)), ("zero3", (1, 2))])
def test_deepspeed_has_the_losses_of_one_process_and_other_processes_go_on(
    tiny_model: Path,
    tmp_path: Path,
    expected: list[tuple[Any, ...]],
    config: str,
    processes: tuple[int, int],
) -> None:
    """Its parts of the optimizer are put together for them."""
    for found in others_go_on(tmp_path, tiny_model, config, processes):
        assert found == [pytest.approx(step, abs=1e-4) for step in expected]
