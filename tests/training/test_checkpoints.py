"""Only checkpoints that are marked complete are read."""

from __future__ import annotations

from pathlib import Path

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
