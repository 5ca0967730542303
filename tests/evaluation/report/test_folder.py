from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest

from evaluation.report.folder import find_stages, read_stage
from tests.evaluation.report.run_folders import stage, write_json


@pytest.mark.parametrize(
    ("heartbeats", "status"),
    [
        ([], "unfinished"),
        ([{"rank": 0, "host": socket.gethostname(), "pid": os.getpid()}], "running"),
        ([{"rank": 0, "host": socket.gethostname(), "pid": 0}], "unfinished"),
        ([{"rank": 0, "host": "another", "pid": 1}], "running"),
        ([{"rank": 0, "host": socket.gethostname(), "pid": "x"}], "unfinished"),
    ],
)
def test_a_stage_runs_while_one_of_its_processes_does(
    tmp_path: Path, heartbeats: list[dict[str, object]], status: str
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    folder = stage(tmp_path, "01_sample", status="running")
    (folder / ".heartbeat").mkdir()
    for told in heartbeats:
        write_json(folder / ".heartbeat" / "0.json", {**told, "pid": told["pid"] or ended.pid})
    assert read_stage(folder).status == status


def test_folders_of_stages_are_found_in_order(tmp_path: Path) -> None:
    for name in ("02_b", "01_a", "01_a.old-1"):
        stage(tmp_path, name)
    (tmp_path / "03_c").mkdir()
    (tmp_path / "03_c" / "log.txt").write_text("killed before its manifest", encoding="utf-8")
    (tmp_path / "report").mkdir()
    found = find_stages(tmp_path)
    assert [(one.name, one.status) for one in found] == [
        ("01_a", "finished"),
        ("02_b", "finished"),
        ("03_c", "missing"),
    ]
    assert [one.name for one in find_stages(tmp_path / "02_b")] == ["02_b"]
