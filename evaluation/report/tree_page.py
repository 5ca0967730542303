"""Search trees as a page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from evaluation.report.markup import badge, fact_tile, line, spelled, table_cells
from evaluation.report.page_file import document
from evaluation.report.rollout_text import plain_spans
from evaluation.report.style import BASE, CONTROLS, TABLES
from evaluation.report.tree_drawing import CHOICE_NAMES, LONGEST_ON_PATH, Drawing
from evaluation.report.tree_nodes import SearchTree
from evaluation.report.tree_numbers import amount, number, plural, seconds
from evaluation.report.tree_shape import fair_share, shape
from evaluation.report.tree_style import PAGE, SCRIPT, TREES
from evaluation.report.trees import TreeView
from inference.search.results import CHOICES

MOST_NODES = 4_000
"""On a page; where there are more, large trees are shown in part."""
MOST_CHARACTERS = 2_000_000
"""Of all texts off the winners' paths; where there are more, long ones are cut further."""
LONGEST_ASIDE, SHORTEST_ASIDE = 4_000, 200
"""Characters of a text off the winners' paths; longer ones are cut in the middle."""
MOST_ANSWERS = 12


def tree_page(view: TreeView) -> str:
    """The page: an index where there are several trees, controls, then tree after tree."""
    limit = fair_share([len(tree.unique) for tree in view.trees], MOST_NODES)
    shapes = [shape(tree, limit) for tree in view.trees]
    lengths = [len(node.text) for one in shapes for node in one.kept if not node.wins]
    longest = min(LONGEST_ASIDE, max(SHORTEST_ASIDE, fair_share(lengths, MOST_CHARACTERS)))
    drawings = [
        Drawing(tree, one, f"t{index}", view.form, longest)
        for index, (tree, one) in enumerate(zip(view.trees, shapes, strict=True))
    ]
    problems = groupby(drawings, lambda drawing: drawing.tree.result.problem.id)
    body = f"""{_header(view, drawings)}
{_CONTROLS}
<main>
{"".join(problem_section(list(group)) for _, group in problems)}
</main>
<footer><p class="quiet">Texts longer than {LONGEST_ON_PATH:,} characters on a winner's path and {longest:,}
elsewhere are cut in the middle. Characters that are not seen are <span class="odd">spelled out</span>.</p>
</footer>"""
    return document(f"{view.folder}, search trees", body, BASE + CONTROLS + TABLES + TREES + PAGE, SCRIPT)


_CONTROLS = """<div class="bar-top" hidden><form autocomplete="off">
<button type="button" name="open">expand all</button><button type="button" name="close">collapse all</button>
<label><input type="checkbox" name="only"> only the winner</label></form></div>"""
_KEY = """<div class="key"><span>the path of the winner, in the colour of its verdict, goes straight down;
what branches off beside a step is folded below it</span>
<span><b>3</b>depth</span>
<span><i class="bar s16"></i>score of the path up to here, from {low} to {high}</span></div>"""


def _header(view: TreeView, drawings: Sequence[Drawing]) -> str:
    shown = plural(len(view.trees), "tree")
    if len(view.trees) < view.matching:
        shown += f" of {view.matching:,}; --limit {view.matching} shows all"
    return (
        f"<header>\n<h1>Search trees</h1>\n<p class='quiet'><code>{line(str(view.folder))}</code>, "
        f"{plural(view.problems, 'problem')}; here: {shown}</p>\n{_index(drawings)}</header>"
    )


def _index(drawings: Sequence[Drawing]) -> str:
    """A table of the trees with links, where there are several."""
    if len(drawings) < 2:
        return ""
    several = len({drawing.tree.result.problem.id for drawing in drawings}) > 1
    names = ["tree", *(CHOICE_NAMES[choice] for choice in CHOICES)]
    names += ["candidates", "tokens", "scorer tokens", "FLOPs", "time"]
    rows = "".join(_index_row(drawing, several) for drawing in drawings)
    return f"<div class='box'><table><tr>{table_cells(names, 'th')}</tr>\n{rows}</table></div>"


def _index_row(drawing: Drawing, several: bool) -> str:
    result, cost = drawing.tree.result, drawing.tree.result.cost
    question = f"<br><span class='quiet'>{line(result.problem.question, 90)}</span>" if several else ""
    cells = [f"<a href='#{drawing.name}'>{line(result.setting)}</a>{question}"]
    cells += [_mark(drawing.tree, choice) for choice in CHOICES]
    cells += [f"{len(result.nodes):,}", f"{cost.generated_tokens:,}", amount(cost.scorer_tokens)]
    cells += [amount(cost.policy_flops + cost.scorer_flops), seconds(cost.seconds)]
    return f"<tr>{table_cells(cells)}</tr>\n"


def _mark(tree: SearchTree, choice: str) -> str:
    if tree.result.chosen[choice] < 0:
        return badge("none")
    right = tree.result.right(choice)
    return badge("right" if right else "wrong", "right" if right else "wrong")


def problem_section(drawings: Sequence[Drawing], level: int = 2) -> str:
    """A question and the trees that were grown for it, under a heading of this level."""
    problem = drawings[0].tree.result.problem
    return f"""<section class="problem"><div class="title"><h{level}>Problem</h{level}>
<code class="quiet">{line(problem.id)}</code></div>
<dl class="ask"><dt>question</dt><dd><pre>{spelled(plain_spans(problem.question, LONGEST_ON_PATH))}</pre></dd>
<dt>gold answer</dt><dd><pre>{spelled(plain_spans(problem.answer, LONGEST_ON_PATH))}</pre></dd></dl></section>
{"".join(_search(drawing, level + 1) for drawing in drawings)}"""


def _search(drawing: Drawing, level: int) -> str:
    tree = drawing.tree
    winner = tree.winner
    verdict = "none" if winner is None else "right" if tree.result.correct[winner] else "wrong"
    says = "no candidate has an answer" if winner is None else _says(drawing, winner)
    low, high = (f"{bound:.4g}" for bound in tree.scale)
    left_out = len(tree.unique) - len(drawing.shape.kept)
    note = (
        f"<p class='part'>{plural(left_out, 'node')} of {len(tree.unique):,} (equal siblings counted once) "
        f"left out: a page shows {MOST_NODES:,}, first what is on and beside the winner's path, then the "
        "candidates.</p>"
    )
    return f"""<section class="search is-{verdict}" id="{drawing.name}">
<div class="title"><h{level}>{line(tree.result.setting)}</h{level}><span>{says}</span></div>
<dl class="tiles">{"".join(fact_tile(*tile) for tile in _tiles(tree))}</dl>
{_answers(drawing)}
{_KEY.format(low=low, high=high)}{note if left_out else ""}
<div class="tree" tabindex="0" role="group" aria-label="tree">
{drawing.html()}</div></section>
"""


def _says(drawing: Drawing, winner: int) -> str:
    assert drawing.tree.winning is not None
    name = CHOICE_NAMES[drawing.tree.winning]
    return f"<span class='quiet'>{name} takes</span> {drawing.verdict(winner)}"


def _tiles(tree: SearchTree) -> list[tuple[str, str, str]]:
    result, cost = tree.result, tree.result.cost
    forced = f", forced {cost.forced_tokens:,}" if cost.forced_tokens else ""
    flops = f"policy {amount(cost.policy_flops)}, scorer {amount(cost.scorer_flops)}"
    depth = max(node.depth for node in tree.nodes)
    options = f"n = {result.n:,}" + (f", width {result.width:,}" if result.width > 1 else "")
    return [
        ("tokens of the tree", f"{cost.generated_tokens:,}", f"prompt {cost.prompt_tokens:,}{forced}"),
        ("scorer tokens", f"{cost.scorer_tokens:,.0f}", "forwarded"),
        ("FLOPs", amount(cost.policy_flops + cost.scorer_flops), flops),
        ("time", seconds(cost.seconds), f"{seconds(cost.latency_seconds)} from start to end"),
        ("candidates", f"{len(result.nodes):,}", options),
        ("nodes", f"{len(tree.nodes) - 1:,}", f"depth {depth:,}, {plural(cost.rounds, 'round')}"),
    ]


def _answers(drawing: Drawing) -> str:
    """The candidates by answer, and which answer each choice takes."""
    answers = list(drawing.tree.answers.items())
    shown = [(k, a) for i, (k, a) in enumerate(answers) if i < MOST_ANSWERS or a.choices]
    rows = "".join(_answer_row(drawing, kind) for kind, _ in shown)
    names = ("answer", "candidates", "highest score", "sum of scores", "taken by")
    more = f"<p class='quiet'>{plural(len(answers) - len(shown), 'more answer')}</p>"
    nothing = [CHOICE_NAMES[choice] for choice, i in drawing.tree.result.chosen.items() if i < 0]
    none = f"<p class='quiet'>no answer by {', '.join(nothing)}</p>" if nothing else ""
    return (
        f"<div class='box'><table class='answers'><tr>{table_cells(names, 'th')}</tr>\n{rows}</table></div>"
        f"{more if len(answers) > len(shown) else ''}{none}"
    )


def _answer_row(drawing: Drawing, kind: int) -> str:
    answer = drawing.tree.answers[kind]
    takes = []
    for choice in answer.choices:
        index = drawing.tree.result.chosen[choice]
        place = drawing.place(index)
        where = f"<a href='#{place}'>#{index}</a>" if place else f"#{index}"
        takes.append(f"{CHOICE_NAMES[choice]} {where}")
    sums = (max(answer.scores), sum(answer.scores)) if answer.scores else (float("nan"),) * 2
    cells = [drawing.verdict(answer.candidates[0]), f"{len(answer.candidates):,}", *map(number, sums)]
    return f"<tr>{table_cells([*cells, ', '.join(takes)])}</tr>\n"
