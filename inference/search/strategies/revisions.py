"""Sequential revision by budget forcing, and mixtures of sequential and parallel.

The thinking of a finished completion is opened again with `wait_text` in the place of its end (arXiv
2501.19393 section 3.1), n / chains times in each of `chains` chains: chains 1 is all sequential, chains n all
parallel (the split that arXiv 2408.03314 section 6 studies).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import ClassVar

from inference.search.strategies.strategy import SearchStrategy
from inference.search.tree import Extend, Node, Strategy, Tree, text_behind
from inference.thinking_tokens import end_of_text


@dataclass(frozen=True, kw_only=True)
class Revisions(SearchStrategy):
    """`revisions`: n answers from chains in which each answer is thought over again."""

    chains: int = 1
    """Chains side by side; n is a multiple of it."""
    wait_text: str = "Wait"
    """What takes the place of the end of the thinking."""

    label: ClassVar[str] = "revisions"
    needs_scorer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chains < 1 or self.n % self.chains:
            raise ValueError(f"chains: {self.chains} must divide n: {self.n}")
        if not self.wait_text.strip():
            raise ValueError(f"wait_text: {self.wait_text!r} is blank; give a text such as Wait")

    @property
    def rows(self) -> int:
        return self.chains

    def run(self, tree: Tree) -> Strategy:
        heads = yield [Extend(node=tree.root, count=self.chains, whole=True)]
        answers = list(heads)
        for _ in range(self.n // self.chains - 1):
            reopened = [reopen(tree, head, self.wait_text) for head in heads]
            going_on = [node for node in reopened if node is not None]
            if not going_on:
                break
            heads = yield [Extend(node=node, whole=True) for node in going_on]
            answers += heads
        return answers


def reopen(tree: Tree, head: Node, wait_text: str) -> Node | None:
    """The thinking of a completion up to its end, or all of it where it does not think, and `wait_text`
    behind it; None where there is no room for more."""
    ids, text = head.path_ids, head.path_text
    split = tree.tags.form.split(tree.text(head))
    if split.thinking_end:
        tag = split.thinking_end - len(tree.tags.form.end_of_thinking) - len(tree.prompt.prefill)
        text = text[: max(0, end_of_text(text, tag, tree.tags.form))]
    decode, before = tree.tags.decoded, tree.prompt.ids
    lengths = range(1, len(ids) + 1)
    kept = bisect_right(lengths, len(text), key=lambda n: len(text_behind(decode, before, ids[:n])))
    wait = tree.tags.wait(text_behind(decode, before, ids[:kept]), wait_text)
    if kept + len(wait) >= tree.max_tokens:
        return None
    ids = [*ids[:kept], *wait]
    return tree.insert(tree.root, text_behind(decode, before, ids), ids, head.seed, copied=kept)
