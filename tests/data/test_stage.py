"""The frame around every stage: exit codes, messages, and what is left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data import run_folder
from data.run_folder import read_manifest
from data.stage import run_stage, summary
from data.store import write_json


@dataclass(kw_only=True)
class Config:
    """A stage's config."""

    size: int = 1
    fail: str = ""


def body(config: Config, folder: Path) -> dict[str, Any]:
    if config.fail == "user":
        raise ValueError("size: the fix")
    if config.fail == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if config.fail == "bug":
        raise RuntimeError("boom")
    if config.fail == "asked":
        os.kill(os.getpid(), signal.SIGUSR1)
    if config.fail == "ctrl-c":
        raise KeyboardInterrupt
    write_json(folder / "rows.json", [config.size])
    return {"rows": config.size, "share": 0.5, "names": ["x"]}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the stage above on a recipe text; returns its run folder."""
    monkeypatch.setenv("SLOWTHINK_RUNS", str(tmp_path / "runs"))
    (tmp_path / "p").mkdir()

    def run(text: str, *arguments: str) -> Path:
        (tmp_path / "p" / "01_x.yaml").write_text(f"stage: x\n{text}\n")
        monkeypatch.setattr(sys, "argv", ["x", "--config", str(tmp_path / "p" / "01_x.yaml"), *arguments])
        run_stage(body, Config)
        return tmp_path / "runs" / "p" / "01_x"

    return run


def test_a_finished_stage_says_so_once(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run("size: 3")
    assert "01_x: rows 3, share 0.5 in" in capsys.readouterr().out
    assert (folder / "metrics.json").is_file()
    assert "not run yet" in (folder / "log.txt").read_text()
    run("size: 3")
    assert "finished before, nothing changed" in capsys.readouterr().out


def test_a_stage_that_is_asked_to_stop_while_it_closes_its_folder_finishes(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journals are gone by then: stopped, it would have to begin anew."""
    read = run_folder.fingerprint

    def asked(folder: Path) -> str:
        for number in (signal.SIGUSR1, signal.SIGTERM):
            os.kill(os.getpid(), number)
        return read(folder)

    monkeypatch.setattr(run_folder, "fingerprint", asked)
    manifest = read_manifest(run("size: 3"))
    assert manifest is not None
    assert manifest["status"] == "finished"


def test_overrides_count_as_another_recipe_and_output_dir_keeps_them_apart(run: Any, tmp_path: Path) -> None:
    folder = run("size: 3")
    run("size: 3", "--size", "4", "--output_dir", str(tmp_path / "other"))
    assert (tmp_path / "other" / "rows.json").read_text() == "[\n  4\n]\n"
    manifest = read_manifest(tmp_path / "other")
    assert manifest is not None
    assert manifest["recipe"]["size"] == 4
    assert (folder / "rows.json").read_text() == "[\n  3\n]\n"


@pytest.mark.parametrize(
    ("fail", "code", "status", "message"),
    [
        ("user", 2, "failed", "error: size: the fix"),
        ("disk", 2, "failed", "no space left on disk"),
        ("ctrl-c", 130, "interrupted", "To go on: slowthink run"),
        ("asked", 75, "interrupted", "To go on: slowthink run"),
    ],
)
def test_how_a_stage_ends_badly(
    run: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fail: str,
    code: int,
    status: str,
    message: str,
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(f"fail: {fail}")
    assert stopped.value.code == code
    assert message in capsys.readouterr().err
    manifest = read_manifest(tmp_path / "runs" / "p" / "01_x")
    assert manifest is not None
    assert manifest["status"] == status
    assert not (tmp_path / "runs" / "p" / "01_x" / "metrics.json").exists()


def test_a_bug_keeps_its_traceback(run: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="boom"):
        run("fail: bug")
    assert "boom" in (tmp_path / "runs" / "p" / "01_x" / "log.txt").read_text()
    manifest = read_manifest(tmp_path / "runs" / "p" / "01_x")
    assert manifest is not None
    assert manifest["error"] == "RuntimeError: boom"


@pytest.mark.parametrize("text", ["sise: 3", "size: big", "fail: 3"])
def test_a_wrong_recipe_writes_nothing(run: Any, tmp_path: Path, text: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(text)
    assert stopped.value.code == 2
    assert not (tmp_path / "runs").exists()


def test_a_really_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A collect stage on a 64 KiB file system of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.strip()}")
    try:
        rows = "".join(f'{{"question": "What is {i} + {i}?", "answer": "{2 * i}"}}\n' for i in range(20_000))
        (tmp_path / "q.jsonl").write_text(rows)
        recipe = tmp_path / "p" / "01_collect.yaml"
        recipe.parent.mkdir()
        recipe.write_text(f"stage: collect\nsources:\n  - {{path: {tmp_path / 'q.jsonl'}, role: train}}\n")
        environment = {**os.environ, "SLOWTHINK_RUNS": str(disk)}
        command = [sys.executable, "-m", "data.collect", "--config", str(recipe)]
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "no space left on disk" in done.stderr
        folder = disk / "p" / "01_collect"
        assert not list(folder.glob("*.parquet"))
        assert not list(folder.rglob("*.tmp"))
        manifest = read_manifest(folder)
        assert manifest is None or manifest["status"] != "finished"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_summary_shows_numbers_alone() -> None:
    assert summary({"rows": 1234, "loss": 0.123456, "names": ["x"], "ok": True}) == "rows 1,234, loss 0.1235"
