"""A search tree as nested lists: the winner's path flat, what branches off it folded beside each step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from data.thinking import ThinkingFormat
from evaluation.report.markup import badge, line, spelled
from evaluation.report.rollout_text import Span, completion_spans
from evaluation.report.tree_nodes import SearchTree, TreeNode
from evaluation.report.tree_numbers import census, fate, level, number, plural
from evaluation.report.tree_shape import Shape

LONGEST_ON_PATH = 20_000
"""Characters of a node on the winner's path; longer texts are cut in the middle."""
MOST_BARS = 24
"""Scores of siblings that are drawn in one line."""
CHOICE_NAMES = {"majority": "majority", "best_of_n": "best of N", "weighted_best_of_n": "weighted best of N"}


@dataclass(frozen=True, slots=True)
class Drawing:
    """A tree with what is needed to draw it."""

    tree: SearchTree
    shape: Shape
    name: str
    """Of its section; the begin of all ids in it."""
    form: ThinkingFormat
    longest: int
    """Characters of a node off the winner's path; longer texts are cut in the middle."""

    def place(self, candidate: int) -> str | None:
        """Id of the element where a candidate ends; None where that is left out."""
        node = self.tree.ends[candidate]
        return self._id(node) if node in self.shape.kept else None

    def html(self) -> str:
        """All that is shown of the tree."""
        return self._branch(self.tree.root)

    def _branch(self, start: TreeNode) -> str:
        """What follows a node, straight on."""
        nodes = self.shape.straight_on(start)
        steps = "".join(self._step(node, self._others(node)) for node in nodes)
        return f"<ol>{steps}</ol>{_note(self.shape.missing(nodes[-1] if nodes else start))}"

    def _others(self, node: TreeNode) -> str:
        """What branches off beside a node, folded."""
        assert node.parent is not None
        siblings, rest = self.shape.beside(node), self.shape.missing(node.parent)
        if not siblings:
            return _note(rest)
        steps = "".join(self._step(sibling, self._more(sibling)) for sibling in siblings)
        return (
            f"<details class='others'><summary>{census(siblings)} {self._strip(siblings)}</summary>"
            f"<div class='below'><ul>{steps}</ul>{_note(rest)}</div></details>"
        )

    def _more(self, node: TreeNode) -> str:
        """What follows a node beside the main path, folded."""
        if not node.children:
            return ""
        below = [plural(node.size - 1, "more node")]
        if candidates := node.reach - len(node.ending):
            below.append(plural(candidates, "candidate"))
        return (
            f"<details class='more'><summary>goes on: {', '.join(below)}</summary>"
            f"<div class='below'>{self._branch(node)}</div></details>"
        )

    def _strip(self, siblings: Sequence[TreeNode]) -> str:
        """Small bars of the siblings' scores."""
        scores = [node.score for node in siblings if math.isfinite(node.score)]
        bars = "".join(f"<i class='s{level(score, self.tree)}'></i>" for score in scores[:MOST_BARS])
        if not bars:
            return ""
        words = f"scores {', '.join(map(number, scores[:MOST_BARS]))}"
        return f"<span class='strip' role='img' aria-label='{words}' title='{words}'>{bars}</span>"

    def _step(self, node: TreeNode, behind: str) -> str:
        kinds = {"wins": node.wins, "ends": bool(node.ending), "pruned": node.pruned}
        classes = " ".join(["step", *(kind for kind, has in kinds.items() if has)])
        name = f' id="{self._id(node)}"' if node.ending else ""
        return (
            f"<li class='{classes}'{name}><div class='head'><b>{node.depth}</b>{self._score(node)}"
            f"<span class='quiet'>{plural(node.tokens, 'token')}</span>{self._badges(node)}</div>"
            f"{self._text(node)}{behind}</li>\n"
        )

    def _score(self, node: TreeNode) -> str:
        if not math.isfinite(node.score):
            return ""
        bar = f"<i class='bar s{level(node.score, self.tree)}'></i>"
        return f"<span class='score'>{bar}{number(node.score)}</span>"

    def _badges(self, node: TreeNode) -> str:
        badges = [badge("forced text", "warn")] if node.forced else []
        badges += [badge("cut at its token limit", "warn")] if node.cut else []
        badges += [badge(f"{len(node.copies) + 1:,} times the same")] if node.copies else []
        if node.ending:
            return "".join(badges) + self._candidates(node)
        badges += [badge(fate(node), "warn" if node.end == "length" else "")] if fate(node) else []
        return "".join(badges)

    def _candidates(self, node: TreeNode) -> str:
        """The candidates that end at a node: numbers, answer, and which choices take them."""
        result, first = self.tree.result, node.ending[0]
        names = ", ".join(f"#{index}" for index in node.ending[:6])
        names += f" and {len(node.ending) - 6} more" if len(node.ending) > 6 else ""
        score = result.scores[first]
        aggregate = f", score {number(score)}" if math.isfinite(score) and score != node.score else ""
        noun = "candidate" if len(node.ending) == 1 else "candidates"
        marks = [
            badge(f"{noun} {names}{aggregate}"),
            self.verdict(first),
        ]
        takes = [CHOICE_NAMES[c] for c, index in result.chosen.items() if index in node.ending]
        return "".join([*marks, *(badge(f"taken by {name}", "takes") for name in takes)])

    def verdict(self, candidate: int) -> str:
        """A candidate's answer and whether it is right."""
        kind = self.tree.result.classes[candidate]
        if kind < 0:
            return badge("no answer", "warn")
        word = "right" if self.tree.result.correct[candidate] else "wrong"
        return badge(f"{self.answer(kind)} {word}", word)

    def answer(self, kind: int) -> str:
        """The answer of a class, as HTML."""
        if kind < 0:
            return "no answer"
        text = self.tree.answers[kind].text
        return f"<code>{line(text, 60)}</code>" if text else f"answer {kind + 1}"

    def _text(self, node: TreeNode) -> str:
        text = node.text.rstrip()
        if not text:
            return "<pre class='quiet'>(no text)</pre>" if not node.text else ""
        spans = completion_spans(text, self.form, "", LONGEST_ON_PATH if node.wins else self.longest)
        return f"<pre>{spelled(self._coloured(node, spans))}</pre>"

    def _coloured(self, node: TreeNode, spans: Iterable[Span]) -> list[Span]:
        """The spans of a part as those of the whole: thinking goes on behind the node where it began."""
        if node.thinks and self.form.end_of_thinking not in node.text:
            return [
                Span("thinking", text) if kind == "response" else Span(kind, text) for kind, text in spans
            ]
        if not node.thinks:
            return [
                Span("response", text) if kind == "thinking" else Span(kind, text) for kind, text in spans
            ]
        return list(spans)

    def _id(self, node: TreeNode) -> str:
        return f"{self.name}n{node.number}"


def _note(left_out: int) -> str:
    return f"<p class='note-line'>{plural(left_out, 'more node')} here, left out</p>" if left_out else ""
