"""Launches of two processes in which one stands still: it is named, with its stacks, and all end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import yaml

from data.processes import rank
from data.schema import Problem, problem_id
from data.stall import EXIT_STALLED
from data.store import write_problems
from tests.inference.completions import CompletionServer, Endpoint, answers, hangs

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

GRPO = {
    "stage": "grpo",
    "rewards": [{"function": f"{__name__}:hangs_in_the_second_step"}],
    "attn_implementation": "documents",
    "num_generations": 2,
    "per_device_train_batch_size": 2,
    "max_completion_length": 6,
    "max_steps": 4,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
}


def hangs_in_the_second_step(
    *, completions: Sequence[Any], trainer_state: Any, **columns: Any
) -> list[float]:
    """A reward for GRPO; of the second process alone."""
    if rank() == 1 and trainer_state.global_step == 1:
        Event().wait()
    return [float(len(str(completion)) % 3) for completion in completions]


def launch(folder: Path, questions: Sequence[str], **fields: Any) -> tuple[str, Path]:
    """What a stage says on two processes, one of which stands still, and its folder."""
    rows = [Problem(id=problem_id(q), question=q, answer="2") for q in questions]
    write_problems(folder / "p", rows)
    path = folder / f"01_{fields['stage']}.yaml"
    launched = {"config": "ddp_cpu", "stall_seconds": 10}
    path.write_text(yaml.safe_dump({"launch": launched, "problems": str(folder / "p"), **fields}))
    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", fields["stage"], "--config", str(path)],
        cwd=ROOT,
        env={**os.environ, "SLOWTHINK_RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    output = done.stdout + done.stderr
    assert done.returncode == EXIT_STALLED, output
    assert "Traceback" not in output, output
    assert re.search(r"error: rank 1 on \S+ stood still; its own line says where", output), output
    return output, folder / "runs" / folder.name / path.stem


def test_a_reward_that_hangs_is_named(tiny_model: Path, tmp_path: Path) -> None:
    questions = [f"What is {i} + 1?" for i in range(8)]
    output, folder = launch(tmp_path, questions, model_name_or_path=str(tiny_model), **GRPO)
    assert re.search(r"error: rank 1 on \S+ has stood still for \d+ s in phase reward", output), output
    stacks = (folder / "stalls" / "1.txt").read_text()
    assert "in hangs_in_the_second_step" in stacks


def test_a_server_that_hangs_is_named(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Of 8 prompts in the order of their lengths the second process has the shortest one."""

    def hangs_on_one(endpoint: Endpoint) -> None:
        is_short = "is 7?" in tokenizer.decode(endpoint.body["prompt"])
        (hangs if is_short else answers)(endpoint)

    with CompletionServer(tokenizer) as server:
        server.models = [{"id": "tiny", "max_model_len": 512}]
        server.faults = [hangs_on_one] * 100
        output, folder = launch(
            tmp_path,
            [*(f"What is {i} + {i}?" for i in range(7)), "is 7?"],
            stage="sample",
            engine="openai",
            engine_options={"base_url": server.url, "tokenizer": str(tiny_model)},
            model_name_or_path="tiny",
            num_completions=1,
            max_tokens=4,
        )
        server.released.set()
        server.shutdown()
    assert re.search(r"error: rank 1 on \S+ has stood still for \d+ s in phase generate", output), output
    assert "openai_engine.py" in (folder / "stalls" / "1.txt").read_text()
