"""Solutions as branches of token ids: which of them begin alike, and what is to be computed for each.

Everything here is about ids alone; keys and values are in `inference.scorers.kept`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from data.step_formats import StepIds
from inference.prefixes import nearest, shared_tokens


@dataclass(eq=False)
class Slot:
    """A branch whose keys and values are kept."""

    index: int
    """Of the slot in the cache."""
    ids: list[int] = field(default_factory=list)
    """The tokens that are computed."""
    scores: dict[int, float] = field(default_factory=dict)
    """By index in `ids`, where the branch was judged."""
    used: int = 0
    """The call that used it last."""


@dataclass(eq=False)
class Branch:
    """Token ids up to the last step, to be judged at some of them."""

    ids: list[int]
    ends: set[int]
    scores: dict[int, float] = field(default_factory=dict)
    """Of the ends that are judged already."""
    source: Slot | Branch | None = None
    """Who has its first tokens: a kept slot, or a branch of the same call."""
    shared: int = 0
    """How many those are."""
    wave: int = 0
    """Branches of a wave are computed together, behind their sources."""
    slot: Slot = field(default_factory=lambda: Slot(-1))

    @property
    def first_unknown(self) -> int:
        """The first end that is not judged; the number of tokens where all are."""
        return min(self.ends - self.scores.keys(), default=len(self.ids))

    @property
    def behind(self) -> int:
        """Tokens that are not computed."""
        return len(self.ids) - len(self.slot.ids)

    def recall(self, source: Slot, shared: int) -> None:
        """Take over the scores of a source that begins with the same `shared` tokens."""
        known = self.ends & source.scores.keys()
        self.scores.update({end: source.scores[end] for end in known if end < shared})


def branches_of(encoded: Sequence[StepIds]) -> list[Branch]:
    """The branch of each solution: one for those that are alike, or of which one begins the other."""
    ids = [steps.ids[: steps.ends[-1] + 1] if steps.ends else [] for steps in encoded]
    found: list[Branch] = [Branch([], set())] * len(ids)
    last = Branch([], set())
    for i in sorted(range(len(ids)), key=lambda i: ids[i], reverse=True):
        if last.ids[: len(ids[i])] != ids[i]:
            last = Branch(ids[i], set())
        last.ends.update(encoded[i].ends)
        found[i] = last
    return found


def plan(branches: Sequence[Branch], slots: Sequence[Slot]) -> None:
    """Say of each branch where its first tokens come from; what several begin with is computed once.

    Args:
        branches: sorted by their ids; none of them begins another.
        slots: sorted by their ids.
    """
    common = [0, *(shared_tokens(left.ids, right.ids) for left, right in pairwise(branches))]
    for i, branch in enumerate(branches):
        branch.wave = 0
        branch.source, branch.shared = nearest(slots, branch.ids)
        if common[i] > branch.shared:
            first = i - 1
            while common[first] >= common[i]:
                first -= 1
            sibling = min(branches[first:i], key=lambda other: other.wave)
            branch.source, branch.shared, branch.wave = sibling, common[i], sibling.wave + 1
