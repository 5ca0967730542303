"""`trl.GRPOTrainer` whose forward passes leave out what has no part in the loss.

Rows are packed instead of padded and each prompt is forwarded once for its completions, where the attention
can keep them apart; rows without gradient are not forwarded at all. Losses are TRL's and get the same values.
Suffixes: B rows of a micro-batch, T tokens of a padded row, C completion tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer

from data.heartbeat import beat
from training.log_probs import is_packable, pack

REHEARSED_STEPS = 2
"""Optimizer steps that run at full length: from the second one on the optimizer has its states."""


class PackedGRPOTrainer(GRPOTrainer):
    """Arguments are those of `trl.GRPOTrainer`."""

    # what the type checker does not know of these
    args: Any
    model: Any
    accelerator: Any
    model_wrapped: Any
    num_generations: int
    num_generations_eval: int
    max_completion_length: int

    longest_row: int | None = None
    """Tokens of the longest prompt with the longest completion. If set, the first steps run at this length,
    so that a lack of memory shows at once and not hours later; their results are the same."""
    _begun: int | None = None
    """Optimizer step at which this process began."""
    _skipping: tuple[Tensor, Tensor] | None = None
    """Within `_compute_loss`: the rows that count, and the log-probabilities that stand for all others."""

    @property
    def rehearses(self) -> bool:
        """Whether this step runs at full length."""
        if self._begun is None:
            self._begun = self.state.global_step
        return self.longest_row is not None and self.state.global_step < self._begun + REHEARSED_STEPS

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's loss; a row without advantage or tokens is not forwarded where it has no other part in it."""
        advantages_B, tokens_BC = inputs["advantages"], inputs["completion_mask"]
        if self.model.training and self._only_advantages_count:
            stand_in = inputs.get("old_per_token_logps")
            self._skipping = (
                _rows_that_count(advantages_B, tokens_BC.sum(1)),
                tokens_BC.new_zeros(tokens_BC.shape, dtype=torch.float32) if stand_in is None else stand_in,
            )
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._skipping = None

    @property
    def _only_advantages_count(self) -> bool:
        """Whether a row without advantage has no gradient (no KL, no entropy bonus, no load balancing) and no
        metric of its own (the weights of vespo)."""
        bonus = self._entropy_bonus_enabled or self.aux_loss_enabled or self.loss_type == "vespo"
        return self.beta == 0 and not bonus and self.top_entropy_quantile == 1

    def _get_per_token_logps_and_entropies(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probabilities and entropies, (B, C), of the completion tokens."""
        ids_BT, mask_BT, tokens = input_ids, attention_mask, logits_to_keep
        full = self.rehearses and not options.get("compute_aux_loss")  # which every token has a part in
        if full:
            ids_BT, mask_BT, tokens = self._at_full_length(ids_BT, mask_BT, tokens)
        elif self._skipping is not None:
            ids_BT, mask_BT = ids_BT[self._skipping[0]], mask_BT[self._skipping[0]]
        logprobs_BC, entropies_BC, aux_loss = self._forward(
            model, ids_BT, mask_BT, tokens, batch_size, **options
        )
        logprobs_BC = logprobs_BC[:, :logits_to_keep]
        entropies_BC = None if entropies_BC is None else entropies_BC[:, :logits_to_keep]
        if self._skipping is not None:
            rows, stand_in = self._skipping
            among = rows if full else slice(None)
            logprobs_BC = stand_in.index_copy(0, rows, logprobs_BC[among])
            if entropies_BC is not None:  # so that the logged mean is that of the tokens that count
                mask_BC = attention_mask[rows, -logits_to_keep:]
                mean = (entropies_BC[among].detach() * mask_BC).sum() / mask_BC.sum().clamp(min=1)
                entropies_BC = mean.expand(stand_in.shape).index_copy(0, rows, entropies_BC[among])
        return logprobs_BC, entropies_BC, aux_loss

    def _at_full_length(self, ids_BT: Tensor, mask_BT: Tensor, tokens: int) -> tuple[Tensor, Tensor, int]:
        """Rows with something behind their completions, which these do not see and which has no part in the
        loss."""
        assert self.longest_row is not None
        more = max(0, self.longest_row - ids_BT.shape[1])
        ids_BT = torch.cat(
            [ids_BT, ids_BT[:, -tokens : ids_BT.shape[1] - tokens + 1].expand(-1, more)], dim=1
        )
        mask_BT = torch.cat(
            [mask_BT[:, :-tokens], torch.ones_like(ids_BT[:, mask_BT.shape[1] - tokens :])], dim=1
        )
        return ids_BT, mask_BT, tokens + more

    def _forward(
        self, model: Any, ids_BT: Tensor, mask_BT: Tensor, tokens: int, batch_size: int | None, **options: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        attention = self.accelerator.unwrap_model(model).config._attn_implementation
        if not is_packable(attention) or options.get("compute_aux_loss"):
            return super()._get_per_token_logps_and_entropies(
                model, ids_BT, mask_BT, tokens, batch_size, **options
            )
        size = batch_size or len(ids_BT)
        logprobs, entropies = [], []
        for ids, mask in zip(ids_BT.split(size), mask_BT.split(size), strict=True):
            packed = pack(ids, mask, tokens, attention)
            with self.accelerator.autocast():
                output = model(**packed.inputs, fused_lm_head=True)
            logprobs.append(packed.unpack(output.log_probs))
            beat()
            if options.get("compute_entropy"):
                entropies.append(packed.unpack(output.entropy))
        return torch.cat(logprobs), torch.cat(entropies) if entropies else None, None


def _rows_that_count(advantages_B: Tensor, tokens_B: Tensor) -> Tensor:
    """Rows with advantage and tokens; where there are none, the shortest: every process takes part."""
    rows = (advantages_B.bool() & tokens_B.bool()).nonzero().squeeze(1)
    if len(rows):
        return rows
    return tokens_B.masked_fill(tokens_B == 0, int(tokens_B.max()) + 1).argmin().unsqueeze(0)
