"""A full disk, in the middle of every stage that writes as it goes: what is finished stays, and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.heartbeat import FOLDER as HEARTBEATS
from data.run_folder import read_manifest
from tests.faults.conftest import TABLES, SmallDisk, Stages

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("stage", "kibibytes"),
    [
        ("sample", [12, 24, 16]),
        ("evaluate", [24]),
        ("label_steps", [12, 16]),
        ("search", [24, 48]),
        ("sft", [300, 700, 200]),
        ("grpo", [400, 800, 500]),
    ],
)
def test_a_full_disk_ends_the_stage_and_loses_nothing(
    stages: Stages,
    disk: SmallDisk,
    tmp_path: Path,
    stage: str,
    kibibytes: list[int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It fills at several places, further on each time."""
    folder = stages.folder(stage, disk.path)
    for size in kibibytes:
        disk.leave(size << 10)
        assert stages.run(stage, disk.path) == 2, size
        _, told = capsys.readouterr()
        assert "error: no space left on disk" in told
        assert "free some and start again, finished work is kept" in told
        assert "Traceback" not in told
        manifest = read_manifest(folder)
        assert manifest is not None
        assert manifest["status"] != "finished"
        left = [path for path in folder.rglob("*.tmp") if path.parent.name != HEARTBEATS]
        assert not left, "nothing half-written stays"
        assert not (folder / "metrics.json").exists()
    disk.empty()
    assert stages.run(stage, disk.path) == 0, capsys.readouterr().err
    assert stages.run(stage, tmp_path / "quiet") == 0
    rows = stages.result(stage, tmp_path / "quiet")
    nearly = rows if stage in TABLES else [pytest.approx(row, abs=1e-5) for row in rows]
    assert stages.result(stage, disk.path) == nearly
