"""What trainings tell: their tokens and FLOPs against a count of every operation, rows of a GRPO run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from data.heartbeat import PHASES, start_heartbeat, stop_heartbeat
from data.metric_log import read_metrics, write_row
from inference.accelerators import PEAK_VARIABLE
from inference.search.flops import flops_of
from tests.data.wandb_runs import wandb_history
from tests.faults.trainings import TRAININGS
from tests.training import grpo_runs
from training.speed import TokenCount

IDS = torch.arange(2 * 48).view(2, 48) % 64


def model(tied: bool = True) -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=12,  # of adapters' first layer parts have no backward pass
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=tied,
    )
    config._attn_implementation = "eager"
    return Qwen2ForCausalLM(config)


def padded(lengths: list[int]) -> dict[str, Any]:
    mask = torch.tensor([[1] * length + [0] * (48 - length) for length in lengths])
    return {"input_ids": IDS, "attention_mask": mask}


PACKED = {"input_ids": IDS[:1], "position_ids": torch.tensor([[*range(18), *range(30)]])}


@pytest.mark.parametrize(
    ("inputs", "lengths"),
    [
        (padded([48, 17]), [48, 17]),
        ({"input_ids": IDS}, [48, 48]),
        (PACKED, [18, 30]),
    ],
    ids=["padded", "whole", "packed"],
)
def test_tokens_and_what_they_attend_to_are_counted(inputs: dict[str, Any], lengths: list[int]):
    one = model()
    count = TokenCount(one)
    one(**inputs)
    with torch.no_grad():
        one(**inputs)
    assert count.take() == (sum(lengths), sum(length * (length + 1) // 2 for length in lengths))
    assert count.take() == (0, 0)
    count.close()
    one(**inputs)
    assert count.take() == (0, 0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lora", [False, True])
def test_flops_of_a_training_step_are_those_of_its_operations(tied: bool, lora: bool):
    one = model(tied)
    if lora:
        one = get_peft_model(one, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    count = TokenCount(one)
    with FlopCounterMode(display=False) as counter:
        one(input_ids=IDS, labels=IDS).loss.backward()
    tokens, attended = count.take()
    whole = 2 * 48 * 48  # this attention computes the half that the mask takes out, too
    every, trained = flops_of(one), flops_of(one, trained=True)
    predicted = 2 * every.of(tokens, whole) + trained.of(tokens, whole)
    assert predicted == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert attended == 2 * 48 * 49 / 2


@pytest.fixture
def stage(tmp_path: Path) -> Any:
    """A folder that this process tells of."""
    folder = tmp_path / "pipeline" / "grpo"
    folder.mkdir(parents=True)
    start_heartbeat(folder, None)
    yield folder
    stop_heartbeat()


def test_rows_of_a_grpo_run_that_goes_on(tiny_model: Path, stage: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PEAK_VARIABLE, "0.001")
    for name in ("DIR", "PROJECT", "NAME", "RUN_GROUP"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    rewards = [grpo_runs.reward(grpo_runs.digits)]
    grpo_runs.run(tiny_model, stage, rewards=rewards, save_steps=2)
    first = read_metrics(stage)
    assert [row["step"] for row in first if "train/loss" in row] == [1, 2, 3, 4]
    trained = first[:3]
    for row in trained:
        assert row.keys() >= {f"time/{name}" for name in PHASES}
        assert min(row[f"time/{name}"] for name in ("generate", "forward_backward")) > 0
        assert row["perf/tokens_per_second"] > 0
        assert row["perf/generated_tokens_per_second"] > 0
        assert 0 < row["perf/mfu_generation"] < row["perf/mfu"]
        assert row["memory/rss_gib"] > 0.1
        assert "memory/gpu_gib" not in row or torch.cuda.is_available()
    second = sum(trained[1][f"time/{name}"] for name in PHASES)
    assert second == pytest.approx(trained[1]["time"] - trained[0]["time"], abs=0.01)
    assert sum(row["time/checkpoint"] for row in first) > 0
    assert sum(row["time/reward"] for row in first) > 0
    assert sum(row["time/sync"] for row in first) > 0

    for step in (3, 4):  # as if it had been killed behind its first checkpoint
        (stage / f"checkpoint-{step}" / ".complete").unlink(missing_ok=True)
    write_row(stage, {"step": 9})
    monkeypatch.delenv(PEAK_VARIABLE)
    monkeypatch.setenv("SLOWTHINK_REPORT_TO", "wandb")
    grpo_runs.run(tiny_model, stage, rewards=rewards, save_steps=2)
    rows = read_metrics(stage)
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4]
    assert rows[:2] == first[:2]
    assert not any("perf/mfu" in row for row in rows[2:])  # of a CPU nothing is assumed

    import wandb

    wandb.finish()
    run, reported = wandb_history(stage)
    assert (run.display_name, run.run_group) == ("pipeline/grpo", "pipeline")
    third = next(sent for sent in reported if sent.get("train/global_step") == 3)
    own = next(row for row in rows if row["step"] == 3)
    assert third.items() >= {key: own[key] for key in own if key.startswith(("perf/", "time/"))}.items()
    assert third["train/loss"] == own["train/loss"]


@pytest.mark.parametrize("name", TRAININGS)
def test_every_training_has_the_same_columns(name: str, tiny_model: Path, stage: Path):
    TRAININGS[name](tiny_model, stage)
    rows = [row for row in read_metrics(stage) if "train/loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        assert min(row["perf/tokens"], row["time/forward_backward"], row["memory/rss_gib"]) > 0
    every = read_metrics(stage)  # those of evaluations, too
    whole = {phase: sum(row[f"time/{phase}"] for row in every) for phase in PHASES}
    writes = name in ("grpo", "distill")
    assert {phase for phase in PHASES if whole[phase]} >= {"load", "checkpoint", "idle"}
    assert (whole["generate"] > 0) == writes
    assert any("perf/generated_tokens_per_second" in row for row in rows) == writes
    if name in ("sft", "reward_model"):  # TRL counts their tokens, too
        assert sum(row["perf/tokens"] for row in rows) == rows[-1]["train/num_tokens"]
