"""Completions whose comparison with the gold never ends: the verifier is killed and the stage goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from data.schema import Problem, problem_id
from data.store import read_attempts, read_json, write_problems
from rewards import algebra
from tests.faults.conftest import Stages
from tests.inference.completions import CompletionServer
from tests.rewards.test_algebra import BOMB
from tests.training import grpo_runs
from training.generation import finished
from training.grpo_trainer import GrpoTrainer

pytestmark = pytest.mark.slow
TEXTS = (rf"\boxed{{{BOMB[0]}}}", r"\boxed{\int_0^1 \sin(\sin(\sin(x^{x^x}))) dx}")


def problems() -> list[Problem]:
    questions = [f"What is the integral, {i}?" for i in range(4)]
    return [Problem(id=problem_id(q), question=q, answer=BOMB[1], source="s") for q in questions]


@pytest.fixture(autouse=True)
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Workers that were killed in this test."""
    algebra._decisions.clear()
    pids: list[int] = []
    kill = algebra._Worker.kill
    monkeypatch.setattr(algebra._Worker, "kill", lambda self: (pids.append(self.process.pid), kill(self))[1])
    return pids


def test_grpo_steps_leave_the_row_out(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: list[int]
) -> None:
    """Half of the completions hang; the others are right, and nothing is called wrong."""

    def draw(self: GrpoTrainer, prompts: list[Any], seeds: list[int], size: int) -> list[Any]:
        ids = [self._tokenizer(TEXTS[place % 2])["input_ids"] for place in range(len(prompts))]
        return [finished(self._tokenizer, row, self.eos_token_ids, None) for row in ids]

    monkeypatch.setattr(GrpoTrainer, "_draw", draw)
    options: dict[str, Any] = {"per_device_train_batch_size": 8, "max_steps": 2}
    grpo_runs.run(tiny_model, tmp_path / "out", rewards=["accuracy"], questions=problems(), **options)
    steps = [step for step in read_json(tmp_path / "out" / "log_history.json") if "rollouts/reward" in step]
    assert [step["rollouts/unverifiable"] for step in steps] == [0.5, 0.5]
    assert [step["rollouts/right"] for step in steps] == [0.5, 0.5], "of all, so that none is wrong"
    assert killed


class Hanging(CompletionServer):
    """Every second problem is answered by what hangs."""

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        reply = super().complete(body)
        prompt = body["prompt"] if isinstance(body["prompt"], str) else self.tokenizer.decode(body["prompt"])
        number = re.search(r"integral, (\d)", prompt)
        if number:
            text = TEXTS[int(number[1]) % 2]
            ids = [*self.ids(text), self.tokenizer.eos_token_id]
            reply["choices"][0] |= {"text": text, "token_ids": ids, "finish_reason": "stop"}
            reply["choices"][0].pop("logprobs", None)
        return reply


def test_sampled_rows_are_unverifiable(
    stages: Stages, tokenizer: Any, tiny_model: Path, tmp_path: Path, killed: list[int]
) -> None:
    write_problems(tmp_path / "hanging", problems())
    with Hanging(tokenizer) as server:
        server.models = [{"id": "tiny", "max_model_len": 2048}]
        stages.change(
            "sample",
            problems=str(tmp_path / "hanging"),
            num_completions=1,
            max_tokens=200,
            engine="openai",
            model_name_or_path="tiny",
            engine_options={"base_url": server.url, "tokenizer": str(tiny_model)},
        )
        assert stages.run("sample", tmp_path) == 0
        server.shutdown()
    verdicts = [attempt.verdict for attempt in read_attempts(stages.folder("sample", tmp_path))]
    assert verdicts == ["unverifiable", "correct"] * 2
    assert killed
