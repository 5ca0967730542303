"""Scores of growing solutions: only tokens that no call has seen before go through the reward model.

Keys and values of the branches that were judged are kept. A branch that goes on costs its new tokens; one
that forks copies what it shares; what solutions of one call begin with alike is computed once. Suffixes:
R rows, T tokens, K columns of a pass that are judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from data.heartbeat import beat
from data.step_formats import StepFormat, StepIds
from inference.scorers.branches import Branch, branches_of
from inference.scorers.kept import KeptBranches
from inference.scorers.reward_model import RewardModel, judge
from inference.slot_cache import attending, rounded
from inference.transformers_engine import attention_windows

BATCH_TOKENS = 4096
"""Tokens of one forward pass, padding included."""
EFFICIENT_TOKENS = 256
"""A pass of fewer tokens takes hardly less time."""
LEAST_FILLED = 0.8
"""A row with a smaller share of tokens than that waits for the next pass, where this one is efficient."""
MAX_KV_TOKENS = 1 << 16
"""Tokens whose keys and values are kept."""


class Head(Protocol):
    """What a reward model says."""

    def __call__(self, inputs: dict[str, Any], columns_K: Tensor) -> Tensor:
        """Probabilities (R, K) that the steps which end at these columns are right.

        Args:
            inputs: of the model's forward; input_ids has shape (R, T).
        """
        ...


class StepScorer:
    """A `Scorer` that runs a decoder of transformers on the model's device.

    Args:
        model: used as it is; while it scores it has the engine's attention and no dropout.
        head: makes probabilities of the model's inputs.
        name: as recorded with scores.
        batch_tokens: tokens of one forward pass, padding included.
        max_kv_tokens: bound of the tokens whose keys and values are kept; branches that were not used for
            longest are dropped first.
    Raises:
        ValueError: a limit below 1, or a model whose attention cannot be run so.
    """

    def __init__(
        self,
        model: Any,
        step_format: StepFormat,
        head: Head,
        *,
        name: str,
        batch_tokens: int = BATCH_TOKENS,
        max_kv_tokens: int = MAX_KV_TOKENS,
    ) -> None:
        for key, value in (("batch_tokens", batch_tokens), ("max_kv_tokens", max_kv_tokens)):
            if value < 1:
                raise ValueError(f"{key}: {value} must be at least 1")
        self.name = name
        self.model = model
        self.step_format = step_format
        self.head = head
        self.batch_tokens = batch_tokens
        text = model.config.get_text_config()
        self.windows = _windows(model, text, name)
        self.max_model_tokens = int(getattr(text, "max_position_embeddings", None) or 1 << 20)
        self.kept = KeptBranches(text.num_hidden_layers, max_kv_tokens)
        self.forwarded_tokens = 0

    @classmethod
    def of(cls, reward: RewardModel, **limits: int) -> StepScorer:
        """The scorer of a reward model of this project; `limits` as in the constructor."""
        answers = reward.options.answer_ids(reward.tokenizer)

        def head(inputs: dict[str, Any], columns_K: Tensor) -> Tensor:
            return judge(reward.model, inputs, columns_K, answers).softmax(-1)[..., 1]

        return cls(reward.model, reward.step_format, head, name=reward.name, **limits)

    def score(self, questions: Sequence[str], solutions: Sequence[Sequence[str]]) -> list[list[float]]:
        """See `Scorer.score`; also refused: a solution longer than the model or max_kv_tokens allows."""
        encoded = encode_all(self.step_format, questions, solutions)
        for index, steps in enumerate(encoded):
            self._check_length(index, len(steps.ids))
        branches = branches_of(encoded)
        unique = sorted({branch for branch in branches if branch.ends}, key=lambda branch: branch.ids)
        self.kept.recall(unique)
        unknown = [branch for branch in unique if branch.first_unknown < len(branch.ids)]
        with attending(self.model), torch.inference_mode():
            for group in self.kept.groups(unknown):
                for wave in self.kept.waves(group):
                    self._compute(wave)
        return [
            [branch.scores[end] for end in steps.ends]
            for branch, steps in zip(branches, encoded, strict=True)
        ]

    def forget(self) -> None:
        """Drop all that is kept; needed when the model's weights have changed."""
        self.kept.forget()

    def _check_length(self, index: int, tokens: int) -> None:
        if tokens > self.max_model_tokens:
            raise ValueError(
                f"solution {index}: {tokens} tokens are more than the {self.max_model_tokens} of {self.name}"
            )
        if rounded(tokens + 1) > self.kept.max_tokens:
            raise ValueError(
                f"solution {index}: its {tokens} tokens need scorer_max_kv_tokens {rounded(tokens + 1)} or "
                f"more, not {self.kept.max_tokens}"
            )

    def _compute(self, wave: Sequence[Branch]) -> None:
        """Tokens that the slots of these branches lack, those with the most first."""
        rows: list[Branch] = []
        for branch in sorted(wave, key=lambda branch: branch.behind, reverse=True):
            longest = rows[0].behind if rows else 0
            padded = len(rows) * longest >= EFFICIENT_TOKENS and branch.behind < LEAST_FILLED * longest
            if rows and (padded or (len(rows) + 1) * longest > self.batch_tokens):
                self._extend(rows)
                rows = []
            rows.append(branch)
        self._extend(rows)

    def _extend(self, rows: Sequence[Branch]) -> None:
        while (longest := max(row.behind for row in rows)) > 0:
            self._forward(rows, min(longest, max(1, self.batch_tokens // len(rows))))

    def _forward(self, rows: Sequence[Branch], width: int) -> None:
        """Compute up to `width` tokens of each row, and judge the steps that end in them."""
        device, cache = self.model.device, self.kept.cache
        starts = [len(row.slot.ids) for row in rows]
        parts = [row.ids[start : start + width] for row, start in zip(rows, starts, strict=True)]
        ids_RT = torch.tensor([part + [0] * (width - len(part)) for part in parts], device=device)
        positions_RT = torch.tensor(starts).unsqueeze(1) + torch.arange(width)
        positions_RT = positions_RT.clamp(max=cache.capacity - 1).to(device)
        columns = [
            [end - start for end in row.ends if start <= end < start + len(part)]
            for row, start, part in zip(rows, starts, parts, strict=True)
        ]
        judged = sorted(set().union(*columns))
        cache.at_slots([row.slot.index for row in rows], positions_RT)
        inputs = {
            "input_ids": ids_RT,
            "attention_mask": cache.mask(self.windows),
            "position_ids": positions_RT,
            "past_key_values": cache,
            "use_cache": True,
        }
        scores_RK = self.head(inputs, torch.tensor(judged, dtype=torch.long, device=device)).tolist()
        beat()
        for row, start, part, ends, scores in zip(rows, starts, parts, columns, scores_RK, strict=True):
            row.scores.update({start + end: self._checked(scores[judged.index(end)]) for end in ends})
            row.slot.scores = dict(row.scores)
            row.slot.ids = row.ids[: start + len(part)]
            self.forwarded_tokens += len(part)

    def _checked(self, score: float) -> float:
        if not math.isfinite(score):
            raise ValueError(f"{self.name} gives the score {score}; set scorer_dtype: float32")
        return score


def encode_all(
    step_format: StepFormat, questions: Sequence[str], solutions: Sequence[Sequence[str]]
) -> list[StepIds]:
    """Every solution with its question.

    Raises:
        ValueError: see `StepFormat.encode`; names the solution.
    """
    encoded = []
    for index, (question, steps) in enumerate(zip(questions, solutions, strict=True)):
        try:
            encoded.append(step_format.encode(question, steps))
        except ValueError as error:
            raise ValueError(f"solution {index}: {error}") from error
    return encoded


def _windows(model: Any, text: Any, name: str) -> dict[str, int | None]:
    """Types of layers and how many tokens they attend to (see the transformers engine).

    Raises:
        ValueError: attention that slots cannot be used with.
    """
    if not model._supports_sdpa or getattr(text, "attn_logit_softcapping", None):
        raise ValueError(f"scorer_model: the attention of {name} cannot be run here; use scorer: vllm")
    try:
        return attention_windows(text, name)
    except ValueError as error:
        raise ValueError(
            f"scorer_model: {name} has layers that cannot be run here; use scorer: vllm"
        ) from error
