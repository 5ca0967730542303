"""A gradient that is not finite, in every training stage: the run ends, and goes on from what was good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, TrainerCallback

import training.checkpoints
from tests.faults.trainings import TRAININGS, losses
from training.alarms import TrainingStoppedError
from training.checkpoints import newest_complete_checkpoint, resume_or_train
from training.finite import are_finite

pytestmark = pytest.mark.slow


class Poison(TrainerCallback):
    """One gradient of the step behind `step` becomes NaN, when its norm has been looked at."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            next(p for p in kwargs["model"].parameters() if p.grad is not None).grad.fill_(torch.nan)


FOUND = {  # where it is seen: in the loss of the next step, in weights to be saved, or when all is done
    "log": ({}, 2, "step 4: .* is nan.*checkpoint-2"),
    "save": ({}, 3, "step 4: weights are not finite.*checkpoint-2"),
    "end": ({"save_steps": 5, "logging_steps": 10}, 5, "step 6: weights are not finite.*checkpoint-5"),
}


@pytest.mark.parametrize(
    ("stage", "found"),
    [
        ("sft", "log"),
        ("sft", "save"),
        ("sft", "end"),
        ("prm", "log"),
        ("reward_model", "save"),
        ("distill", "save"),
        ("grpo", "end"),
        ("pretrain", "log"),
    ],
)
def test_the_run_ends_and_goes_on_from_what_was_good(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, found: str
) -> None:
    run, folder = TRAININGS[stage], tmp_path / "out"
    options, step, message = FOUND[found]

    def poisoned(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        trainer.add_callback(Poison(step))
        return resume_or_train(trainer, *args, **kwargs)

    with monkeypatch.context() as injected:
        injected.setattr(training.checkpoints, "resume_or_train", poisoned)
        with pytest.raises(TrainingStoppedError, match=message):
            run(tiny_model, folder, **options)
    assert not list(folder.glob("*.safetensors")), "no model that looks finished"
    good = newest_complete_checkpoint(folder)
    assert good is not None
    assert are_finite(AutoModel.from_pretrained(good))
    run(tiny_model, folder, **options)
    run(tiny_model, tmp_path / "whole", **options)
    if not options:
        assert losses(folder) == [
            (step, pytest.approx(loss, abs=1e-5)) for step, loss in losses(tmp_path / "whole")
        ]
    assert are_finite(AutoModel.from_pretrained(folder))
