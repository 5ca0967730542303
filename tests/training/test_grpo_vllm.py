"""GRPO with vLLM in the same process (`vllm_mode: colocate`), in an environment of its own.

Server mode synchronises weights by NCCL and needs GPUs.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.rollouts import read_rollouts
from data.store import write_problems
from tests.inference.servers import ON_CPU, VLLM_PYTHON, WITHOUT_VLLM, save_deciding_model
from tests.training.grpo_runs import curve, parity, problems, reward

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

# on a CPU, vLLM repacks its weights for oneDNN, after which they cannot be set any more
STAGE = """
import runpy, sys
import vllm._custom_ops as operations
operations._supports_onednn = False
sys.argv = ["training.grpo", "--config", sys.argv[1]]
runpy.run_module("training.grpo", run_name="__main__", alter_sys=True)
"""


@pytest.mark.skipif(VLLM_PYTHON is None, reason=WITHOUT_VLLM)
def test_colocated_vllm_draws_from_the_policy_that_is_trained(tokenizer: Any, tmp_path: Path) -> None:
    model = save_deciding_model(tokenizer, tmp_path / "model")  # vLLM's kernels need heads of 32
    write_problems(tmp_path / "p", problems(40))
    fields = {
        "stage": "grpo",
        "problems": str(tmp_path / "p"),
        "model_name_or_path": str(model),
        "attn_implementation": "documents",
        "rewards": [reward(parity), "format"],
        "num_generations": 3,
        "per_device_train_batch_size": 12,
        "max_completion_length": 16,
        "dynamic_sampling": 2,
        "max_steps": 4,
        "learning_rate": 3.0e-2,
        "use_vllm": True,
        "vllm_gpu_memory_utilization": 0.2,
        "vllm_max_model_length": 256,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }
    (tmp_path / "01_grpo.yaml").write_text(yaml.safe_dump(fields))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    environment = {**os.environ, **ON_CPU, **alone, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    environment.pop("TORCHDYNAMO_DISABLE")  # TRL does not ask vLLM for eager mode
    environment |= {"SLOWTHINK_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(VLLM_PYTHON), "-c", STAGE, str(tmp_path / "01_grpo.yaml")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    folder = next((tmp_path / "runs").rglob("log_history.json")).parent
    steps = curve(folder, "groups/trained_useful", "sampling/sampling_logp_difference/mean")
    assert [step for step, *_ in steps] == [1, 2, 3, 4]
    differences = [difference for *_, difference in steps]  # vLLM computes in bfloat16
    assert differences[0] < 0.05
    assert max(differences) < 2 * differences[0], "also after the weights have moved"
    assert sum(useful for _, useful, _ in steps) > 12
    assert len({row.text for row in read_rollouts(folder, 3)}) > 6
