"""The completions of a group as cards, with their rewards and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from data.thinking import ThinkingFormat
from evaluation.report.markup import block, line, plain_block
from evaluation.report.rollout_text import completion_spans
from evaluation.report.rollouts import Group, Judged, mean, number


def group_section(group: Group, form: ThinkingFormat, longest: int, before: str = "", level: int = 2) -> str:
    """A group: its question, and its chosen completions side by side.

    Args:
        longest: characters of a text; longer ones are cut in the middle.
        before: begins all ids in it.
        level: of its heading.
    """
    first, name = group.first, f"{before}g{group.first.group}"
    dots = "".join(_dot(judged, name, judged in group.chosen) for judged in group.all)
    reward = number(mean(judged.rollout.reward for judged in group.all))
    share = f"{group.right / len(group.all):.0%}"
    badges = "".join(f"<span class='badge {trait}'>{trait}</span>" for trait in group.traits)
    return f"""<section class="group" id="{name}">
<div class="title"><h{level}>Group {first.group}</h{level}>{badges}<span class="dots">{dots}</span>
<span>{group.right} of {len(group.all)} right ({share}), mean reward {reward}</span>
<code class="quiet">{line(first.id)}</code></div>
<dl class="ask"><dt>question</dt><dd>{plain_block(first.question, longest)}</dd>
<dt>gold answer</dt><dd>{plain_block(first.answer, longest)}</dd></dl>
<details><summary>prompt</summary>{plain_block(first.prompt, longest)}</details>
<div class="row" tabindex="0" role="group" aria-label="completions of group {first.group}">
{"".join(_card(judged, form, longest, name) for judged in group.chosen)}
</div></section>
"""


def _dot(judged: Judged, group: str, chosen: bool) -> str:
    """A small mark with the colour of the verdict, which leads to the card where there is one."""
    row = judged.rollout
    title = f"#{row.index} {judged.verdict}, reward {number(row.reward)}"
    place = f" href='#{group}c{row.index}'" if chosen else " class='left-out'"
    return f"<a data-verdict='{judged.verdict}'{place} title='{title}' aria-label='{title}'></a>"


def _card(judged: Judged, form: ThinkingFormat, longest: int, group: str) -> str:
    row = judged.rollout
    sign = "plus" if row.advantage > 0 else "minus" if row.advantage < 0 else "zero"
    sums = [("total", number(row.reward)), ("advantage", number(row.advantage, "+"))]
    facts = [(line(name), number(value)) for name, value in row.rewards.items()]
    facts.append(_extracted(row.extracted, row.answer))
    if row.rule:
        facts.append(("rule", line(row.rule)))
    if row.language_share is not None:
        facts.append(("language share", f"{row.language_share:.0%}"))
    spans = completion_spans(row.text, form, row.extracted, longest)
    return f"""<article class="card {sign} is-{judged.verdict}" id="{group}c{row.index}"
 data-traits="{" ".join(judged.traits)}"><div class="head">
{_badges(row.index, [*judged.traits, *([] if row.trained else ["not trained on"])])}
{_sums(*sums, ("tokens", f"{row.tokens:,}"))}
<dl class="facts">{_pairs(facts)}</dl></div>
{block(spans)}</article>
"""


def attempt_card(row: Mapping[str, Any], form: ThinkingFormat, longest: int) -> str:
    """A row of an attempts table: its question, and its completion."""
    verdict = {"correct": "right", "wrong": "wrong"}.get(row["verdict"], "unverifiable")
    traits = [verdict, *(["truncated"] if row["finish_reason"] == "length" else [])]
    tokens = (("tokens", f"{row['completion_tokens']:,}"), ("of thinking", f"{row['thinking_tokens']:,}"))
    return f"""<article class="card {_SIGNS.get(verdict, "zero")} is-{verdict}"><div class="head">
{_badges(row["index"], traits)}
{_sums(*tokens)}
<dl class="facts">{_pairs([_extracted(row["extracted"], row["answer"])])}</dl></div>
<div class="question">{plain_block(row["question"], longest)}</div>
{block(completion_spans(row["text"], form, row["extracted"], longest))}</article>
"""


_SIGNS = {"right": "plus", "wrong": "minus"}


def _extracted(extracted: str, gold: str) -> tuple[str, str]:
    shown = f"<code>{line(extracted)}</code>" if extracted else "none"
    return "extracted", f"{shown} <span class='quiet'>gold</span> <code>{line(gold)}</code>"


def _badges(index: int, flags: Iterable[str]) -> str:
    badges = "".join(f"<span class='badge {flag.split()[0]}'>{flag}</span>" for flag in flags)
    return f'<div class="badges"><b>#{index}</b>{badges}</div>'


def _sums(*sums: tuple[str, str]) -> str:
    return f'<dl class="sums">{_pairs(sums, "div")}</dl>'


def _pairs(pairs: Iterable[tuple[str, str]], around: str = "") -> str:
    """Names and values that are HTML already; the advantage has the colour of its sign."""
    before, after = (f"<{around}>", f"</{around}>") if around else ("", "")
    return "".join(
        f"{before}<dt>{name}</dt><dd{' class=signed' if name == 'advantage' else ''}>{value}</dd>{after}"
        for name, value in pairs
    )
