"""Attention of packed rows where no varlen kernel is at hand (CPU): each document attends to itself alone.

`attn_implementation: documents`, for `packing: true` and `padding_free: true`. With sdpa, transformers masks
the whole packed row, which costs (tokens of the row)^2; here it costs the sum of (tokens of a document)^2, as
with FlashAttention's varlen kernel on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "documents"


def document_attention(
    module: torch.nn.Module,
    query_BHTD: torch.Tensor,
    key_BGTD: torch.Tensor,
    value_BGTD: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within [cu_seq_lens_q[i], cu_seq_lens_q[i + 1]); output (B, T, H, D).

    B is 1, H query heads, G key heads (G divides H), T tokens, D head dimension.

    Raises:
        ValueError: the batch is not packed.
    """
    if cu_seq_lens_q is None or query_BHTD.shape[0] != 1:
        raise ValueError("attn_implementation: documents needs `packing: true` or `padding_free: true`")
    lengths = cu_seq_lens_q.diff().tolist()
    parts = [
        scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True
        )
        for query, key, value in zip(
            *(tensor.split(lengths, dim=2) for tensor in (query_BHTD, key_BGTD, value_BGTD)), strict=True
        )
    ]
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, document_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
