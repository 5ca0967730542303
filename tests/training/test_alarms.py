"""Failures are told when they begin: by rule on made-up histories, and for real on deliberate hacks."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.store import read_json
from tests.training.grpo_runs import nothing, problems, reward, run
from training.alarms import COLLAPSE_WINDOW, RULES, TrainingStoppedError, active, has_collapsed
from training.progress import step_line

HEALTHY: dict[str, Any] = {
    "rollouts/reward": 1.0,
    "rollouts/right": 0.4,
    "rollouts/truncated": 0.05,
    "rollouts/length": 100.0,
    "rollouts/length_right": 90.0,
    "rollouts/length_wrong": 110.0,
    "rollouts/formatted": 0.9,
    "rollouts/formatted_wrong": 0.5,
    "rollouts/repeated_answer": 0.05,
    "rollouts/language": 0.99,
    "groups/useful": 0.8,
    "groups/all_right": 0.1,
    "groups/all_wrong": 0.1,
    "entropy": 0.5,
    "kl": 0.01,
    "clip_ratio/region_mean": 0.01,
}
FAILURES: dict[str, dict[str, Any]] = {
    "no_reward": {"rollouts/reward": 0.0, "groups/useful": 0.0},
    "all_wrong": {"groups/all_wrong": 0.95},
    "all_right": {"groups/all_right": 0.95},
    "format_only": {"rollouts/formatted_wrong": 0.95, "rollouts/right": 0.01},
    "truncated": {"rollouts/truncated": 0.7},
    "shrinking": {"rollouts/length": 20.0},
    "repeated_answer": {"rollouts/repeated_answer": 0.8},
    "language": {"rollouts/language": 0.6},
    "long_wrong": {"rollouts/length_wrong": 300.0},
    "entropy_collapse": {"entropy": 0.01, "groups/useful": 0.1},
    "entropy_explosion": {"entropy": 3.0},
    "kl": {"kl": 2.0},
    "clipped": {"clip_ratio/region_mean": 0.5},
}


def test_every_rule_is_tried() -> None:
    assert set(FAILURES) == {rule.name for rule in RULES}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_seen_when_it_has_lasted(name: str) -> None:
    history = [HEALTHY] * 10 + [{**HEALTHY, **FAILURES[name]}] * 2
    assert active(history, patience=3) == []
    history.append(history[-1])
    assert [rule.name for rule in active(history, patience=3)] == [name]
    assert active([*history, HEALTHY], patience=3) == []


def test_a_metric_that_is_not_there_is_no_failure() -> None:
    empty = {"rollouts/reward": 1.0, "rollouts/language": None}
    assert active([empty] * 20, patience=3) == []
    assert active([], patience=3) == []


def test_collapse_is_half_of_the_best() -> None:
    def history(*rewards: float) -> list[dict[str, Any]]:
        return [{"rollouts/reward": value} for value in rewards]

    rise = [0.1 * step for step in range(20)]
    assert not has_collapsed(history(*rise))
    assert not has_collapsed(history(*rise, *[1.2] * COLLAPSE_WINDOW))
    assert has_collapsed(history(*rise, *[0.5] * COLLAPSE_WINDOW))
    assert not has_collapsed(history(*[0.0] * 50))
    assert not has_collapsed(history(*[-1.0] * 50))
    assert not has_collapsed(history(1.0, 0.0))


def test_a_step_in_one_line() -> None:
    logs = {**HEALTHY, "rewards/accuracy/mean": 0.4, "groups/drawn": 16.0, "step_time": 1.5, "loss": 0.0}
    assert step_line(3, {**logs, "rollouts/length_wrong": None, "grad_norm": 0.25}) == (
        "step 3  reward 1.00 (accuracy 0.40)  right 0.40  useful groups 13/16  tokens 100 (right 90)  "
        "cut off 0.05  entropy 0.500  kl 0.010  grad_norm 0.250  1.50 s"
    )
    assert step_line(4, {"loss": 0.01234, "grad_norm": 0.5}) == "step 4  loss 0.0123  grad_norm 0.500"


# ------------------------------------------------------------------ deliberate hacks, in real runs


@pytest.fixture(scope="module")
def format_only(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, trained until it always writes the same well-formed wrong answer."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = "<think>\nhm\n</think>\n\n\\boxed{77}<|im_end|>"
    rows = []
    for problem in problems():
        messages = [{"role": "user", "content": problem.question}]
        prompt = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        rows.append(prompt + text)
    target = len(tokenizer(text).input_ids)
    ids = [tokenizer(row).input_ids for row in rows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    for step in range(120):
        row = torch.tensor([ids[step % len(ids)]])
        logits = model(input_ids=row).logits[0, -target - 1 : -1]
        torch.nn.functional.cross_entropy(logits, row[0, -target:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("hacks") / "format-only"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def warned(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Names of the failures that were warned of."""
    texts = [record.getMessage() for record in caplog.records if record.name == "training.alarms"]
    return {text.split(": ")[1] for text in texts}


@pytest.mark.slow
def test_a_policy_that_has_only_the_format(
    format_only: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"max_completion_length": 40, "max_steps": 6, "learning_rate": 1e-6}
    with caplog.at_level(logging.WARNING):
        metrics = run(
            format_only, tmp_path / "out", rewards=["accuracy", "format"], stage={"patience": 3}, **options
        )
    assert metrics["warnings"]["format_only"] == 3
    assert {"format_only", "repeated_answer", "all_wrong"} <= warned(caplog)


@pytest.mark.slow
def test_a_reward_that_pays_nothing(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        rewards = ["accuracy", reward(nothing)]
        metrics = run(tiny_model, tmp_path / "out", rewards=rewards, stage={"patience": 3}, max_steps=5)
    assert metrics["warnings"]["no_reward"] == 3
    [text] = [r.getMessage() for r in caplog.records if ": no_reward: " in r.getMessage()]
    assert text.count("completion ") >= 3
    assert text.count("extractor saw ") == 3
    assert text.count("gold '") == 3


@pytest.mark.slow
def test_a_resumed_run_remembers_what_was_seen(tiny_model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "rewards": [reward(nothing)],
        "stage": {"patience": 2},
        "max_steps": 6,
        "save_steps": 3,
    }
    whole = run(tiny_model, tmp_path / "out", **options)["warnings"]
    assert whole["no_reward"] == 2
    (tmp_path / "out" / "checkpoint-6" / ".complete").unlink()
    assert run(tiny_model, tmp_path / "out", **options)["warnings"] == whole
    state = read_json(tmp_path / "out" / "checkpoint-6" / "trainer_state.json")
    assert state["best_model_checkpoint"].endswith("checkpoint-3"), "the steps after it have gone well"


@pytest.mark.slow
def test_a_learning_rate_that_explodes(
    format_only: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The format is paid and then lost; the checkpoint from before is kept and named."""
    folder = tmp_path / "out"
    options = {
        "max_completion_length": 40,
        "max_steps": 120,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 600,
        "learning_rate": 0.3,
        "save_steps": 4,
        "save_total_limit": 2,
        "temperature": 1.3,  # else it always writes the same, and nothing moves it
    }
    rewards = ["format"]
    stage = {"patience": 3, "stop_on_collapse": True}
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(TrainingStoppedError, match="half of its best") as stop,
    ):
        run(format_only, folder, rewards=rewards, stage=stage, **options)
    assert {"collapse", "truncated"} <= warned(caplog)
    good = str(stop.value).rsplit("from ", 1)[1]
    assert Path(good).is_dir()
    saved = AutoModelForCausalLM.from_pretrained(good)
    assert all(torch.isfinite(p).all() for p in saved.parameters())
    history = [step for step in read_json(folder / "log_history.json") if "rollouts/reward" in step]
    before = [s["rollouts/reward"] for s in history if s["step"] <= int(Path(good).name.split("-")[1])]
    assert sum(before[-3:]) / 3 > 1.5 * history[-1]["rollouts/reward"]


@pytest.mark.slow
def test_a_model_that_overflows_is_told_and_not_called_good(tiny_model: Path, tmp_path: Path) -> None:
    options = {"learning_rate": 1e30, "lr_scheduler_type": "constant", "max_steps": 8, "save_steps": 1}
    with pytest.raises(TrainingStoppedError, match=r"step 2: the model.s logits are not finite.*none yet"):
        run(tiny_model, tmp_path / "out", **options)
