"""Checkpoints that lose a file after they were whole, and ends of a training between model and manifest."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from data.store import read_json
from tests.faults.trainings import TRAININGS, losses
from training.checkpoints import MARKER, damage, newest_complete_checkpoint
from training.model_source import find_source

pytestmark = pytest.mark.slow
LAST = "checkpoint-6"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("stage", "files"),
    [
        ("sft", {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}),
        ("grpo", {"model.safetensors", "optimizer.pt", "grpo_state.json", "rollout_buffer_0.pt"}),
    ],
)
def test_a_cut_checkpoint_is_passed_over_and_the_run_ends_the_same(
    tiny_model: Path, tmp_path: Path, stage: str, files: set[str], caplog: pytest.LogCaptureFixture
) -> None:
    run, folder = TRAININGS[stage], tmp_path / "out"
    options = {"max_steps": 7, "save_steps": 1} if stage == "grpo" else {}
    run(tiny_model, folder, **options)
    whole = losses(folder)
    checkpoint = folder / ("checkpoint-5" if stage == "grpo" else LAST)
    assert damage(checkpoint) is None
    assert files <= read_json(checkpoint / MARKER).keys()
    for name in files:
        content = (checkpoint / name).read_bytes()
        cut(checkpoint / name)
        assert damage(checkpoint) == f"{name} has {len(content) // 2} of {len(content)} bytes"
        with pytest.raises(ValueError, match=f"checkpoint: .*{checkpoint.name} is damaged .{name} has"):
            find_source(str(folder), int(checkpoint.name.rpartition("-")[2]))
        (checkpoint / name).unlink()
        assert damage(checkpoint) == f"{name} is gone"
        (checkpoint / name).write_bytes(content)

    for later in range(int(checkpoint.name[-1]) + 1, 8):
        shutil.rmtree(folder / f"checkpoint-{later}", ignore_errors=True)
    cut(checkpoint / "optimizer.pt")
    with caplog.at_level(logging.WARNING):
        run(tiny_model, folder, **options)
    assert f"{checkpoint.name} is damaged (optimizer.pt has" in caplog.text
    assert "passed over for checkpoint-4" in caplog.text
    assert losses(folder) == [(step, pytest.approx(loss, abs=1e-5)) for step, loss in whole]
    assert damage(checkpoint) is None, "written anew"


def test_no_whole_checkpoint_is_told_before_training(tiny_model: Path, tmp_path: Path) -> None:
    run, folder = TRAININGS["sft"], tmp_path / "out"
    run(tiny_model, folder, save_steps=3)
    for step in (3, 6):
        cut(folder / f"checkpoint-{step}" / "model.safetensors")
    with pytest.raises(
        ValueError, match=f"(?s){LAST} is damaged .model.safetensors has .*rm -r .*{LAST} .*-3$"
    ):
        run(tiny_model, folder)
    for step in (3, 6):
        (folder / f"checkpoint-{step}" / MARKER).write_bytes(b"")  # of an older version: trusted
    assert newest_complete_checkpoint(folder) == folder / LAST


@pytest.mark.parametrize("stage", [name for name in TRAININGS if name != "pretrain"])
def test_killed_behind_the_last_checkpoint(tiny_model: Path, tmp_path: Path, stage: str) -> None:
    """Before the model is saved, in the middle of it, and when all is there but the manifest."""
    run, folder = TRAININGS[stage], tmp_path / "out"
    run(tiny_model, folder)
    model, curve = (folder / "model.safetensors").read_bytes(), losses(folder)
    for content in (None, model[: len(model) // 2], model):
        (folder / "model.safetensors").unlink()
        if content is not None:
            (folder / "model.safetensors").write_bytes(content)
        run(tiny_model, folder)
        assert (folder / "model.safetensors").read_bytes() == model
        assert losses(folder) == curve
