"""Keys and values of finished sequences, for those that begin alike later on.

They are kept in blocks of a few tokens that make a tree, so that what many sequences begin with is there
once. A block is found by its tokens behind those of its parent (vLLM's automatic prefix caching does that
with hashes, and with full blocks alone).
"""

from __future__ import annotations

import logging
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.prefixes import nearest
from inference.slot_cache import Part, SlotCache, is_out_of_memory

logger = logging.getLogger(__name__)

BLOCK = 16
"""Tokens of a full block; what slots grow by is a multiple of it."""


@dataclass(eq=False, slots=True)
class Block:
    """Tokens behind those of its parent, whose keys and values are kept."""

    slot: int
    ids: tuple[int, ...]
    """BLOCK of them, or less where nothing goes on behind."""
    parent: Block | None = field(default=None, repr=False)
    children: list[Block] = field(default_factory=list, repr=False)
    """Sorted by their ids; none of them begins another."""
    full: dict[tuple[int, ...], Block] = field(default_factory=dict, repr=False)
    """The children of BLOCK tokens by their ids."""
    needed: int = 0
    """How many sequences that have not begun yet go on from here."""


class PrefixCache:
    """A bounded store; the blocks that were not used for longest go first, each after those behind it.

    Args:
        layers: of the model.
        max_tokens: bound of slots times capacity, the tokens whose keys and values are in memory.
    """

    def __init__(self, layers: int, max_tokens: int) -> None:
        self.layers = layers
        self.max_tokens = max_tokens
        self.cache = SlotCache(layers)
        self.forget()

    def forget(self) -> None:
        """Free everything."""
        self.cache.resize(0, 0)  # a cache and its layers know each other: dropping it frees nothing at once
        self.cache = SlotCache(self.layers)
        self.root = Block(-1, ())
        self.blocks: OrderedDict[Block, None] = OrderedDict()
        """From the one that was not used for longest; every block stands before its parent."""
        self.free: list[int] = []

    def give_way(self, error: str) -> None:
        """Free everything, and keep half as much from now on: memory is short."""
        logger.warning(
            "out of memory with %d tokens of prefixes kept, from now on at most %d are (%s)",
            self.cache.slots * self.cache.capacity,
            self.max_tokens // 2,
            error,
        )
        self.max_tokens //= 2
        self.forget()

    # -------------------------------------------------------------- sequences that begin

    def find(self, ids: Sequence[int]) -> tuple[list[Block], int]:
        """The blocks that a sequence can begin with, and how many of its tokens they hold: all but the last
        one at most."""
        known = tuple(ids[:-1])
        path: list[Block] = []
        node, shared = self.root, 0
        while shared < len(known) and shared == len(path) * BLOCK:
            chunk = known[shared : shared + BLOCK]
            child, same = node.full.get(chunk), BLOCK
            if child is None and node.children:
                child, same = nearest(node.children, chunk)
            if child is None:
                break
            path.append(child)
            node, shared = child, shared + same
        self._touch(path)
        return path, shared

    def need(self, ids: Sequence[int]) -> Block | None:
        """Keep what a sequence can begin with until it is released."""
        path, _ = self.find(ids)
        if not path:
            return None
        path[-1].needed += 1
        return path[-1]

    def give(self, target: SlotCache, paths: Sequence[tuple[int, Sequence[Block]]]) -> None:
        """Copy blocks to the start of slots of another cache; (slot, its blocks) of each."""
        pairs = [((block.slot, 0), (slot, i)) for slot, path in paths for i, block in enumerate(path)]
        target.copy_parts(self.cache, BLOCK, pairs)

    # -------------------------------------------------------------- sequences that are finished

    def keep(self, source: SlotCache, sequences: Sequence[tuple[int, Sequence[int]]]) -> None:
        """Take over from slots of another cache what is new, as far as there is room.

        Args:
            sequences: (slot, the tokens whose keys and values it has) of each.
        """
        parts: dict[int, Part] = {}  # by slot here; a later block may take the slot of one before
        try:
            for slot, ids in sequences:
                parts.update({block.slot: (slot, i) for i, block in self._add(tuple(ids))})
            self.cache.copy_parts(source, BLOCK, [(part, (slot, 0)) for slot, part in parts.items()])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            why = str(error)  # the error itself would keep the tensors
        else:
            return
        self.give_way(why)

    def _add(self, ids: tuple[int, ...]) -> list[tuple[int, Block]]:
        """Blocks for a sequence; the place and block of those whose keys and values are missing."""
        path: list[Block] = []
        missing: list[tuple[int, Block]] = []
        node = self.root
        for i, start in enumerate(range(0, len(ids), BLOCK)):
            chunk = ids[start : start + BLOCK]
            child, same = node.full.get(chunk), len(chunk)
            if child is None and node.children:
                child, same = nearest(node.children, chunk)
            if child is not None and same == len(child.ids) < len(chunk):
                child.ids = chunk  # it stays where it is: no other child begins with its tokens
                missing.append((i, child))
            elif child is None or same < len(chunk):
                child = self._new(node, chunk)
                if child is None:
                    break
                missing.append((i, child))
            if len(chunk) == BLOCK:
                node.full[chunk] = child
            self.blocks.move_to_end(child)
            path.append(child)
            node = child
        self._touch(path)
        return missing

    def _new(self, parent: Block, ids: tuple[int, ...]) -> Block | None:
        """A block behind `parent`, unless there is no room."""
        if not self.free:
            self._grow()
        if not self.free:
            oldest = next(iter(self.blocks), None)
            if oldest is None or oldest is parent or oldest.children or oldest.needed:
                return None
            self._drop(oldest)
        block = Block(self.free.pop(), ids, parent)
        insort(parent.children, block, key=lambda child: child.ids)
        self.blocks[block] = None
        return block

    def _drop(self, block: Block) -> None:
        """Forget a block that nothing goes on from."""
        parent = block.parent
        assert parent is not None
        assert not block.children
        parent.children.pop(bisect_left(parent.children, block.ids, key=lambda child: child.ids))
        parent.full.pop(block.ids, None)
        del self.blocks[block]
        self.free.append(block.slot)

    def _touch(self, path: Sequence[Block]) -> None:
        for block in reversed(path):
            self.blocks.move_to_end(block)

    def _grow(self) -> None:
        """More free slots, as far as the bound allows."""
        now = self.cache.slots
        slots = min(self.max_tokens // BLOCK, max(64, 2 * now))
        if slots > now:
            self.cache.resize(slots, BLOCK)
            self.free += range(slots - 1, now - 1, -1)
