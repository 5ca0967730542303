"""The GRPO stage on a small real model, in this process."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2MoeConfig, Qwen2MoeForCausalLM

import training.grpo
from data.rollouts import logged_steps, read_rollouts
from data.schema import Problem, problem_id
from data.store import read_json, read_rows, write_json, write_problems
from inference.engine import Generation
from inference.transformers_engine import TransformersEngine
from tests.training.grpo_runs import curve, digits, parity, problems, reward, run, tenth
from training.grpo_trainer import GrpoTrainer
from training.questions import Questions
from training.rollouts import Drawn, Group

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
        metrics = run(tiny_model, tmp_path / name, rewards=[reward(parity)], stage=stage, **chosen)
    last = tmp_path / "parts" / "checkpoint-6"
    (last / ".complete").unlink()
    (last / "model.safetensors").write_bytes(b"half")
    (tmp_path / "parts" / "model.safetensors").unlink()
    again = run(tiny_model, tmp_path / "parts", rewards=[reward(parity)], stage=stage, **chosen)
    rows = [row for step in logged_steps(last.parent) for row in read_rollouts(last.parent, step)]
    assert again["completion_tokens"] == metrics["completion_tokens"] == sum(row.tokens for row in rows)
    names = ["loss", "grad_norm", "entropy", "rollouts/reward", "groups/drawn"]
    names += ["kl"] if "beta" in options else []
    whole, parts = (curve(tmp_path / name, *names) for name in ("whole", "parts"))
    assert [step for step, *_ in whole] == [1, 2, 3, 4, 5, 6]
    assert parts == [pytest.approx(step, abs=1e-5) for step in whole]
    if "beta" in options:
        assert whole[2][-1] < whole[1][-1] > 0, "the reference has moved"
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("whole", "parts")]
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("lost", ["other processes", "no file"])
def test_a_generation_that_is_not_whole_is_drawn_anew(
    tiny_model: Path, tmp_path: Path, lost: str, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {
        "steps_per_generation": 2,
        "num_iterations": 2,
        "per_device_train_batch_size": 8,
        "max_steps": 8,
        "save_steps": 3,
    }
    folder = tmp_path / "out"
    run(tiny_model, folder, **options)
    assert logged_steps(folder) == [0, 4]
    for name in ("checkpoint-6", "checkpoint-8"):
        (folder / name / ".complete").unlink()
    if lost == "no file":
        (folder / "checkpoint-3" / "rollout_buffer_0.pt").unlink()
        (folder / "checkpoint-3" / ".complete").write_text("")  # of an older version, which knows no sizes
    else:
        state = read_json(folder / "checkpoint-3" / "grpo_state.json")
        assert state["processes"] == 1
        write_json(folder / "checkpoint-3" / "grpo_state.json", {**state, "processes": 2})
    with caplog.at_level("WARNING"):
        run(tiny_model, folder, **options)
    assert "they are drawn anew" in caplog.text
    assert [step for step, drawn in curve(folder, "groups/drawn") if drawn] == [1, 4, 8]
    assert logged_steps(folder) == [0, 3, 7]


def test_equal_rewards_move_nothing(tiny_model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_generations": 8, "per_device_train_batch_size": 32, "max_steps": 2}
    run(tiny_model, tmp_path / "out", rewards=[reward(tenth)], **options)
    assert [step[1] for step in curve(tmp_path / "out", "grad_norm")] == [0, 0]
    assert {row.advantage for row in read_rollouts(tmp_path / "out", 1)} == {0.0}


def test_replacements_give_every_process_whole_groups_where_a_reward_compares_them() -> None:
    drawn = Drawn(token_ids=[1], text="x", truncated=False, logprobs=None, facts=cast(Any, None))
    rows_of: list[list[int]] = []

    def roll(questions: Any, rows: list[int], size: int, *, first: int) -> list[Group]:
        rows_of.append(rows)
        fields: dict[str, Any] = {"rewards": [[0.0]] * size, "totals": [0.0] * size, "verdicts": []}
        return [
            Group(question=0, rows=[drawn] * size, useful=len(rows_of) == 1 and place < 5, **fields)
            for place in range(2 * len(rows) // size)
        ]

    trainer: Any = SimpleNamespace(
        num_generations=4,
        accelerator=SimpleNamespace(num_processes=2, process_index=1),
        args=SimpleNamespace(generation_batch_size=32, num_generations=4),
        questions=Questions([cast(Any, None)] * 40),
        options=SimpleNamespace(dynamic_sampling=1),
        _roll=roll,
    )
    for compares, sizes in ((True, [4, 4, 4]), (False, [2, 4, 4])):
        rows_of.clear()
        trainer._compares_groups = compares
        GrpoTrainer._collect(trainer)
        assert sorted(Counter(rows_of[1]).values()) == sizes


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


@pytest.fixture
def opinionated(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with an entropy that differs from token to token."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.15)
    model.save_pretrained(tmp_path / "opinionated")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "opinionated")
    return tmp_path / "opinionated"


def test_full_length_first_changes_nothing_but_the_lengths(
    opinionated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        options = {"rewards": [reward(parity)], "num_generations": 2, "learning_rate": 1e-4, "max_steps": 4}
        run(opinionated, tmp_path / name, stage={"full_length_first": first}, **options)
        lengths.append(list(tokens))
    longest = max(len(row.prompt) for row in read_rollouts(tmp_path / "on", 0))
    assert longest
    assert lengths[0][0] > lengths[1][0]
    assert lengths[0][2:] == lengths[1][2:]
    names = ("loss", "grad_norm", "entropy", "groups/useful")
    on, off = curve(tmp_path / "on", *names), curve(tmp_path / "off", *names)
    assert on == [pytest.approx(step, abs=1e-4) for step in off]
    assert all(useful < 1 for *_, useful in on), "some rows do not count"


def test_full_length_first_leaves_load_balancing_alone(tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "num_experts": 4,
    }
    config = Qwen2MoeConfig(
        vocab_size=len(tokenizer),
        shared_expert_intermediate_size=32,
        num_experts_per_tok=2,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        router_aux_loss_coef=0.5,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    Qwen2MoeForCausalLM(config).save_pretrained(tmp_path / "moe")
    tokenizer.save_pretrained(tmp_path / "moe")
    long = "What is " + " + ".join(map(str, range(60))) + "?"
    questions = [*problems(), Problem(id=problem_id(long), question=long, answer="1770")]
    for name, first in (("on", True), ("off", False)):
        run(
            tmp_path / "moe",
            tmp_path / name,
            questions=questions,
            stage={"full_length_first": first},
            loading={"attn_implementation": "sdpa"},
            max_steps=2,
        )
    on, off = (curve(tmp_path / name, "aux_loss", "loss", "grad_norm") for name in ("on", "off"))
    assert on == [pytest.approx(step, abs=1e-5) for step in off]


LORA = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.0, "lora_target_modules": ["q_proj", "v_proj"]}
TWO_STEPS = {
    "steps_per_generation": 2,
    "per_device_train_batch_size": 8,
    "max_steps": 4,
    "learning_rate": 0.01,
}


@pytest.mark.parametrize(
    ("loading", "more"),
    [({"attn_implementation": "sdpa"}, {}), ({}, {}), (LORA, {"beta": 0.1, "learning_rate": 0.05})],
    ids=["sdpa", "documents", "adapter with a reference"],
)
def test_log_probabilities_of_generation_stand_for_a_forward_pass(
    tiny_model: Path,
    tmp_path: Path,
    loading: dict[str, Any],
    more: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {**TWO_STEPS, **more}
    run(tiny_model, tmp_path / "sampled", loading=loading, **options)
    monkeypatch.setattr("training.grpo_trainer.computes_in_float32", lambda trainer: False)
    run(tiny_model, tmp_path / "computed", loading=loading, **options)
    names = ["loss", "grad_norm", "rollouts/reward", "clip_ratio/region_mean"]
    names += ["kl"] if "beta" in options else []
    sampled, computed = (curve(tmp_path / name, *names) for name in ("sampled", "computed"))
    assert sampled == [pytest.approx(step, abs=1e-4) for step in computed]
    assert computed[1][1] != computed[0][1]


def test_they_stand_for_none_where_the_engine_does_not_generate(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.generation.PolicyEngine.can_run", lambda trainer: False)
    run(tiny_model, tmp_path / "out", loading={"attn_implementation": "sdpa"}, **TWO_STEPS)
    _, _, norm, clipped = zip(
        *curve(tmp_path / "out", "loss", "grad_norm", "clip_ratio/region_mean"), strict=True
    )
    assert clipped[0] == clipped[2] == 0, "the first step on each generation is on policy"
    assert min(norm) > 0


def test_vllm_is_corrected_against_the_policy(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands in for vLLM: what it says of its tokens is not what the policy says."""
    draw, make = GrpoTrainer._draw, training.grpo.make_trainer

    def drawn(self: Any, *args: Any) -> list[Generation]:
        return [replace(row, logprobs=[-3.0] * len(row.token_ids)) for row in draw(self, *args)]

    def made(*args: Any) -> GrpoTrainer:
        trainer: Any = make(*args)
        trainer.use_vllm, trainer._last_loaded_step, trainer._engine = True, 0, None
        trainer.vllm_generation = SimpleNamespace(sync_weights=lambda: None)
        return trainer

    def generated(self: Any, prompts: Any, *_: Any) -> Any:
        return [[5, 6, 7] for _ in prompts], None

    monkeypatch.setattr(GrpoTrainer, "_draw", drawn)
    monkeypatch.setattr(training.grpo, "make_trainer", made)
    monkeypatch.setattr("trl.GRPOTrainer._generate_single_turn", generated)
    run(tiny_model, tmp_path / "out", **{**TWO_STEPS, "max_steps": 1})
    [(_, difference)] = curve(tmp_path / "out", "sampling/sampling_logp_difference/mean")
    assert difference > 1, "the policy's own log-probabilities are near -6"


def test_lora_with_a_kl_penalty(tiny_model: Path, tmp_path: Path) -> None:
    run(tiny_model, tmp_path / "out", loading=LORA, beta=0.1, max_steps=4, learning_rate=0.05)
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


@pytest.mark.parametrize("count", [8, 2])
def test_held_out_problems_are_evaluated_and_not_trained_on(
    tiny_model: Path, tmp_path: Path, count: int
) -> None:
    held_out = [
        Problem(id=problem_id(f"eval {i}"), question=f"eval {i}", answer="1", role="eval")
        for i in range(count)
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
