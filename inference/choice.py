"""Choosing the next token of many rows, each with its own parameters and its own random stream.

Suffixes: R rows, V vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers.generation.logits_process import TopKLogitsWarper, TopPLogitsWarper

from inference.engine import SamplingParams

_BLOCK = 256


class NotFiniteError(ValueError):
    """A model gives no probabilities: its weights or activations have overflowed."""


def choose(
    logits_RV: Tensor, params: Sequence[SamplingParams], seeds: Sequence[int], places: Sequence[int]
) -> Tensor:
    """The next token of each row, int64 of shape (R,).

    A row's token follows from its logits, its seed and its place in the sequence alone: the
    cumulative distribution is inverted at `uniforms(seed, place)`.

    Raises:
        NotFiniteError: the logits of a row are NaN or infinite.
    """
    if not params:
        return torch.empty(0, dtype=torch.long)
    groups = defaultdict(list)
    for row, of_row in enumerate(params):
        groups[of_row.temperature, of_row.top_p, of_row.top_k, of_row.banned_ids].append(row)
    if len(groups) == 1:
        return _choose(logits_RV, params[0], seeds, places)
    chosen_R = torch.empty(len(params), dtype=torch.long, device=logits_RV.device)
    for rows in groups.values():
        chosen_R[rows] = _choose(
            logits_RV[rows], params[rows[0]], [seeds[row] for row in rows], [places[row] for row in rows]
        )
    return chosen_R


def _choose(logits_RV: Tensor, params: SamplingParams, seeds: Sequence[int], places: Sequence[int]) -> Tensor:
    if params.banned_ids:
        banned = torch.tensor(params.banned_ids, device=logits_RV.device)
        logits_RV = logits_RV.index_fill(1, banned, -torch.inf)
    if params.temperature == 0:
        best_R, chosen_R = logits_RV.max(-1)  # a NaN is the largest
        _refuse_unless(best_R.isfinite().all())
        return chosen_R
    logits_RV = logits_RV.float() / params.temperature
    if params.top_k:
        logits_RV = TopKLogitsWarper(params.top_k)(torch.empty(0), logits_RV)  # type: ignore[arg-type]
    if params.top_p < 1:
        logits_RV = TopPLogitsWarper(params.top_p)(torch.empty(0), logits_RV)  # type: ignore[arg-type]
    uniforms_R = torch.from_numpy(uniforms(seeds, places)).to(logits_RV.device)
    return _invert(logits_RV.softmax(-1), uniforms_R)


def _invert(probabilities_RV: Tensor, uniforms_R: Tensor) -> Tensor:
    """The first token at which the cumulative distribution exceeds the uniform number.

    In two steps, over blocks and inside one, so that only few numbers are summed in float64.
    """
    rows, size = probabilities_RV.shape
    padded = torch.nn.functional.pad(probabilities_RV, (0, -size % _BLOCK)).view(rows, -1, _BLOCK)
    blocks = padded.sum(-1).double().cumsum(-1)
    _refuse_unless(blocks[:, -1].isfinite().all())
    target_R1 = (uniforms_R * blocks[:, -1]).unsqueeze(1)
    block_R1 = torch.searchsorted(blocks, target_R1, right=True).clamp(max=blocks.shape[1] - 1)
    before_R1 = torch.where(block_R1 > 0, blocks.gather(1, (block_R1 - 1).clamp(min=0)), 0.0)
    inside = padded[torch.arange(rows, device=padded.device), block_R1[:, 0]].double()
    within = inside.cumsum(-1)
    place_R1 = torch.searchsorted(within, target_R1 - before_R1, right=True)
    # rounding may leave the target just behind the last possible token of the block
    last_R1 = _BLOCK - 1 - (inside > 0).flip(-1).int().argmax(-1, keepdim=True)
    return (block_R1 * _BLOCK + torch.minimum(place_R1, last_R1)).squeeze(1)


def _refuse_unless(finite: Tensor) -> None:
    if not finite:
        raise NotFiniteError(
            "the model's logits are not finite: it gives no probabilities to draw from. Its weights are "
            "broken, or overflow in this dtype (set dtype: float32 or bfloat16)"
        )


def uniforms(seeds: Sequence[int], places: Sequence[int]) -> np.ndarray:
    """float64 in [0, 1): a number for each (seed, place), by the finaliser of SplitMix64 applied twice
    (Steele et al. 2014)."""
    mixed = _mix(np.array([seed & (2**64 - 1) for seed in seeds], np.uint64))
    mixed = _mix(mixed + np.array(places, np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
