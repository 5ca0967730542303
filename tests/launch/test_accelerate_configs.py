"""The files of launch/accelerate, read by accelerate itself, and launches in which it would train silently
wrong: one process instead of several, or several that know nothing of each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch.distributed.fsdp import StateDictType
from transformers import TrainingArguments

from training.preflight import check_processes

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {path.stem: path for path in sorted((ROOT / "launch" / "accelerate").glob("*.yaml"))}


def as_launched(name: str) -> tuple[Any, str]:
    """What accelerate's launcher makes of a file: its options, and its type of launch."""
    parsed = launch_command_parser().parse_args(["--config_file", str(CONFIGS[name]), "train.py"])
    defaults: Any
    options, defaults, _ = _validate_launch_command(parsed)
    options.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return options, defaults.distributed_type.value


@pytest.mark.parametrize(
    ("name", "kind", "processes", "precision"),
    [
        ("cpu", "NO", 1, "no"),
        ("single_gpu", "NO", 1, "bf16"),
        ("ddp", "MULTI_GPU", 8, "bf16"),
        ("ddp_cpu", "MULTI_GPU", 2, "no"),
        ("fsdp2", "FSDP", 8, "bf16"),
        ("zero2", "DEEPSPEED", 8, "bf16"),
        ("zero3", "DEEPSPEED", 8, "bf16"),
        ("zero3_offload", "DEEPSPEED", 8, "bf16"),
    ],
)
def test_accelerate_takes_every_file(name: str, kind: str, processes: int, precision: str) -> None:
    options, found = as_launched(name)
    assert found == kind
    assert (options.num_processes, options.mixed_precision) == (processes, precision)
    assert options.rdzv_backend == "static"
    assert len(CONFIGS) == 8


def test_fsdp2_shards_layers_and_saves_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in prepare_multi_gpu_env(as_launched("fsdp2")[0]).items():
        monkeypatch.setenv(key, value)
    plugin: Any = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    assert plugin.reshard_after_forward is True
    assert plugin.cpu_ram_efficient_loading is True
    assert not plugin.activation_checkpointing, "the trainer refuses it beside gradient_checkpointing"


@pytest.mark.parametrize(
    ("name", "stage", "offload"), [("zero2", 2, None), ("zero3", 3, None), ("zero3_offload", 3, "cpu")]
)
def test_deepspeed_files(name: str, stage: int, offload: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in prepare_deepspeed_cmd_env(as_launched(name)[0])[1].items():
        monkeypatch.setenv(key, value)
    plugin: Any = DeepSpeedPlugin()
    made = plugin.deepspeed_config["zero_optimization"]
    assert made["stage"] == stage
    for part in ("offload_optimizer", "offload_param"):
        assert made.get(part, {}).get("device", "none") == (offload or "none")
    assert bool(made.get("stage3_gather_16bit_weights_on_model_save")) == (stage == 3), (
        "a plain model at the end"
    )


def test_a_launch_may_not_lower_the_recipes_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    check_processes(TrainingArguments(str(tmp_path), bf16=True, use_cpu=True))
    with pytest.raises(
        ValueError, match="mixed_precision is bf16 in the launch and no in the recipe; set `bf16"
    ):
        check_processes(TrainingArguments(str(tmp_path), use_cpu=True))


RECIPE = """stage: prm
launch: {config: ddp, num_processes: 2}
dataset: [none]
model_name_or_path: none
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "fields", "message"),
    [
        (["--cpu"], "use_cpu: true", "launch: 2 processes are asked for and 1 started"),
        (["--config_file", "ddp"], "ddp_backend: gloo", "gradients of 2 processes would not be put together"),
        (["--config_file", "zero2"], "use_cpu: false", "2 processes were started and each sees 1"),
        (["--config_file", "fsdp2"], "use_cpu: true", "FSDP needs GPUs"),
    ],
    ids=["cpu", "gloo", "zero2", "fsdp2"],
)
def test_processes_that_would_train_apart_are_refused(
    tmp_path: Path, options: list[str], fields: str, message: str
) -> None:
    """Before anything is read: neither the data nor the model is there."""
    path = tmp_path / "01_prm.yaml"
    path.write_text(RECIPE + fields + "\n")
    options = [str(CONFIGS.get(option, option)) for option in options]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", *options),
            *("--num_processes", "2", "--mixed_precision", "no"),
            *("-m", "training.prm", "--config", str(path)),
        ],
        cwd=ROOT,
        env={**os.environ, "SLOWTHINK_RUNS": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode != 0
    assert message in done.stderr, done.stderr[-2000:]
