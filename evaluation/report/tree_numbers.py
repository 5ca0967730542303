"""Numbers of search trees in words, the same in a terminal and on a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from evaluation.report.tree_nodes import SearchTree, TreeNode

LEVELS = 20
_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def number(value: float) -> str:
    """A score or a sum of scores with three decimals, large ones in five digits; "-" where there is none."""
    if not math.isfinite(value):
        return "-"
    return f"{value or 0.0:.3f}" if abs(value) < 1000 else f"{value:.5g}"


def amount(value: float, unit: str = "") -> str:
    """A large number in three digits with a prefix, such as "12.3 T"; "-" where it is not known."""
    if not math.isfinite(value):
        return "-"
    place = 0
    while abs(value) >= 999.5 and place < len(_PREFIXES) - 1:
        value, place = value / 1000, place + 1
    return f"{value:.3g} {_PREFIXES[place]}{unit}".strip()


def seconds(value: float) -> str:
    """A duration: 36 ms, 0.9 s, 2.5 min; "-" where it is not known."""
    if not math.isfinite(value):
        return "-"
    if 0 < value < 0.1:
        return f"{1000 * value:.2g} ms"
    return f"{value:.1f} s" if value < 60 else f"{value / 60:,.1f} min"


def plural(count: int, noun: str, several: str = "") -> str:
    """Such as "1 node" or "2,000 nodes"."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def level(score: float, tree: SearchTree) -> int:
    """0 to LEVELS: how much of a score's bar is filled."""
    low, high = tree.scale
    share = (score - low) / (high - low) if high > low else 1.0
    return round(min(1.0, max(0.0, share)) * LEVELS)


def fate(node: TreeNode) -> str:
    """What became of a node that is no candidate; empty where it goes on."""
    if node.candidates:
        return ""
    ends = {"stop": "ended, not a candidate", "length": "out of tokens"}
    return "pruned" if node.pruned else ends.get(node.end, "")


def census(siblings: Iterable[TreeNode]) -> str:
    """How many siblings there are, copies too, and what became of them."""
    counts: Counter[str] = Counter()
    for node in (one for sibling in siblings for one in (sibling, *sibling.copies)):
        counts["candidate" if node.candidates else "went on" if node.children else fate(node)] += 1
    parts = [
        plural(count, what) if what == "candidate" else f"{count:,} {what}" for what, count in counts.items()
    ]
    return f"{plural(counts.total(), 'sibling')}: {', '.join(parts)}"
