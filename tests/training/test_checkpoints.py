"""Only checkpoints that are marked complete are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.training.line_runs import train
from training.checkpoints import MARKER, mark_complete, newest_complete_checkpoint


def checkpoint(folder: Path, name: str) -> Path:
    path = folder / name
    (path / "global_step").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "global_step" / "shard.pt").write_bytes(b"state")
    return path


def test_none_in_an_empty_or_missing_folder(tmp_path):
    assert newest_complete_checkpoint(tmp_path) is None
    assert newest_complete_checkpoint(tmp_path / "missing") is None


def test_an_unmarked_checkpoint_does_not_count(tmp_path):
    mark_complete(checkpoint(tmp_path, "checkpoint-100"))
    checkpoint(tmp_path, "checkpoint-200")
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_the_newest_is_by_step_and_not_by_name(tmp_path):
    for step in (90, 1000, 200):
        mark_complete(checkpoint(tmp_path, f"checkpoint-{step}"))
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-1000"


def test_other_folders_are_passed_over(tmp_path):
    mark_complete(checkpoint(tmp_path, "checkpoint-best"))
    mark_complete(checkpoint(tmp_path, "final-300"))
    assert newest_complete_checkpoint(tmp_path) is None


def test_marking_keeps_what_is_there(tmp_path):
    path = checkpoint(tmp_path, "checkpoint-1")
    mark_complete(path)
    assert (path / MARKER).is_file()
    assert (path / "model.safetensors").read_bytes() == b"weights"
    assert (path / "global_step" / "shard.pt").read_bytes() == b"state"


def test_a_shard_that_was_cut_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (100, 200):
        mark_complete(checkpoint(tmp_path, f"checkpoint-{step}"))
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-200"
    (tmp_path / "checkpoint-200" / "global_step" / "shard.pt").write_bytes(b"sta")
    assert newest_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert "checkpoint-200 is damaged (global_step/shard.pt has 3 of 5 bytes)" in caplog.text
    (tmp_path / "checkpoint-100" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"shard.pt has 3 of 5 bytes.*or begin anew: rm -r .*-200 .*-100"):
        newest_complete_checkpoint(tmp_path)


def test_a_folder_that_is_only_named_like_a_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path, "checkpoint-best")
    with pytest.raises(ValueError, match=r"checkpoint-best is no checkpoint-<step>.*move it elsewhere"):
        train(tmp_path, max_steps=2, save_steps=1)
    assert (tmp_path / "checkpoint-best" / "model.safetensors").is_file()


@pytest.mark.parametrize("options", [{"max_steps": 6}, {"max_steps": 15}, {"num_train_epochs": 2}])
def test_a_run_whose_steps_are_all_done_trains_no_more(tmp_path: Path, options: dict[str, Any]) -> None:
    steps, weight = train(tmp_path, save_steps=3, **options)
    checkpoint = newest_complete_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.name == f"checkpoint-{steps}"
    (tmp_path / "model.safetensors").unlink()  # killed before the model was saved
    assert train(tmp_path, save_steps=3, **options) == (steps, weight)
    assert (tmp_path / "model.safetensors").is_file()


def test_what_is_not_whole_takes_no_place_among_those_that_are_kept(tmp_path: Path) -> None:
    """Of two that the trainer keeps, the one to go on from is not deleted before a newer one is whole."""
    train(tmp_path, max_steps=4, save_steps=2, save_total_limit=2)
    for half in ("checkpoint-3", "checkpoint-9"):
        checkpoint(tmp_path, half)

    class Looks(TrainerCallback):
        def on_save(self, *_: Any, **__: Any) -> None:
            seen.append({path.name for path in tmp_path.glob("checkpoint-*")})

    seen: list[set[str]] = []
    train(tmp_path, Looks(), max_steps=5, save_steps=5, save_total_limit=2)
    assert seen == [{"checkpoint-4", "checkpoint-5"}]
