"""Attention of packed rows where no varlen kernel is at hand (CPU): each document attends to itself alone.

`attn_implementation: documents`, for SFT with `packing: true` or `padding_free: true` and for GRPO. With
sdpa, transformers masks the whole packed row, which costs (tokens of the row)^2; here it costs the sum of
(tokens of a document)^2, as with FlashAttention's varlen kernel on a GPU. GRPO moreover puts a prompt before
all its completions and forwards it once: they are its branches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "documents"


@dataclass(frozen=True, kw_only=True)
class Branches:
    """A stretch of a packed row: shared tokens, then the branches that go on from them, one after the other.

    Suffixes: G branches, C tokens of the longest one, K keys that a branch attends to.
    """

    start: int
    """Place of the first shared token."""
    shared: int
    """How many tokens are shared; may be 0."""
    lengths: tuple[int, ...]
    """Tokens of each branch, 1 or more."""
    device: torch.device

    @property
    def end(self) -> int:
        return self.start + self.shared + sum(self.lengths)

    @cached_property
    def real(self) -> torch.Tensor:
        """(G, C): which places of the padded branches are tokens."""
        lengths = torch.tensor(self.lengths, device=self.device)
        return torch.arange(max(self.lengths), device=self.device) < lengths.unsqueeze(1)

    @cached_property
    def places(self) -> torch.Tensor:
        """(G, C): where in the row the tokens of each branch are; padding is the branch's first token."""
        lengths = torch.tensor(self.lengths, device=self.device)
        first_G1 = (self.start + self.shared + lengths.cumsum(0) - lengths).unsqueeze(1)
        return torch.where(self.real, first_G1 + torch.arange(self.real.shape[1]).to(self.device), first_G1)

    @cached_property
    def mask(self) -> torch.Tensor:
        """(C, K): what a token of a branch attends to: all shared tokens and its branch up to itself."""
        tokens = self.real.shape[1]
        places = torch.arange(tokens, device=self.device)
        return torch.arange(self.shared + tokens, device=self.device) <= self.shared + places.unsqueeze(1)


def document_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BGTD: torch.Tensor,
    value_BGTD: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    branches: Sequence[Branches] | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within [cu_seq_lens_q[i], cu_seq_lens_q[i + 1]), or of `branches`; (B, T, H, D).

    B is 1, H query heads, G key heads (G divides H), T tokens, D head dimension.

    Raises:
        ValueError: the batch is not packed, or the layer's attention is not plain causal attention.
    """
    states = query_BHTD, key_BGTD, value_BGTD
    how: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "enable_gqa": True}
    if (cu_seq_lens_q is None and branches is None) or query_BHTD.shape[0] != 1:
        raise ValueError("attn_implementation: documents needs `packing: true` or `padding_free: true`")
    if (
        options.get("softcap")
        or options.get("s_aux") is not None
        or _exceeds(sliding_window, cu_seq_lens_q, branches)
    ):
        raise ValueError(
            "attn_implementation: documents runs plain causal attention only, and this model has a "
            "sliding window, soft-capping or sinks; use sdpa or flash_attention_2"
        )
    if branches is not None:
        parts = [part for stretch in branches for part in _attend(states, stretch, how)]
        return torch.cat(parts).unsqueeze(0), None
    assert cu_seq_lens_q is not None
    lengths = cu_seq_lens_q.diff().tolist()
    documents = zip(*(tensor.split(lengths, dim=2) for tensor in states), strict=True)
    parts = [scaled_dot_product_attention(*document, is_causal=True, **how) for document in documents]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


def _attend(states: Sequence[torch.Tensor], stretch: Branches, how: dict[str, Any]) -> list[torch.Tensor]:
    """Attention of the shared tokens and of the branches, both of shape (tokens, H, D)."""
    end = stretch.start + stretch.shared
    query, key, value = (tensor[:, :, stretch.start : end] for tensor in states)
    outputs = []
    if stretch.shared:
        attended = scaled_dot_product_attention(query, key, value, is_causal=True, **how)
        outputs.append(attended[0].transpose(0, 1))
    own = [tensor[0, :, stretch.places].transpose(0, 1) for tensor in states]
    keys, values = (
        torch.cat([before.expand(len(behind), -1, -1, -1), behind], dim=2)
        for before, behind in ((key, own[1]), (value, own[2]))
    )
    attended = _masked(own[0], keys, values, stretch.mask, how, grouped=not own[0].is_cuda)
    return [*outputs, attended.transpose(1, 2)[stretch.real]]


def _masked(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    how: dict[str, Any],
    *,
    grouped: bool,
) -> torch.Tensor:
    """Attention under a mask. On CUDA the one kernel that takes a mask and does not write down all scores
    wants as many heads of keys as of queries (torch: `scaled_dot_product_attention`, `enable_gqa`)."""
    if not grouped:
        times = query.shape[1] // key.shape[1]
        key, value = (tensor.repeat_interleave(times, dim=1) for tensor in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, **{**how, "enable_gqa": grouped})


def _exceeds(
    window: int | None, cu_seq_lens: torch.Tensor | None, branches: Sequence[Branches] | None
) -> bool:
    """Whether a token is so far from another one of its document that the window would hide it."""
    if window is None:
        return False
    if branches is not None:
        return max(stretch.shared + max(stretch.lengths) for stretch in branches) > window
    return cu_seq_lens is not None and int(cu_seq_lens.diff().max()) > window


AttentionInterface.register(NAME, document_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
