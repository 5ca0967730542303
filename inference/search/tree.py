"""The tree that a search of one problem grows, and what strategies ask of it.

A node is a stretch of a completion: a step, a whole completion, or text that was put in. A strategy is a
generator that yields lists of `Extend` and is sent the new nodes, already scored; what it returns are the
nodes whose paths are its candidates. It never sees an engine, so that one driver runs many of them as one
batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from data.prompts import Prompt
from data.schema import Problem
from inference.budget import Tags

End = Literal["", "stop", "length"]
"""How a path ended: it is open, the model ended it, or the limit of its tokens did."""


CONTEXT_TOKENS = 8
"""Tokens before a new text that are decoded with it, since a tokenizer may write a text's first token in
another way; more of them where these begin within a character."""


def text_behind(decode: Callable[[tuple[int, ...]], str], before: Sequence[int], ids: Sequence[int]) -> str:
    """Text of tokens that stand behind others."""
    length = CONTEXT_TOKENS
    while (known := decode(tuple(before[-length:]))).startswith("\ufffd") and length < len(before):
        length *= 2
    return decode((*before[-length:], *ids))[len(known) :]


@dataclass(eq=False)
class Node:
    """A stretch of text behind its parent's."""

    number: int
    """Place in the tree's list; the root is 0."""
    parent: Node | None
    text: str = ""
    token_ids: tuple[int, ...] = ()
    """Generated or put in."""
    end: End = ""
    forced: bool = False
    """Whether the text was put in, not generated."""
    copied_tokens: int = 0
    """Of a text that was put in: its first tokens that another path has, which are computed already."""
    left_out: bool = False
    """Whether it is no candidate: greedy text that was only looked at, or a copy of another node."""
    cut: bool = False
    """Whether a step was ended at the limit of its tokens, without a separator."""
    step_scores: tuple[float, ...] = ()
    """Scores of all steps of the path."""
    score: float = math.nan
    """Of the path, aggregated; nan where there is no scorer."""
    seed: int = 0
    """Of its random stream."""
    claimed: int = 0
    """Children that were asked for."""
    logprob: float = 0.0
    """Mean log-probability of the generated tokens, where the strategy asked for it."""
    children: list[Node] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether text can follow."""
        return not self.end

    @property
    def path(self) -> list[Node]:
        """The nodes from below the root to this one."""
        path: list[Node] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            path.append(node)
            node = node.parent
        return path[::-1]

    @property
    def path_text(self) -> str:
        return "".join(node.text for node in self.path)

    @property
    def path_ids(self) -> list[int]:
        return [token for node in self.path for token in node.token_ids]

    @property
    def tokens(self) -> int:
        """Of the path."""
        return sum(len(node.token_ids) for node in self.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class Extend:
    """Text to generate behind a node: each of `count` completions becomes a child."""

    node: Node
    count: int = 1
    whole: bool = False
    """Up to the end of the completion, not of a step."""
    steps: int = 1
    """Steps of a child, where it is not whole."""
    greedy: bool = False
    logprobs: bool = False


Strategy = Generator[Sequence[Extend], list[Node], list[Node]]
"""Yields what is to be generated; is sent the children in the order of the requests; returns its candidates,
which are at the end of their path."""


@dataclass(eq=False)
class Tree:
    """All that a search of one problem has generated."""

    problem: Problem
    prompt: Prompt
    tags: Tags
    """Of the thinking, in tokens of the policy."""
    max_tokens: int
    """Of a path."""
    nodes: list[Node] = field(default_factory=list)
    generated_tokens: int = 0
    dropped: int = 0
    """Nodes that a strategy left out as copies of others."""

    def __post_init__(self) -> None:
        self.nodes = self.nodes or [Node(0, None)]

    @property
    def root(self) -> Node:
        return self.nodes[0]

    def add(self, parent: Node, text: str, token_ids: Sequence[int], end: End, **more: object) -> Node:
        """A new child of a node; `more` are further fields of it."""
        node = Node(len(self.nodes), parent, text, tuple(token_ids), end, **more)  # type: ignore[arg-type]
        self.nodes.append(node)
        parent.children.append(node)
        return node

    def insert(self, parent: Node, text: str, token_ids: Sequence[int], seed: int, copied: int = 0) -> Node:
        """Text that is put in as an open child of a node; `copied` of its first tokens are another path's."""
        more = {"forced": True, "copied_tokens": copied, "step_scores": parent.step_scores, "seed": seed}
        return self.add(parent, text, token_ids, "", **more)

    def text(self, node: Node) -> str:
        """The completion of a path, with what the prompt begins of it."""
        return self.prompt.prefill + node.path_text

    @property
    def ended(self) -> list[Node]:
        """Nodes at the end of a path, but for those that were left out."""
        return [node for node in self.nodes if node.end and not node.left_out]


def finished(nodes: Sequence[Node]) -> list[Node]:
    """Those that the model itself has ended: a completion that was cut off is no answer."""
    return [node for node in nodes if node.end == "stop"]


def opened(nodes: Sequence[Node]) -> list[Node]:
    """Those that text can follow."""
    return [node for node in nodes if node.is_open]
