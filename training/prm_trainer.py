"""transformers' Trainer for reward models: the loss is at the judged steps alone.

TRL had a PRMTrainer up to 1.13; what this one does differently: soft labels, class weights, the language
model's own tokens as head, and a loss that is the same whatever gradient accumulation and processes do (the
token-classification loss of transformers ignores num_items_in_batch, which multiplies it by both).
Suffixes: B rows, T tokens, K columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.utils.data import Sampler
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from inference.scorers.reward_model import judge
from training.muon import muon_adamw
from training.step_rows import IGNORED, Rows, StepRow, collate


class PrmTrainer(Trainer):
    """Trains a reward model on `rows`.

    Args:
        answers: ids of the (negative, positive) token, None for a classifier; see `judge`.
        weights: of wrong and right steps in the loss.
        muon_learning_rate: where given, matrices of the layers are trained by Muon at this rate, all else by
            AdamW at args.learning_rate.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        rows: Sequence[StepRow],
        held_out: Sequence[StepRow],
        tokenizer: Any,
        answers: tuple[int, int] | None,
        weights: tuple[float, float] = (1.0, 1.0),
        muon_learning_rate: float | None = None,
    ) -> None:
        args.remove_unused_columns = False
        args.label_names = ["labels"]
        super().__init__(
            model=model,
            args=args,
            train_dataset=Rows(rows),
            eval_dataset=Rows(held_out) if held_out else None,
            data_collator=collate,
            processing_class=tokenizer,
            compute_metrics=partial(step_metrics, weights=weights),
        )
        self.order: LengthGrouped | None = None
        self.lengths = [len(row.ids) for row in rows]
        self.answers = answers
        self.weights = weights
        self.muon_learning_rate = muon_learning_rate
        self.model_accepts_loss_kwargs = True  # the judged steps of a whole optimizer step are counted
        self._loss_shifts_labels = False

    def create_optimizer(self, *args: Any, **options: Any) -> torch.optim.Optimizer:
        if self.optimizer is None and self.muon_learning_rate is not None:
            self.optimizer = muon_adamw(
                self.model, lr=self.muon_learning_rate, adam_lr=self.args.learning_rate
            )
        return super().create_optimizer(*args, **options)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        args = self.args
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        seed = args.seed if args.data_seed is None else args.data_seed
        self.order = LengthGrouped(self.lengths, rows, seed)
        return self.order

    def _run_epoch(self, *, epoch: int, **arguments: Any) -> Any:
        if self.order is not None:  # set_epoch does not reach it behind batches that are skipped (accelerate)
            self.order.set_epoch(epoch)
        return super()._run_epoch(epoch=epoch, **arguments)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's share of the mean cross entropy over all judged steps of the optimizer step."""
        assert num_items_in_batch is not None, "the trainer counts what is judged"
        logits_BK2 = self._logits(model, inputs)
        loss = step_loss(logits_BK2, inputs["labels"], self.weights) / num_items_in_batch
        if self.args.average_tokens_across_devices:  # then counted over all, while gradients are averaged
            loss = loss * self.accelerator.num_processes
        return (loss, {"logits": logits_BK2}) if return_outputs else loss

    def _logits(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        return judge(model, {**given, "use_cache": False}, inputs["columns"], self.answers)

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Tensor, Tensor]:
        """Logits and labels alone: a mean over batches would depend on their size, see `step_metrics`."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return None, self._logits(model, inputs), inputs["labels"]


class LengthGrouped(Sampler[int]):
    """Random order in which rows of similar length stand together; seed and epoch alone decide it.

    Args:
        rows: of an optimizer step; up to 50 times as many are sorted at a time.
    """

    def __init__(self, lengths: Sequence[int], rows: int, seed: int) -> None:
        self.lengths = list(lengths)
        self.rows = rows
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.rows, generator=generator))


def step_loss(logits_BK2: Tensor, labels_BK: Tensor, weights: tuple[float, float]) -> Tensor:
    """Sum over the judged steps of -(y w1 log p + (1 - y) w0 log(1 - p)).

    Args:
        labels_BK: y in [0, 1]; IGNORED where nothing is judged.
        weights: w0 and w1.
    """
    judged_BK = labels_BK != IGNORED
    logprobs_N2, right_N = logits_BK2[judged_BK].log_softmax(-1), labels_BK[judged_BK]
    return -(weights[0] * (1 - right_N) * logprobs_N2[:, 0] + weights[1] * right_N * logprobs_N2[:, 1]).sum()


def step_metrics(predicted: EvalPrediction, weights: tuple[float, float]) -> dict[str, float]:
    """Loss, accuracy and AUC over the judged steps, and AUC of each solution's last judged step; soft labels
    count as what they are nearer to."""
    logits_BK2, labels_BK = torch.tensor(predicted.predictions), torch.tensor(predicted.label_ids)
    judged_BK = labels_BK != IGNORED
    scores_BK = (logits_BK2[..., 1] - logits_BK2[..., 0]).double()
    right_BK = labels_BK >= 0.5
    last_B = judged_BK.shape[1] - 1 - judged_BK.flip(1).int().argmax(1)
    rows_B = torch.arange(len(last_B))
    return {
        "loss": float(step_loss(logits_BK2.double(), labels_BK, weights) / judged_BK.sum()),
        "step_accuracy": float(((scores_BK > 0) == right_BK)[judged_BK].double().mean()),
        "step_auc": auc(scores_BK[judged_BK], right_BK[judged_BK]),
        "last_auc": auc(scores_BK[rows_B, last_B], right_BK[rows_B, last_B]),
    }


def auc(scores: Tensor, right: Tensor) -> float:
    """Area under the ROC curve; NaN where there is one class only."""
    if right.all() or not right.any():
        return float("nan")
    return float(roc_auc_score(right.numpy(), scores.numpy()))
