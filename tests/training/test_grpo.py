"""The GRPO stage on a small real model, in this process."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.rollouts import logged_steps, read_rollouts
from data.schema import Problem, problem_id
from data.store import read_json, read_rows, write_problems
from inference.transformers_engine import TransformersEngine
from tests.training.grpo_runs import curve, digits, parity, problems, reward, run

pytestmark = pytest.mark.slow


def test_it_learns_what_is_paid_and_saves_a_loadable_model(tiny_model: Path, tmp_path: Path) -> None:
    metrics = run(tiny_model, tmp_path / "out", max_steps=60, learning_rate=0.01)
    assert metrics["steps"] == 60
    assert metrics["reward_last"] > metrics["reward_first"] + 0.3
    assert metrics["questions"] == 12
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not torch.equal(
        saved.lm_head.weight, AutoModelForCausalLM.from_pretrained(tiny_model).lm_head.weight
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "out").eos_token == "<|im_end|>"
    assert (
        TransformersEngine.load(str(tmp_path / "out"), dtype="float32", batch_size=2).max_model_tokens == 2048
    )


def test_every_completion_is_in_the_rollout_log(tiny_model: Path, tmp_path: Path) -> None:
    rewards = [reward(digits), {"name": "format", "weight": 0.5}, "accuracy"]
    run(tiny_model, tmp_path / "out", rewards=rewards, max_steps=3)
    assert logged_steps(tmp_path / "out") == [0, 1, 2]
    rows = list(read_rollouts(tmp_path / "out", 1))
    assert [(row.group, row.index) for row in rows] == [(g, i) for g in range(4) for i in range(4)]
    assert all(list(row.rewards) == ["digits", "format", "accuracy"] for row in rows)
    for row in rows:
        parts = (row.rewards["digits"] or 0, 0.5 * (row.rewards["format"] or 0), row.rewards["accuracy"] or 0)
        assert row.reward == pytest.approx(sum(parts), abs=1e-6)
        assert row.prompt.endswith("<|im_start|>assistant\n")
        assert row.question in row.prompt
    for group in range(4):
        members = [row for row in rows if row.group == group]
        mean = sum(row.reward or 0 for row in members) / 4
        assert all((row.advantage > 0) == ((row.reward or 0) > mean + 1e-7) for row in members)
    step = read_json(tmp_path / "out" / "log_history.json")[1]
    assert step["rollouts/reward"] == pytest.approx(sum(row.reward or 0 for row in rows) / 16, abs=1e-6)
    assert step["rollouts/length"] == pytest.approx(sum(row.tokens for row in rows) / 16)
    run(tiny_model, tmp_path / "few", stage={"log_rollouts_every": 2}, max_steps=4)
    assert logged_steps(tmp_path / "few") == [0, 2]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"steps_per_generation": 2, "num_iterations": 2, "per_device_train_batch_size": 8},
        {"beta": 0.05, "sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 1.0},
        {"num_generations": 3, "per_device_train_batch_size": 12},
    ],
    ids=["plain", "between generations", "reference moved", "dynamic"],
)
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(
    tiny_model: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """The last checkpoint is half-written, as a kill leaves it; the one before it is inside a generation."""
    stage = {"dynamic_sampling": 2, "curriculum": "pass_rate"} if "num_generations" in options else {}
    chosen: dict[str, Any] = {"max_steps": 6, "save_steps": 3, **options}
    for name in ("whole", "parts"):
        run(tiny_model, tmp_path / name, rewards=[reward(parity)], stage=stage, **chosen)
    last = tmp_path / "parts" / "checkpoint-6"
    (last / ".complete").unlink()
    (last / "model.safetensors").write_bytes(b"half")
    (tmp_path / "parts" / "model.safetensors").unlink()
    run(tiny_model, tmp_path / "parts", rewards=[reward(parity)], stage=stage, **chosen)
    names = ["loss", "grad_norm", "rollouts/reward", "groups/drawn", *(["kl"] if "beta" in options else [])]
    whole, parts = (curve(tmp_path / name, *names) for name in ("whole", "parts"))
    assert [step for step, *_ in whole] == [1, 2, 3, 4, 5, 6]
    assert parts == [pytest.approx(step, abs=1e-5) for step in whole]
    if "beta" in options:
        assert whole[2][-1] < whole[1][-1] > 0, "the reference has moved"
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "parts")]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_groups_without_advantage_are_replaced_up_to_the_cap(tiny_model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_generations": 2, "per_device_train_batch_size": 8, "max_steps": 3}
    for rounds in (0, 1, 4):
        folder = tmp_path / str(rounds)
        run(tiny_model, folder, rewards=[reward(parity)], stage={"dynamic_sampling": rounds}, **options)
        for step, drawn, useful, trained, replaced, surplus in curve(
            folder,
            "groups/drawn",
            "groups/useful",
            "groups/trained_useful",
            "groups/replaced",
            "groups/surplus",
        ):
            rows = list(read_rollouts(folder, step - 1))
            groups = {row.group: row for row in rows}
            assert len(groups) == drawn
            assert sum(row.useful for row in groups.values()) == round(useful * drawn) == trained + surplus
            assert sum(row.trained for row in groups.values()) == 4
            assert sum(not row.trained and not row.useful for row in groups.values()) == replaced
            assert all(row.advantage == 0 for row in rows if not (row.trained and row.useful))
            if rounds == 0:
                assert drawn == 4
                assert replaced == surplus == 0
            if trained < 4:
                assert surplus == 0, "no useful group is left out while a useless one is trained on"
    drawn = [sum(step[1] for step in curve(tmp_path / str(rounds), "groups/drawn")) for rounds in (0, 1, 4)]
    assert drawn[0] < drawn[1] <= drawn[2]
    trained = [step[1] for step in curve(tmp_path / "4", "groups/trained_useful")]
    assert trained == [4, 4, 4]


def test_full_length_first_changes_nothing_but_the_lengths(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.packed_trainer import PackedGRPOTrainer

    tokens: list[int] = []
    forward = PackedGRPOTrainer._forward

    def seen(self: Any, model: Any, ids: torch.Tensor, mask: torch.Tensor, *args: Any, **options: Any) -> Any:
        tokens.append(int(mask.sum()))
        return forward(self, model, ids, mask, *args, **options)

    monkeypatch.setattr(PackedGRPOTrainer, "_forward", seen)
    lengths = []
    for name, first in (("on", True), ("off", False)):
        tokens.clear()
        run(tiny_model, tmp_path / name, stage={"full_length_first": first}, max_steps=4)
        lengths.append(list(tokens))
    longest = max(len(row.prompt) for row in read_rollouts(tmp_path / "on", 0))
    assert longest
    assert lengths[0][0] > lengths[1][0]
    assert lengths[0][2:] == lengths[1][2:]
    on, off = curve(tmp_path / "on"), curve(tmp_path / "off")
    assert on == [pytest.approx(step, abs=1e-5) for step in off]


@pytest.mark.parametrize("attention", ["sdpa", "documents"])
def test_log_probabilities_of_generation_stand_for_a_forward_pass(
    tiny_model: Path, tmp_path: Path, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "steps_per_generation": 2,
        "per_device_train_batch_size": 8,
        "max_steps": 4,
        "learning_rate": 0.01,
    }
    loading = {"attn_implementation": attention}
    run(tiny_model, tmp_path / "sampled", loading=loading, **options)
    monkeypatch.setattr("training.grpo_trainer.computes_in_float32", lambda trainer: False)
    run(tiny_model, tmp_path / "computed", loading=loading, **options)
    names = ("loss", "grad_norm", "rollouts/reward", "clip_ratio/region_mean")
    sampled, computed = (curve(tmp_path / name, *names) for name in ("sampled", "computed"))
    assert sampled == [pytest.approx(step, abs=1e-4) for step in computed]
    assert computed[1][1] != computed[0][1]


def test_lora_with_a_kl_penalty(tiny_model: Path, tmp_path: Path) -> None:
    loading = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"]}
    run(tiny_model, tmp_path / "out", loading=loading, beta=0.1, max_steps=4, learning_rate=0.05)
    kl = [step[1] for step in curve(tmp_path / "out", "kl")]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 1e-6
    assert read_json(tmp_path / "out" / "adapter_config.json")["r"] == 4
    assert (
        TransformersEngine.load(str(tmp_path / "out"), dtype="float32", batch_size=2).max_model_tokens == 2048
    )


@pytest.mark.parametrize("thinking_format", ["s1", "answer_tags"])
@pytest.mark.parametrize("prompt_style", ["direct", "r1_zero"])
def test_control_tokens_of_the_thinking_format_reach_the_rewards(
    tiny_model: Path, tmp_path: Path, thinking_format: str, prompt_style: str
) -> None:
    """Stock TRL decodes without special tokens, so that s1's format could never be paid."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    wanted = tokenizer.convert_tokens_to_ids("<|im_start|>")
    [hidden] = model.model(**tokenizer("What is 1 + 1?\nassistant\n", return_tensors="pt"))[0].detach()
    model.lm_head.weight.data[wanted] = hidden.mean(0)  # so that it is likely everywhere
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    stage = {"thinking_format": thinking_format, "prompt_style": prompt_style, "language": "en"}
    run(tmp_path / "model", tmp_path / "out", rewards=["accuracy", "format"], stage=stage, max_steps=1)
    rows = list(read_rollouts(tmp_path / "out", 0))
    assert any("<|im_start|>" in row.text for row in rows)


def test_held_out_problems_are_evaluated_and_not_trained_on(tiny_model: Path, tmp_path: Path) -> None:
    held_out = [
        Problem(id=problem_id(f"eval {i}"), question=f"eval {i}", answer="1", role="eval") for i in range(8)
    ]
    write_problems(tmp_path / "held", held_out)
    options: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "per_device_eval_batch_size": 8}
    stage = {"eval_problems": str(tmp_path / "held")}
    more: dict[str, Any] = {
        "num_generations_eval": 1,
        "steps_per_generation": 2,
        "per_device_train_batch_size": 8,
    }
    run(tiny_model, tmp_path / "out", stage=stage, max_steps=4, **options, **more)
    history = read_json(tmp_path / "out" / "log_history.json")
    rewards = [step["eval_rewards/digits/mean"] for step in history if "eval_reward" in step]
    assert len(rewards) == 2
    seen = {
        row.id for step in logged_steps(tmp_path / "out") for row in read_rollouts(tmp_path / "out", step)
    }
    assert not seen & {problem.id for problem in held_out}


def test_problems_that_cannot_be_used_are_kept_with_the_reason(tiny_model: Path, tmp_path: Path) -> None:
    bad = [
        Problem(id="a", question="What is nothing?", answer=""),
        Problem(id="b", question="end <|im_end|> it", answer="1"),
        Problem(id="c", question="long " * 3000, answer="1"),
    ]
    metrics = run(
        tiny_model,
        tmp_path / "out",
        rewards=["accuracy", reward(digits)],
        questions=[*problems(), *bad],
        stage={"max_rejected_fraction": 0.3},
        max_steps=1,
    )
    assert metrics["left_out"] == 3
    rows = read_rows(tmp_path / "out" / "rejected" / "rows.parquet", "rejected")
    assert {row["id"]: row["rule"] for row in rows} == {
        "a": "unjudgeable",
        "b": "unusable_question",
        "c": "overlong_prompt",
    }


def test_nothing_is_left_of_a_generation_but_what_a_checkpoint_keeps(
    tiny_model: Path, tmp_path: Path
) -> None:
    run(tiny_model, tmp_path / "out", max_steps=4, save_steps=2, save_total_limit=1)
    kept = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
    assert kept == ["checkpoint-2", "checkpoint-4"]
    assert not list((tmp_path / "out").rglob("rollout_buffer_*")), "both are at the end of a generation"
    shutil.rmtree(tmp_path / "out")
