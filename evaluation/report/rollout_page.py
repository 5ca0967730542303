"""Rollouts of a step as a page."""

from __future__ import annotations

from evaluation.report.markup import fact_tile, line
from evaluation.report.page_file import document
from evaluation.report.rollout_cards import group_section
from evaluation.report.rollout_style import CARDS, PAGE, SCRIPT
from evaluation.report.rollouts import COMPLETION_TRAITS, View, mean, number, step_ranges
from evaluation.report.style import BASE, CONTROLS

LONGEST_CHARACTERS = 20_000
"""Longer texts are cut in the middle."""


def page(view: View) -> str:
    """The page: what the step came to, controls, then group after group."""
    main = "".join(group_section(group, view.form, LONGEST_CHARACTERS) for group in view.groups)
    body = f"""{_header(view)}
{_controls(view)}
<main>
{main}
</main>
<footer><p class="quiet">Texts longer than {LONGEST_CHARACTERS:,} characters are cut in the middle. Characters
that are not seen are <span class="odd">spelled out</span>.</p></footer>"""
    return document(f"{view.folder}, step {view.step}", body, BASE + CONTROLS + CARDS + PAGE, SCRIPT)


def _header(view: View) -> str:
    counts, rows = view.counts, view.completions
    tokens = mean(judged.rollout.tokens for judged in rows)
    share = f"{counts['right'] / len(rows):.1%}"
    tiles = [
        ("mean reward", number(view.mean_reward), f"{len(rows):,} completions"),
        ("right", share, f"{counts['right']:,} completions"),
        *((trait, f"{counts[trait]:,}", "completions") for trait in COMPLETION_TRAITS if trait != "right"),
        ("mean tokens", f"{tokens:,.1f}", "a completion"),
        ("groups", f"{len(view.everything):,}", f"{counts['useful']:,} useful"),
        ("replaced", f"{counts['replaced']:,}", "groups"),
    ]
    shown = sum(len(group.chosen) for group in view.groups)
    options = f" ({line(view.choice.options())})" if view.choice.options() else ""
    part = f"<p>Here: {shown:,} completions in {len(view.groups):,} of {view.matching:,} groups{options}</p>"
    return (
        f"<header>\n<h1>Rollouts of step {view.step}</h1>\n<p class='quiet'><code>{line(str(view.folder))}"
        f"</code>, logged steps: {step_ranges(view.logged)}</p>\n"
        f"<dl class='tiles'>{''.join(fact_tile(*tile) for tile in tiles)}</dl>\n"
        f"{part if options or shown < len(rows) else ''}</header>"
    )


def _controls(view: View) -> str:
    """Radio buttons by trait and a search field; without script they stay hidden and everything is shown."""
    chosen = [judged for group in view.groups for judged in group.chosen]
    choices = [("", "all", len(chosen))]
    choices += [(name, name, sum(name in judged.traits for judged in chosen)) for name in COMPLETION_TRAITS]
    buttons = "".join(
        f"<label><input type='radio' name='only' value='{value}'{'' if value else ' checked'}> "
        f"{label} {count:,}</label>"
        for value, label, count in choices
    )
    search = "<input type='search' name='text' placeholder='text in completions' aria-label='text'>"
    return f"<form hidden autocomplete='off'>{buttons}{search}<output name='count'></output></form>"
