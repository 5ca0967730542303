"""Search trees in a terminal: the winner's path, and how much branches off beside each step."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console, Group
from rich.padding import Padding
from rich.text import Text
from rich.tree import Tree

from evaluation.report.rollout_text import visible
from evaluation.report.tree_drawing import CHOICE_NAMES
from evaluation.report.tree_nodes import SearchTree, TreeNode
from evaluation.report.tree_numbers import LEVELS, amount, census, level, number, plural, seconds
from evaluation.report.trees import TreeView
from inference.search.results import CHOICES

TREES = 3
"""Printed; the page has the others too."""
_CHARACTERS = 160
"""Printed of a step."""
_VERDICTS = {True: ("right", "bold green"), False: ("wrong", "bold red")}


def print_trees(view: TreeView, page: Path, console: Console | None = None) -> None:
    """Print the winners' paths and where the page is. Nothing in the texts is read as markup."""
    console = console or Console()
    for tree in view.trees[:TREES]:
        console.print(_heading(tree))
        console.print(_path(tree))
        console.print()
    counted = f"{plural(len(view.trees), 'tree')} of {view.matching:,}"
    more = f"; --limit {view.matching} shows all" if view.matching > len(view.trees) else ""
    console.print(Text(f"{counted}{more} -> {page}"), soft_wrap=True)


def _heading(tree: SearchTree) -> Text:
    result, cost = tree.result, tree.result.cost
    head = Text.assemble((visible(result.setting), "bold"), f"  problem {visible(result.problem.id)}\n")
    head.append(f"{visible(result.problem.question, 400)}\n", "italic")
    head.append(f"gold {visible(result.problem.answer)}")
    for choice in CHOICES:
        index = result.chosen[choice]
        head.append(f"  {CHOICE_NAMES[choice]} ")
        if index < 0:
            head.append("no answer", "dim")
            continue
        head.append(f"{_answer(tree, index)} ").append(*_VERDICTS[result.correct[index]])
    head.append(
        f"\n{cost.generated_tokens:,} tokens, {amount(cost.scorer_tokens)} scorer tokens, "
        f"{amount(cost.policy_flops + cost.scorer_flops, 'FLOP')}, {seconds(cost.seconds)}, "
        f"{plural(len(tree.nodes) - 1, 'node')}, {plural(len(result.nodes), 'candidate')}",
        "dim",
    )
    return head


def _answer(tree: SearchTree, candidate: int) -> str:
    kind = tree.result.classes[candidate]
    return visible(tree.answers[kind].text, 60) or f"answer {kind + 1}"


def _path(tree: SearchTree) -> Tree:
    """The steps below one another, not inside one another: a path may be 40 deep."""
    title = "no candidate has an answer"
    if tree.winning is not None:
        title = f"path of candidate #{tree.winner}, which {CHOICE_NAMES[tree.winning]} takes"
    drawn = Tree(Text(title, "dim"), guide_style="dim")
    for node in tree.path:
        drawn.add(_step(node, tree))
    return drawn


def _step(node: TreeNode, tree: SearchTree) -> Group:
    assert node.parent is not None
    head = Text(f"{node.depth:>2}  ", "bold")
    if math.isfinite(node.score):
        filled = round(level(node.score, tree) / LEVELS * 8)
        head.append("█" * filled, "blue").append("░" * (8 - filled), "dim")
        head.append(f" {number(node.score)}  ", "not bold")
    head.append(plural(node.tokens, "token"), "not bold")
    marks = ["forced text"] * node.forced + ["cut at its token limit"] * node.cut
    marks += [f"{len(node.copies) + 1:,} times the same"] * bool(node.copies)
    head.append("".join(f"  {mark}" for mark in marks), "not bold yellow")
    if siblings := [child for child in node.parent.children if child is not node]:
        head.append(f"  +{census(siblings)}", "not bold dim")
    return Group(head, Padding(Text(visible(node.text.strip(), _CHARACTERS)), (0, 0, 0, 4)))
