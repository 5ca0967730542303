"""Keys and values of many sequences of different lengths, in place: a transformers cache made of slots.

Each sequence owns one slot. What a layer attends to is a view of its tensors where the rows of a pass lie in
slots that follow each other, so that no step copies them. (`DynamicCache` copies everything at every token
and pads all rows to the longest.) Suffixes: R rows, T tokens, H heads, W width of the attended part, D size
of a head, N parts of slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ROUND = 64  # slots grow, and attention is cut off, at multiples of this many tokens
ATTENTION = "slots"

Part = tuple[int, int]
"""A slot, and the number of a part of it where slots are cut into parts of one size."""


def rounded(tokens: int) -> int:
    """The next multiple of ROUND."""
    return -(-tokens // ROUND) * ROUND


def is_out_of_memory(error: Exception) -> bool:
    """Whether that is what the device or the machine reports."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class _Layer(CacheLayerMixin):
    """Tensors of shape (slots, H, capacity, D); `update` writes the rows that `SlotCache.at` has named."""

    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = self._room(key_states), self._room(value_states)
        self.is_initialized = True

    def _room(self, states: Tensor) -> Tensor:
        shape = (self.cache.slots, states.shape[1], self.cache.capacity, states.shape[3])
        return states.new_zeros(shape)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        where = self.cache.where
        self.keys[where.slots_R1, :, where.positions_RT] = key_states.transpose(1, 2)
        self.values[where.slots_R1, :, where.positions_RT] = value_states.transpose(1, 2)
        return self.keys[where.rows, :, : where.width], self.values[where.rows, :, : where.width]

    def resize(self) -> None:
        """Take the size that the cache now has; what fits stays."""
        if self.is_initialized:
            self.keys, self.values = self._resized(self.keys), self._resized(self.values)

    def _resized(self, old: Any) -> Tensor:
        new = self._room(old)
        slots, capacity = min(old.shape[0], new.shape[0]), min(old.shape[2], new.shape[2])
        new[:slots, :, :capacity] = old[:slots, :, :capacity]
        return new

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of a slot into another one."""
        for states in (self.keys, self.values):
            if states is not None:
                states[target, :, :length] = states[source, :, :length]

    def copy_parts(self, source: _Layer, size: int, from_N2: Tensor, to_N2: Tensor) -> None:
        """See `SlotCache.copy_parts`."""
        if not source.is_initialized:
            return
        if not self.is_initialized:
            self.lazy_initialization(source.keys, source.values)  # type: ignore[arg-type]
        for old, new in ((source.keys, self.keys), (source.values, self.values)):
            assert old is not None
            assert new is not None
            old_parts, new_parts = old.unflatten(2, (-1, size)), new.unflatten(2, (-1, size))
            new_parts[to_N2[:, 0], :, to_N2[:, 1]] = old_parts[from_N2[:, 0], :, from_N2[:, 1]]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.where.width, 0

    def get_seq_length(self) -> int:
        return 0  # rows have lengths of their own: positions are always given

    def get_max_length(self) -> int:
        return -1


class _Where:
    """The rows and positions that the next forward pass writes."""

    def __init__(self, slots: Sequence[int], positions_RT: Tensor, width: int) -> None:
        self.positions_RT = positions_RT
        self.width = width
        self.slots_R1 = torch.tensor(slots, dtype=torch.long, device=positions_RT.device).unsqueeze(1)
        first = slots[0] if slots else 0
        together = list(slots) == list(range(first, first + len(slots)))
        self.rows = slice(first, first + len(slots)) if together else self.slots_R1[:, 0]


class SlotCache(Cache):
    """A cache with `slots` sequences of up to `capacity` tokens each; both may change between passes."""

    def __init__(self, layers: int) -> None:
        self.slots = self.capacity = 0
        self.where = _Where((), torch.zeros(0, 1, dtype=torch.long), 0)
        self.parts = [_Layer(self) for _ in range(layers)]
        super().__init__(layers=list(self.parts))

    def resize(self, slots: int, capacity: int) -> None:
        """Make room; rows and tokens beyond the new size are lost. One layer at a time exists twice."""
        if (slots, capacity) != (self.slots, self.capacity):
            self.slots, self.capacity = slots, capacity
            for layer in self.parts:
                layer.resize()

    def at(self, first: int, positions_RT: Tensor) -> None:
        """The next forward pass has rows from slot `first` on, at these positions."""
        self.at_slots(range(first, first + len(positions_RT)), positions_RT)

    def at_slots(self, slots: Sequence[int], positions_RT: Tensor) -> None:
        """The next forward pass has one row in each of these slots, at these positions."""
        longest = int(positions_RT[:, -1].max()) + 1
        assert longest <= self.capacity, (longest, self.capacity)
        self.where = _Where(slots, positions_RT, min(self.capacity, rounded(longest)))

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first tokens of a slot into another one."""
        for layer in self.parts:
            layer.copy(source, target, length)

    def copy_parts(self, source: SlotCache, size: int, pairs: Sequence[tuple[Part, Part]]) -> None:
        """Copy parts of `size` tokens of another cache's slots, (from, to) of each: one copy per layer.

        Args:
            size: the capacities of both caches are multiples of it.
        """
        device = next((layer.keys.device for layer in source.parts if layer.keys is not None), None)
        if pairs and device is not None:
            from_N2, to_N2 = torch.tensor(pairs, device=device).unbind(1)
            for old, new in zip(source.parts, self.parts, strict=True):
                new.copy_parts(old, size, from_N2, to_N2)

    def mask(self, windows: dict[str, int | None]) -> Tensor | dict[str, Tensor]:
        """Booleans of shape (R, 1, T, W): what each token attends to; by type of layer where there are
        several, each with its window (None: everything before)."""
        where = self.where
        positions = where.positions_RT[:, None, :, None]
        keys = torch.arange(where.width, device=positions.device)
        causal = keys <= positions
        masks = {
            kind: causal if window is None else causal & (keys > positions - window)
            for kind, window in windows.items()
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """The model as it runs on slots, without dropout; it is left as it was."""
    attention, training = model.config._attn_implementation, model.training
    model.set_attn_implementation(ATTENTION)
    model.eval()
    try:
        yield
    finally:
        model.set_attn_implementation(attention)
        model.train(training)


def grouped_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' sdpa attention, but for one token a row and several query heads to a key head.

    There the heads of a group stand as its queries, so that keys and values need not be repeated (which
    copies them at every step).
    """
    rows, heads, tokens, size = query.shape
    key_heads = key.shape[1]
    plain = options.get("position_bias") is None and options.get("s_aux") is None
    if tokens > 1 or heads == key_heads or not plain or attention_mask is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    attended = torch.nn.functional.scaled_dot_product_attention(
        query.view(rows, key_heads, heads // key_heads, size),
        key,
        value,
        attn_mask=attention_mask,
        scale=options.get("scaling"),
    )
    return attended.reshape(rows, 1, heads, value.shape[3]), None


AttentionInterface.register(ATTENTION, grouped_attention)
