"""Servers that die, are slow or talk nonsense, behind every stage that generates with one."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import requests

from data.run_folder import read_manifest
from tests.faults.conftest import Stages
from tests.inference.completions import CompletionServer, answers, fails, hangs, hangs_up, sends_half
from training.servers import answering

FINISHED = 8
"""Requests that are answered before the server is gone."""
BAD = [fails(500, b"oops"), fails(200, b"<html>"), sends_half, hangs, hangs_up, fails(503)]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sample", "evaluate", "label_steps", "search"])
def test_what_was_answered_is_kept_and_not_asked_again(
    stages: Stages,
    tokenizer: Any,
    tiny_model: Path,
    tmp_path: Path,
    stage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with CompletionServer(tokenizer) as server:
        server.models = [{"id": "tiny", "max_model_len": 2048}]
        options = {"base_url": server.url, "tokenizer": str(tiny_model)}
        stages.change(stage, engine="openai", model_name_or_path="tiny", engine_options=options)
        assert stages.run(stage, tmp_path / "quiet") == 0
        asked = len(server.generated())
        options |= {"patience_seconds": 1.0, "timeout_seconds": 2.0}
        stages.change(stage, engine_options=options)
        server.requests.clear()
        server.faults = [answers] * FINISHED + [hangs_up] * 1000
        assert stages.run(stage, tmp_path / "runs") == 1
        told = capsys.readouterr().err
        assert f"error: base_url: {server.url}/completions: RemoteProtocolError" in told
        assert "given up after patience_seconds: 1" in told
        assert "Traceback" not in told
        folder = stages.folder(stage, tmp_path / "runs")
        manifest = read_manifest(folder)
        assert manifest is not None
        assert manifest["status"] == "failed"
        assert not list(folder.glob("*.parquet"))

        server.requests.clear()
        server.faults = [*BAD]
        assert stages.run(stage, tmp_path / "runs") == 0, capsys.readouterr().err
        assert len(server.generated()) <= asked + len(BAD)
        server.shutdown()
    assert stages.result(stage, tmp_path / "runs") == stages.result(stage, tmp_path / "quiet")


def test_a_vllm_server_that_went_away_is_named_with_what_to_do() -> None:
    """As TRL's client fails: in `requests`, or by an answer that is none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with (
        pytest.raises(ConnectionError, match=f"teacher_server: {url} .*refused.*from its last checkpoint"),
        answering("teacher_server", url),
    ):
        requests.post(url)
    with (
        pytest.raises(ConnectionError, match=r"vllm_server_base_url: http://x no .*failed: 500"),
        answering("vllm_server_base_url", "http://x"),
    ):
        raise Exception("Request failed: 500, out of memory")
    with pytest.raises(ValueError, match="another"), answering("teacher_server", url):
        raise ValueError("another")
