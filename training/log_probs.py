"""Log-probabilities of completions without padding: the rows of a micro-batch as one packed row.

Where the attention can do it (`attn_implementation: documents`), completions of one prompt share its forward
pass. The last token of a completion predicts nothing and is left out; the last token of the prompt, which
predicts the first one, begins every completion's own part. Suffixes: B rows, T tokens of a padded row, C
completion tokens of a padded row, N tokens of the packed row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.chat import IGNORED
from training.document_attention import NAME, Branches


def is_packable(attention: str | None) -> bool:
    """Whether a model with this `attn_implementation` keeps the documents of a packed row apart."""
    return attention == NAME or "flash" in (attention or "")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A micro-batch as one row, and how to get back."""

    inputs: dict[str, Any]
    """What the model takes: input_ids, position_ids and shift_labels of shape (1, N), and where documents
    are."""
    order: list[int]
    """Rows in the order in which their completions stand in the packed row."""
    mask: Tensor
    """(B, C): completion tokens, right-padded."""

    def unpack(self, values_1N: Tensor) -> Tensor:
        """Values of the completion tokens, (B, C), 0 elsewhere. Differentiable, also where there are none."""
        chosen = values_1N[0][self.inputs["shift_labels"][0] != IGNORED]
        mask_BC = self.mask[self.order]
        sorted_BC = chosen.new_zeros(mask_BC.shape).masked_scatter(mask_BC, chosen)
        back_B = torch.empty(len(self.order), dtype=torch.long, device=chosen.device)
        back_B[self.order] = torch.arange(len(self.order), device=chosen.device)
        return sorted_BC[back_B]


def pack(ids_BT: Tensor, mask_BT: Tensor, completion_tokens: int, attention: str) -> Packed:
    """Pack left-padded prompts with right-padded completions.

    Args:
        completion_tokens: C, the last so many places of a row; a completion may have none.
        attention: the model's `attn_implementation`, for which `is_packable` holds.
    """
    device, split = ids_BT.device, ids_BT.shape[1] - completion_tokens
    completions = mask_BT[:, split:].bool()
    ids_BT, mask_BT = ids_BT.cpu(), mask_BT.cpu()
    lengths_B = mask_BT[:, split:].sum(1).tolist()
    prompts_B = [ids[mask.bool()] for ids, mask in zip(ids_BT[:, :split], mask_BT[:, :split], strict=True)]
    completions_B = [ids[:length] for ids, length in zip(ids_BT[:, split:], lengths_B, strict=True)]
    together: dict[Any, list[int]] = {}
    for row, prompt in enumerate(prompts_B):
        together.setdefault(tuple(prompt.tolist()) if attention == NAME else row, []).append(row)

    ids, positions, labels, stretches = [], [], [], []
    for rows in together.values():
        prompt = prompts_B[rows[0]]
        shared = len(prompt) - 1
        whole = [row for row in rows if lengths_B[row]]
        start = stretches[-1].end if stretches else 0
        # a row without completion tokens is still forwarded: every process must take part
        stretches.append(
            Branches(
                start=start,
                shared=shared,
                lengths=tuple(lengths_B[row] for row in whole) or (1,),
                device=device,
            )
        )
        ids += [prompt[:-1]]
        for row in whole:
            ids += [prompt[-1:], completions_B[row][:-1]]
            labels += [prompt.new_full((shared,), IGNORED)] if row == whole[0] else []
            labels += [completions_B[row]]
        if not whole:
            ids += [prompt[-1:]]
            labels += [prompt.new_full((shared + 1,), IGNORED)]
        positions += [torch.arange(shared)]
        positions += [torch.arange(shared, shared + length) for length in stretches[-1].lengths]
    inputs = {
        "input_ids": torch.cat(ids).unsqueeze(0).to(device),
        "position_ids": torch.cat(positions).unsqueeze(0).to(device),
        "shift_labels": torch.cat(labels).unsqueeze(0).to(device),
        **_documents(stretches, attention),
    }
    order = [row for rows in together.values() for row in rows]
    return Packed(inputs=inputs, order=order, mask=completions)


def _documents(stretches: list[Branches], attention: str) -> dict[str, Any]:
    """How the attention is told where documents are."""
    if attention == NAME:
        return {"branches": stretches}
    ends = torch.tensor([0, *(stretch.end for stretch in stretches)], dtype=torch.int32)
    longest = int(ends.diff().max())
    ends = ends.to(stretches[0].device)
    return {
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
    }
