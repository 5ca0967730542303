"""Which sequences of token ids begin alike."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar


class HasIds(Protocol):
    """Something that stands for token ids."""

    @property
    def ids(self) -> Any: ...


Holder = TypeVar("Holder", bound=HasIds)


def shared_tokens(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the longest common prefix; both are lists, or both tuples."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def nearest(holders: Sequence[Holder], ids: Sequence[int]) -> tuple[Holder | None, int]:
    """The holder that shares the longest prefix with `ids`, and its length.

    Args:
        holders: sorted by their ids, which are lists or tuples as `ids` is.
    """
    place = bisect(holders, ids, key=lambda holder: holder.ids)
    beside = holders[max(0, place - 1) : place + 1]
    pairs = [(shared_tokens(holder.ids, ids), holder) for holder in beside]
    shared, holder = max(pairs, key=lambda pair: pair[0], default=(0, None))
    return (holder, shared) if shared else (None, 0)
