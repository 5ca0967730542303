"""Journals whose lines a disk has changed: those rows are drawn again, and nothing else is read of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.store import journal_rows
from tests.faults.conftest import SmallDisk, Stages

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("stage", "kibibytes"), [("sample", 28), ("search", 64)])
def test_damaged_lines_are_made_again(
    stages: Stages, disk: SmallDisk, tmp_path: Path, stage: str, kibibytes: int
) -> None:
    disk.leave(kibibytes << 10)
    assert stages.run(stage, disk.path) == 2
    disk.empty()
    damaged = 0
    for path in stages.folder(stage, disk.path).glob("*.journal*"):
        content = bytearray(path.read_bytes())
        rows = len(journal_rows(path))
        for place in range(200, len(content), 1500):
            content[place] ^= 1
        path.write_bytes(content)
        damaged += rows - len(journal_rows(path))
    assert damaged
    assert stages.run(stage, disk.path) == 0
    assert "lines are damaged" in (stages.folder(stage, disk.path) / "log.txt").read_text()
    assert stages.run(stage, tmp_path / "quiet") == 0
    assert stages.result(stage, disk.path) == stages.result(stage, tmp_path / "quiet")
