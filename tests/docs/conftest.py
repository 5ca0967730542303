"""A working folder as a reader has it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's files with a folder `recipes` of the test's own, as the working folder."""
    for name in ("docs", "launch", "tests", "Makefile", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    (tmp_path / "recipes").mkdir()
    for folder in (ROOT / "recipes").iterdir():
        (tmp_path / "recipes" / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLOWTHINK_RUNS", raising=False)
    return tmp_path
