"""Loss and gradient of reward models against cross entropies written out in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, EvalPrediction
from trl import ModelConfig

from inference.models import load_tokenizer
from tests.training.prm_runs import arguments, signs
from training.prm import PrmConfig, make_rows, make_trainer
from training.prm_trainer import step_loss, step_metrics
from training.step_rows import IGNORED, StepRow

WEIGHTS = 1.75, 0.5


def rows_of_all_lengths(tokenizer: Any, config: PrmConfig) -> list[StepRow]:
    """Eight rows of different lengths with soft labels, judged at one to four steps."""
    solutions = [
        replace(s, steps=s.steps[: 1 + i % 4], labels=(0.25, 0.75, 0.875, 0.0)[: 1 + i % 4])
        for i, s in enumerate(signs(8))
    ]
    return make_rows(config, tokenizer, solutions).rows


def test_loss_of_weighted_soft_labels() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    labels = torch.full((3, 5), IGNORED, dtype=torch.float64)
    given = {(0, 1): 0.0, (0, 4): 1.0, (1, 0): 0.25, (2, 2): 0.875}
    for place, label in given.items():
        labels[place] = label
    loss = step_loss(logits, labels, WEIGHTS)
    loss.backward()
    expected = 0.0
    slopes = torch.zeros(3, 5, 2, dtype=torch.float64)
    for (row, column), y in given.items():
        wrong, right = logits[row, column].tolist()
        p = math.exp(right) / (math.exp(wrong) + math.exp(right))
        expected -= y * WEIGHTS[1] * math.log(p) + (1 - y) * WEIGHTS[0] * math.log(1 - p)
        slope = (1 - y) * WEIGHTS[0] * p - y * WEIGHTS[1] * (1 - p)
        slopes[row, column] = torch.tensor([-slope, slope])
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert logits.grad is not None
    assert torch.allclose(logits.grad, slopes, atol=1e-12)


def test_measures_are_means_over_steps_however_they_were_batched() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4, 2), torch.randint(0, 2, (6, 4)).float()
    labels[1:, 2:] = IGNORED
    judged = labels != IGNORED
    found = step_metrics(EvalPrediction(logits.numpy(), labels.numpy()), WEIGHTS)
    weights = torch.where(labels == 1, WEIGHTS[1], WEIGHTS[0])
    right = logits.softmax(-1)[..., 1]
    likelihood = torch.where(labels == 1, right, 1 - right)
    assert found["loss"] == pytest.approx(-(weights * likelihood.log())[judged].mean().item(), abs=1e-6)
    assert found["step_accuracy"] == pytest.approx((likelihood > 0.5)[judged].float().mean().item())
    pairs = [
        (a > b)
        for a in right[judged & (labels == 1)].tolist()
        for b in right[judged & (labels == 0)].tolist()
    ]
    assert found["step_auc"] == pytest.approx(sum(pairs) / len(pairs))
    only = step_metrics(EvalPrediction(logits.numpy(), torch.ones(6, 4).numpy()), WEIGHTS)
    assert math.isnan(only["step_auc"])


def hand_written_gradient(
    network: Any, rows: list[StepRow], answers: tuple[int, int] | None
) -> dict[str, torch.Tensor]:
    """Each row alone and unpadded, in float64; the mean over all judged steps."""
    network = network.double()
    total, judged = torch.zeros((), dtype=torch.float64), 0
    for row in rows:
        logits = network(torch.tensor([list(row.ids)])).logits[0, row.ends]
        for pair, y in zip(logits if answers is None else logits[:, list(answers)], row.targets, strict=True):
            wrong, right = pair.log_softmax(-1)
            total = total - y * WEIGHTS[1] * right - (1 - y) * WEIGHTS[0] * wrong
            judged += 1
    (total / judged).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("head", ["classifier", "tokens"])
def test_an_optimizer_step_has_the_gradient_of_the_mean_over_its_judged_steps(
    tiny_model: Path, tmp_path: Path, head: Any
) -> None:
    """Whatever the micro-batches are; transformers' own loss grows with gradient_accumulation_steps."""
    tokenizer: Any = load_tokenizer(str(tiny_model))
    config = PrmConfig(
        dataset=["-"], head=head, step_separator="\n", soft_labels=True, class_weights="balanced"
    )
    rows = rows_of_all_lengths(tokenizer, config)
    auto: Any = AutoModelForTokenClassification if head == "classifier" else AutoModelForCausalLM
    start: dict[str, Any] = {}
    expected: dict[str, torch.Tensor] = {}
    for size, accumulated, order in ((8, 1, 1), (4, 2, -1), (2, 4, 1), (1, 8, -1)):
        args = arguments(
            tmp_path / f"{size}",
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulated,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            train_sampling_strategy="sequential",
            save_strategy="no",
        )
        loaded = ModelConfig(model_name_or_path=str(tiny_model))
        trainer: Any = make_trainer(config, args, loaded, tokenizer, rows[::order], rows, WEIGHTS)
        if not start:
            trainer.model.save_pretrained(tmp_path / "start")
            start = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
            answers = config.answer_ids(tokenizer)
            expected = hand_written_gradient(auto.from_pretrained(tmp_path / "start"), rows, answers)
        measured = trainer.evaluate()["eval_loss"]
        trainer.train()
        assert trainer.state.log_history[-2]["loss"] == pytest.approx(measured, abs=1e-4)
        for name, parameter in trainer.model.named_parameters():
            moved = (start[name] - parameter.detach()).double()
            assert torch.allclose(moved, expected[name], atol=2e-6), (name, size)
    assert max(gradient.abs().max().item() for gradient in expected.values()) > 0.01
