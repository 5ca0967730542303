"""The smallest training there is: a line through points, by transformers' Trainer and `resume_or_train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from training.checkpoints import resume_or_train


class Line(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


def train(folder: Path, *callbacks: TrainerCallback, **options: Any) -> tuple[int, float]:
    """Steps that were trained, and the slope that came of them."""
    rows = [{"x": float(i % 5), "labels": float(2 * (i % 5))} for i in range(40)]
    arguments = TrainingArguments(
        output_dir=str(folder),
        learning_rate=0.1,
        per_device_train_batch_size=4,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        **options,
    )
    model = Line()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,  # type: ignore[arg-type]
        callbacks=list(callbacks),
    )
    resume_or_train(trainer, folder)
    return trainer.state.global_step, float(model.weight.detach())
