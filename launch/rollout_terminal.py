"""Rollouts in a terminal: groups one below the other, each with its completions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from data.rollouts import Rollout
from evaluation.report.rollout_text import Span, completion_spans, plain_spans, visible
from evaluation.report.rollouts import (
    COMPLETION_TRAITS,
    GROUP_TRAITS,
    Group,
    Judged,
    View,
    number,
    step_ranges,
)

LONGEST_CHARACTERS = 4_000
"""Longer texts are cut in the middle."""
GROUPS = 3
"""Printed where no limit is given."""
_MARKS = {"right": "✓", "wrong": "✗", "unverifiable": "?"}
_STYLES = {
    "tag": "bold magenta",
    "thinking": "cyan",
    "odd": "black on yellow",
    "cut": "italic dim",
    "right": "bold green",
    "wrong": "bold red",
    "unverifiable": "bold yellow",
    "truncated": "bold yellow",
    "unformatted": "bold yellow",
    "replaced": "bold yellow",
}


def print_rollouts(view: View, console: Console | None = None) -> None:
    """Print the chosen completions and what is told of each. Nothing in them is read as markup."""
    console = console or Console()
    shown = view.groups[: view.choice.limit or GROUPS]
    console.print(_step_line(view))
    for group in shown:
        console.print()
        console.print(Rule(_group_title(group, view), align="left", style="dim"))
        console.print(_question(group.first))
        for judged in group.chosen:
            _print_completion(console, judged, view)
    more = f"; --limit {view.matching} prints all" if view.matching > len(shown) else ""
    matched = f"{view.matching} groups{' that match' if view.choice.options() else ''}"
    console.print()
    console.print(Text(f"{len(shown)} of {matched}{more}", style="dim"))


def _step_line(view: View) -> Text:
    line = Text.assemble(
        (f"step {view.step}", "bold"),
        f" of {step_ranges(view.logged)}: {len(view.completions)} completions in "
        f"{len(view.everything)} groups, mean reward {number(view.mean_reward)}\n",
    )
    parts = [f"{view.counts[trait]} {trait}" for trait in COMPLETION_TRAITS]
    groups = [f"{view.counts[trait]} {trait}" for trait in GROUP_TRAITS]
    return line.append(f"completions: {', '.join(parts)}; groups: {', '.join(groups)}")


def _group_title(group: Group, view: View) -> Text:
    title = Text.assemble((f"group {group.first.group} of {len(view.everything)}", "bold"))
    title.append(f"  id {visible(group.first.id)}  {group.right} of {len(group.all)} right")
    for trait in group.traits:
        title.append(f"  {trait}", _STYLES.get(trait, ""))
    if len(group.chosen) < len(group.all):
        title.append(f"  {len(group.chosen)} shown")
    return title


def _question(first: Rollout) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", justify="right")
    grid.add_column(overflow="fold")
    for label, text in (("question", first.question), ("gold", first.answer)):
        grid.add_row(Text(label), _coloured(plain_spans(text, LONGEST_CHARACTERS)))
    return grid


def _coloured(spans: Sequence[Span], answer: str = "") -> Text:
    """The spans in colour; `answer` is the style of the answer."""
    text = Text()
    for kind, piece in spans:
        text.append(piece, answer if kind == "answer" else _STYLES.get(kind, ""))
    return text


def _print_completion(console: Console, judged: Judged, view: View) -> None:
    row = judged.rollout
    style = _STYLES[judged.verdict]
    head = Text.assemble((f"\n#{row.index} {_MARKS[judged.verdict]} {judged.verdict}", style))
    for trait in judged.traits[1:]:
        head.append(f"  {trait}", _STYLES[trait])
    if not row.trained:
        head.append("  not trained on", _STYLES["replaced"])
    sign = "green" if row.advantage > 0 else "red" if row.advantage < 0 else "dim"
    head.append(f"  reward {number(row.reward)}  ").append(f"advantage {number(row.advantage, '+')}", sign)
    head.append(f"  {row.tokens} tokens\n   ")
    for name, value in row.rewards.items():
        head.append(f" {visible(name)} {number(value)} ")
    if row.language_share is not None:
        head.append(f" language share {row.language_share:.0%} ")
    head.append(f" extracted {visible(row.extracted) or '-'}")
    head.append(f"  rule {visible(row.rule)}" if row.rule else "", "dim")
    console.print(head)
    spans = completion_spans(row.text, view.form, row.extracted, LONGEST_CHARACTERS)
    console.print(Padding(_coloured(spans, style + " underline"), (0, 0, 0, 4)))
