"""The gradient of GRPO steps against the papers' formulas, written out by hand in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig, ModelConfig

from data.prompts import Prompter
from data.schema import Problem, problem_id
from data.thinking import THINK_TAGS
from inference.models import load_tokenizer
from rewards.registry import build_rewards
from training.grpo import GrpoConfig, make_trainer
from training.grpo_questions import usable
from training.grpo_trainer import GrpoTrainer
from training.packed_trainer import _rows_that_count
from training.questions import Questions
from training.rollouts import Group

pytestmark = pytest.mark.slow

QUESTIONS = ["What is 12 + 30?", "1 + 1?", "Natalia sold clips to 48 of her friends. What is 7 + 8?", "8?"]
LONGEST = 14
EPSILON, EPSILON_HIGH, BETA = 0.01, 0.02, 0.3


def uneven(*, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float | None]:
    """A reward of four values that a random model earns in every mixture."""
    return [float(sum(ids) % 4) for ids in completion_ids]


def alike_for_some(
    *, completion_ids: Sequence[Sequence[int]], answer: Sequence[str], **columns: Any
) -> list[float]:
    """The same for all completions of every other question."""
    return [
        1.0 if gold == "0" else float(sum(ids) % 4) for ids, gold in zip(completion_ids, answer, strict=True)
    ]


class Recorder(TrainerCallback):
    """Parameters and gradients of every step, before the model is moved."""

    def __init__(self) -> None:
        self.parameters: list[dict[str, torch.Tensor]] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        named = dict(kwargs["model"].named_parameters())
        self.parameters.append({name: p.detach().clone() for name, p in named.items()})
        self.gradients.append({name: p.grad.detach().clone() for name, p in named.items()})


@pytest.fixture
def ending_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model in float64, for which one token in ten ends a completion."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64)
    torch.manual_seed(1)
    for parameter in model.parameters():  # initial weights give nearly uniform tokens
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    model.generation_config.eos_token_id = [model.config.eos_token_id, *range(60, 100)]
    model.save_pretrained(tmp_path / "ending")
    load_tokenizer(str(tiny_model)).save_pretrained(tmp_path / "ending")
    return tmp_path / "ending"


def make(
    model: Path, folder: Path, reward: str = "uneven", attention: str = "documents", **options: Any
) -> GrpoTrainer:
    defaults: dict[str, Any] = {
        "num_generations": 4,
        "per_device_train_batch_size": 16,
        "max_completion_length": LONGEST,
        "max_steps": 2,
        "num_iterations": 2,
        "learning_rate": 0.02,
        "max_grad_norm": 0.0,
        "epsilon": EPSILON,
        "epsilon_high": EPSILON_HIGH,
        "use_bias_correction_kl": False,
        "logging_steps": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "seed": 3,
        "model_init_kwargs": {"dtype": "auto"},
        "disable_tqdm": True,
    }
    args = GRPOConfig(output_dir=str(folder), **{**defaults, **options})
    config = GrpoConfig(
        problems="",
        rewards=[{"function": f"{__name__}:{reward}"}],
        full_length_first=False,
        log_rollouts_every=0,
    )
    tokenizer = load_tokenizer(str(model))
    prompter = Prompter(tokenizer=tokenizer, style="direct", thinking_format=THINK_TAGS)
    rewards = build_rewards(config.rewards)
    problems = [Problem(id=problem_id(q), question=q, answer=str(i % 2)) for i, q in enumerate(QUESTIONS)]
    kept, _ = usable(problems, prompter, rewards, longest_prompt=1000)
    questions = Questions(kept, num_generations=4, seed=args.seed)
    model_config = ModelConfig(model_name_or_path=str(model), attn_implementation=attention)
    return make_trainer(config, args, model_config, prompter, rewards, questions)


def log_probs(model: Any, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    """log pi(o_t | q, o_<t) of one sequence alone, float64."""
    ids = torch.tensor([[*prompt, *completion]])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double()
    return logits.log_softmax(-1).gather(1, torch.tensor(completion).unsqueeze(1)).squeeze(1)


def loss_by_hand(
    trainer: GrpoTrainer,
    groups: Sequence[Group],
    models: dict[str, Any],
    *,
    loss_type: str,
    beta: float,
    masked: bool,
) -> torch.Tensor:
    """-J of the papers: GRPO (arXiv 2402.03300, eq. 3 and 4), DAPO (2503.14476, eq. 8), Dr. GRPO
    (2503.20783, eq. 6).

    `models`: policy, old, reference. `masked`: completions that were cut off have no loss.
    """
    terms, lengths = [], []
    for group in groups:
        prompt = trainer.questions[group.question].prompt.ids
        mean = sum(group.totals) / len(group.totals)
        std = math.sqrt(sum((r - mean) ** 2 for r in group.totals) / (len(group.totals) - 1))
        for row, reward in zip(group.rows, group.totals, strict=True):
            advantage = (reward - mean) if loss_type == "dr_grpo" else (reward - mean) / (std + 1e-4)
            length = 0 if masked and row.truncated else len(row.token_ids)
            lengths.append(length)
            new = log_probs(models["policy"], prompt, row.token_ids)[:length]
            with torch.no_grad():
                old = log_probs(models["old"], prompt, row.token_ids)[:length]
                reference = log_probs(models["reference"], prompt, row.token_ids)[:length]
            ratio = (new - old).exp()
            gain = torch.min(ratio * advantage, ratio.clamp(1 - EPSILON, 1 + EPSILON_HIGH) * advantage)
            kl = (reference - new).exp() - (reference - new) - 1
            terms.append((gain - beta * kl).sum())
    if loss_type == "grpo":
        return -sum((t / max(n, 1) for t, n in zip(terms, lengths, strict=True)), torch.zeros(())) / len(
            terms
        )
    total = sum(terms, torch.zeros(()))
    return -total / (sum(lengths) if loss_type == "dapo" else len(terms) * LONGEST)


def gradients_by_hand(
    trainer: GrpoTrainer, folder: Path, recorder: Recorder, step: int, **how: Any
) -> dict[str, torch.Tensor]:
    """Gradient of step 0 or 1, whose completions the model before step 0 has drawn."""
    models = {
        name: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
        for name in ("policy", "old", "reference")
    }
    models["old"].load_state_dict(recorder.parameters[0], strict=False)
    models["policy"].load_state_dict(recorder.parameters[step], strict=False)
    loss_by_hand(trainer, trainer.generated, models, **how).backward()
    return {name: cast(torch.Tensor, p.grad) for name, p in models["policy"].named_parameters()}


def assert_equal_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert scale > 1e-6
    for name, gradient in expected.items():
        assert float((found[name] - gradient).abs().max()) < 2e-6 * scale, name


@pytest.mark.parametrize("attention", ["documents", "sdpa"])
@pytest.mark.parametrize(
    ("loss_type", "beta", "masked"),
    [
        ("grpo", BETA, False),
        ("grpo", 0.0, True),
        ("dapo", 0.0, False),
        ("dapo", BETA, True),
        ("dr_grpo", 0.0, False),
        ("dr_grpo", BETA, True),
    ],
)
def test_gradients_are_those_of_the_papers(
    ending_model: Path, tmp_path: Path, attention: str, loss_type: str, beta: float, masked: bool
) -> None:
    options = {
        "scale_rewards": "none" if loss_type == "dr_grpo" else "group",
        "mask_truncated_completions": masked,
    }
    trainer = make(
        ending_model, tmp_path / "out", attention=attention, loss_type=loss_type, beta=beta, **options
    )
    recorder = Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    rows = [row for group in trainer.generated for row in group.rows]
    assert len({len(row.token_ids) for row in rows}) > 4
    assert 0 < sum(row.truncated for row in rows) < len(rows)
    for step in (0, 1):
        expected = gradients_by_hand(
            trainer, ending_model, recorder, step, loss_type=loss_type, beta=beta, masked=masked
        )
        assert_equal_gradients(recorder.gradients[step], expected)
    clipped = [
        h["clip_ratio/region_mean"] for h in trainer.state.log_history if "clip_ratio/region_mean" in h
    ]
    assert clipped[0] == 0 < clipped[1]


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_rows_without_advantage_are_left_out_and_change_nothing(
    ending_model: Path, tmp_path: Path, loss_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwarded: list[int] = []
    forward = GrpoTrainer._forward

    def counted(self: Any, model: Any, ids: torch.Tensor, *args: Any, **options: Any) -> Any:
        forwarded.append(len(ids))
        return forward(self, model, ids, *args, **options)

    monkeypatch.setattr(GrpoTrainer, "_forward", counted)
    scale = "none" if loss_type == "dr_grpo" else "group"
    trainer = make(ending_model, tmp_path / "out", "alike_for_some", loss_type=loss_type, scale_rewards=scale)
    recorder = Recorder()
    trainer.add_callback(recorder)
    trainer.train()
    assert sum(not group.useful for group in trainer.generated) == 2
    assert forwarded == [16, 8, 8], "old log-probabilities of all rows, then two steps on half of them"
    assert not make(ending_model, tmp_path / "vespo", loss_type="vespo")._only_advantages_count
    for step in (0, 1):
        expected = gradients_by_hand(
            trainer, ending_model, recorder, step, loss_type=loss_type, beta=0.0, masked=False
        )
        assert_equal_gradients(recorder.gradients[step], expected)


@pytest.mark.parametrize(
    ("advantages", "tokens", "rows"),
    [
        ([0.0, 1.0, -1.0, 0.0], [3, 3, 3, 3], [1, 2]),
        ([0.0, 1.0, -1.0, 0.0], [3, 0, 3, 3], [2]),
        ([0.0, 1.0, 0.0, 0.0], [3, 0, 2, 0], [2]),
        ([0.0, 0.0], [0, 0], [0]),
    ],
)
def test_rows_that_count(advantages: list[float], tokens: list[int], rows: list[int]) -> None:
    assert _rows_that_count(torch.tensor(advantages), torch.tensor(tokens)).tolist() == rows


def test_entropy_is_told_where_the_rows_with_advantage_are_masked(ending_model: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "steps_per_generation": 8,
        "max_steps": 8,
        "num_iterations": 1,
    }
    trainer = make(ending_model, tmp_path / "out", mask_truncated_completions=True, **options)
    trainer.train()
    history = [step for step in trainer.state.log_history if "entropy" in step]
    masked = [step["grad_norm"] == 0 for step in history]
    assert any(masked), "some micro-batches have no gradient"
    assert all(step["entropy"] > 1 for step in history)
