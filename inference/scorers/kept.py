"""Keys and values of the branches that a scorer has judged, within a bound of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from inference.prefixes import nearest
from inference.scorers.branches import Branch, Slot, plan
from inference.slot_cache import SlotCache, rounded


class KeptBranches:
    """A slot for each branch; the ones that were not used for longest go first when there is no room.

    Args:
        layers: of the model.
        max_tokens: bound of slots times capacity, the tokens whose keys and values are in memory.
    """

    def __init__(self, layers: int, max_tokens: int) -> None:
        self.layers = layers
        self.max_tokens = max_tokens
        self.calls = 0
        self.forget()

    def forget(self) -> None:
        """Free everything."""
        self.cache = SlotCache(self.layers)
        self.slots: list[Slot] = []

    def recall(self, branches: Sequence[Branch]) -> None:
        """A new call: find the scores that are known, and keep what it needs to the last."""
        self.calls += 1
        slots = self._sorted()
        for branch in branches:
            slot, shared = nearest(slots, branch.ids)
            if slot is not None:
                slot.used = self.calls
                branch.recall(slot, shared)

    def groups(self, branches: Sequence[Branch]) -> Iterator[list[Branch]]:
        """The branches in parts that have room at the same time."""
        group: list[Branch] = []
        for branch in branches:
            if group and (len(group) + 1) * _capacity([*group, branch]) > self.max_tokens:
                yield group
                group = []
            group.append(branch)
        if group:
            yield group

    def waves(self, branches: Sequence[Branch]) -> Iterator[list[Branch]]:
        """The branches of a group, sorted by ids, in the order in which they can be computed; each in a slot
        that has what is computed already."""
        plan(branches, self._sorted())
        self._place(branches)
        for number in range(max(branch.wave for branch in branches) + 1):
            wave = [branch for branch in branches if branch.wave == number]
            for branch in sorted(wave, key=lambda branch: branch.slot is branch.source):
                self._begin(branch)
            yield wave

    # -------------------------------------------------------------- slots

    def _sorted(self) -> list[Slot]:
        return sorted(self.slots, key=lambda slot: slot.ids)

    def _begin(self, branch: Branch) -> None:
        """Copy what is computed into the branch's slot; from its first unknown score on it is computed."""
        source = branch.source.slot if isinstance(branch.source, Branch) else branch.source
        if source is not None:
            branch.recall(source, branch.shared)
            start = min(branch.shared, branch.first_unknown)
            if source is not branch.slot:
                self.cache.copy(source.index, branch.slot.index, start)
            branch.slot.ids = branch.ids[:start]
            branch.slot.scores = {end: score for end, score in branch.scores.items() if end < start}

    def _place(self, branches: Sequence[Branch]) -> None:
        """Give each branch a slot: that of its source where it goes on from its end, else a free one.

        Without room, slots that no branch begins with are dropped, and at last each source is cut to what is
        shared with one of its branches.
        """
        heirs: dict[Slot, Branch] = {}
        for branch in sorted(branches, key=lambda branch: branch.shared):
            if isinstance(branch.source, Slot):
                heirs[branch.source] = branch
        taken = {slot: heir for slot, heir in heirs.items() if heir.shared == len(slot.ids)}
        others = sorted((slot for slot in self.slots if slot not in heirs), key=lambda slot: slot.used)
        while not self._fits(branches, taken) and others:
            self.slots.remove(others.pop(0))
        if not self._fits(branches, taken):
            taken = heirs
            for slot, heir in heirs.items():
                slot.ids = slot.ids[: heir.shared]
        self._resize(len(self.slots) + len(branches) - len(taken), _capacity([*self.slots, *branches]))
        for slot, heir in taken.items():
            heir.slot = slot
        placed = set(taken.values())
        free = sorted(set(range(self.cache.slots)) - {slot.index for slot in self.slots}, reverse=True)
        for branch in branches:
            if branch not in placed:
                branch.slot = Slot(free.pop())
                self.slots.append(branch.slot)
            branch.slot.used = self.calls

    def _fits(self, branches: Sequence[Branch], taken: dict[Slot, Branch]) -> bool:
        slots = len(self.slots) + len(branches) - len(taken)
        return slots * _capacity([*self.slots, *branches]) <= self.max_tokens

    def _resize(self, slots: int, capacity: int) -> None:
        """Room for at least that much, and for more where it has to grow anyway."""
        now = self.cache
        if capacity <= now.capacity and slots * now.capacity <= self.max_tokens:
            capacity = now.capacity
        elif capacity > now.capacity and 2 * slots * now.capacity <= self.max_tokens:
            capacity = max(capacity, 2 * now.capacity)
        most = self.max_tokens // capacity
        slots = min(most, max(slots, now.slots if slots <= now.slots else 2 * now.slots))
        free = iter(sorted(set(range(slots)) - {slot.index for slot in self.slots}))
        for slot in self.slots:
            if slot.index >= slots:
                target = next(free)
                now.copy(slot.index, target, len(slot.ids))
                slot.index = target
        now.resize(slots, capacity)


def _capacity(holders: Sequence[Branch | Slot]) -> int:
    """Tokens of a slot that each of them fits into, with one to spare for padding."""
    return rounded(max((len(holder.ids) for holder in holders), default=0) + 1)
