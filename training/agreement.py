"""How close a student is to its teacher, on completions that the student wrote.

For each completion token both models say what they would have written in its place. Suffixes: B rows, T
tokens of the longest row, V vocabulary, N tokens of completions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Row = tuple[Sequence[int], Sequence[int]]
"""Prompt and completion, as token ids."""

TOKENS_AT_ONCE = 512
"""Tokens whose distributions are in memory in float32."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Means over completion tokens; divergences in nats, of the plain distributions (temperature 1)."""

    tokens: int
    agreement: float
    """Share of tokens for which both models find the same token most likely."""
    kl: float | None
    """KL(teacher || student); None where the teacher gives only its most likely token."""
    reverse_kl: float | None
    """KL(student || teacher)."""

    @staticmethod
    def of(sums: Tensor) -> Agreement:
        """From the sums that `compare` returns, also of several calls or processes added up."""
        tokens, agreeing, kl, reverse = sums.tolist()
        count = max(1, tokens)
        return Agreement(
            tokens=int(tokens),
            agreement=agreeing / count,
            kl=None if kl != kl else kl / count,
            reverse_kl=None if reverse != reverse else reverse / count,
        )


def measure(student: Any, teacher: Any, rows: Sequence[Row], *, batch_size: int = 32) -> Agreement:
    """The agreement of two causal language models of one vocabulary, on completions of the student."""
    total = torch.zeros(4, dtype=torch.float64)
    for start in range(0, len(rows), batch_size):
        total += compare(student, teacher, rows[start : start + batch_size]).cpu()
    return Agreement.of(total)


@torch.no_grad()
def compare(
    student: Callable[..., Any],
    teacher: Callable[..., Any],
    rows: Sequence[Row],
    device: torch.device | None = None,
) -> Tensor:
    """Sums over the rows, in one forward pass of each: tokens, agreeing tokens, KL and reverse KL, (4,).

    Raises:
        ValueError: a model's logits are not finite.
    """
    where = device or next(student.parameters()).device  # pyright: ignore[reportFunctionMemberAccess]
    inputs, chosen_BT = _padded(rows, where)
    ours_NV = student(**inputs).logits[:, :-1][chosen_BT]
    theirs_NV = teacher(**inputs).logits[:, :-1][chosen_BT]
    common = min(ours_NV.shape[1], theirs_NV.shape[1])  # rows beyond are of no token
    sums = torch.zeros(4, dtype=torch.float64, device=where)
    for ours, theirs in zip(ours_NV.split(TOKENS_AT_ONCE), theirs_NV.split(TOKENS_AT_ONCE), strict=True):
        ours, theirs = (logits[:, :common].float().log_softmax(-1) for logits in (ours, theirs))
        gap = theirs - ours
        sums += torch.stack(
            [
                torch.tensor(len(ours), dtype=torch.float64, device=where),
                (ours.argmax(-1) == theirs.argmax(-1)).sum().double(),
                (theirs.exp() * gap).sum().double(),
                -(ours.exp() * gap).sum().double(),
            ]
        )
    if not sums.isfinite().all():
        if all(theirs.isfinite().all() for theirs in theirs_NV.split(TOKENS_AT_ONCE)):
            raise ValueError("model_name_or_path: the student's logits are not finite; lower learning_rate")
        raise ValueError(
            "teacher: its logits are not finite; set teacher_dtype to that of its training, or to float32"
        )
    return sums


@torch.no_grad()
def compare_most_likely(
    student: Callable[..., Any],
    most_likely: Sequence[Sequence[int]],
    rows: Sequence[Row],
    device: torch.device,
) -> Tensor:
    """As `compare`, with a teacher of which only the most likely token at each completion token is known;
    both divergences are NaN."""
    inputs, chosen_BT = _padded(rows, device)
    ours_N = student(**inputs).logits[:, :-1][chosen_BT].argmax(-1)
    theirs_N = torch.tensor([token for row in most_likely for token in row], device=device)
    agreeing = (ours_N == theirs_N).sum().item()
    return torch.tensor([len(ours_N), agreeing, torch.nan, torch.nan], dtype=torch.float64, device=device)


def _padded(rows: Sequence[Row], device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Model inputs of right-padded rows, and (B, T - 1): the places that predict a completion token."""
    longest = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    chosen_BT = torch.zeros(len(rows), longest - 1, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(rows):
        length = len(prompt) + len(completion)
        ids_BT[row, :length] = torch.tensor([*prompt, *completion])
        mask_BT[row, :length] = 1
        chosen_BT[row, len(prompt) - 1 : length - 1] = True
    inputs = {"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device)}
    return inputs, chosen_BT.to(device)
