"""Rollouts of a step as one HTML file that needs nothing else.

Whatever a model wrote is escaped, and the page's Content-Security-Policy lets only its own style and script
work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from evaluation.report.page_file import policy
from evaluation.report.rollout_text import Span, completion_spans, plain_spans, visible
from evaluation.report.rollouts import COMPLETION_TRAITS, Group, Judged, View, mean, number, step_ranges

LONGEST_CHARACTERS = 20_000
"""Longer texts are cut in the middle."""

_STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--line:#dfe3e8;--text:#1c2128;--quiet:#626b77;
--well:#f6f8fa;--good:#1a7f4b;--good-soft:#e3f4ea;--bad:#c2342b;--bad-soft:#fdeae8;--warn:#8a5a00;
--warn-soft:#fdf1d6;--tag:#8a3fb5;--tag-soft:#f4e9fa;--thinking:#4d5a6a;--focus:#2563c9}
@media(prefers-color-scheme:dark){:root{--page:#0f1216;--card:#171b21;--line:#2b323b;--text:#e3e7ec;
--quiet:#97a1ae;--well:#11151a;--good:#57c98b;--good-soft:#14301f;--bad:#ff8178;--bad-soft:#3a1a18;
--warn:#eab552;--warn-soft:#352a10;--tag:#d3a1ee;--tag-soft:#2c1f36;--thinking:#a9b4c2;--focus:#7fb0ff}}
*{box-sizing:border-box}
[hidden]{display:none!important}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
header,main,footer{padding:0 28px}
header{padding-top:26px}
h1{margin:0;font-size:22px;line-height:1.3}
h2{margin:0;font-size:16px}
code,pre{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
code{overflow-wrap:anywhere}
.quiet{color:var(--quiet)}
header p,footer p{margin:2px 0 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(122px,1fr));gap:10px;margin:18px 0 14px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px 12px}
.tile dt{color:var(--quiet);font-size:12.5px}
.tile dd{margin:0;font-size:19px;font-weight:600}
.tile .note{color:var(--quiet);font-size:12px;font-weight:400}
form{position:sticky;top:0;z-index:1;display:flex;flex-wrap:wrap;gap:8px;align-items:center;
padding:10px 28px;background:var(--page);border-bottom:1px solid var(--line)}
form label{border:1px solid var(--line);border-radius:99px;padding:2px 11px;background:var(--card);
cursor:pointer;font-size:13.5px}
form label:has(:checked){background:var(--text);border-color:var(--text);color:var(--page)}
form label:has(:focus-visible),a:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
form input[type=radio]{position:absolute;opacity:0;pointer-events:none}
form input[type=search]{font:inherit;font-size:13.5px;flex:0 1 220px;min-width:120px;padding:3px 10px;
border:1px solid var(--line);border-radius:8px;background:var(--card);color:inherit}
form output{margin-left:auto;color:var(--quiet);font-size:13.5px}
section{margin:26px 0 34px;content-visibility:auto;contain-intrinsic-size:auto 620px;scroll-margin-top:60px}
.title{display:flex;flex-wrap:wrap;gap:4px 12px;align-items:center}
.ask{margin:8px 0 0;display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 14px}
.ask dt{color:var(--quiet)}
.ask dd{margin:0}
.ask pre{max-height:15em;font-size:14px}
.dots{display:flex;flex-wrap:wrap;gap:4px}
.dots a{width:12px;height:12px;border-radius:3px;background:var(--bad)}
.dots a[data-verdict=right]{background:var(--good)}
.dots a[data-verdict=unverifiable]{background:var(--warn)}
.dots a.left-out{opacity:.3}
details{margin-top:6px;font-size:13.5px}
summary{color:var(--quiet);cursor:pointer;width:max-content}
details pre{margin-top:4px;padding:8px 10px;max-height:20em;border:1px solid var(--line);
border-radius:6px;background:var(--well)}
.row{display:flex;gap:12px;align-items:stretch;overflow-x:auto;margin-top:12px;padding:2px 2px 12px;
scroll-snap-type:x proximity}
.card{flex:0 0 min(370px,86vw);display:flex;flex-direction:column;background:var(--card);
border:1px solid var(--line);border-top:4px solid var(--line);border-radius:8px;overflow:hidden;
scroll-snap-align:start;scroll-margin:70px 2px}
.card.plus{border-color:var(--good)}
.card.minus{border-color:var(--bad)}
.card:target{outline:2px solid var(--focus);outline-offset:-1px}
.head{padding:10px 12px 8px;border-bottom:1px solid var(--line)}
.badges{display:flex;flex-wrap:wrap;gap:6px;align-items:center;font-size:13px}
.badges b{font-size:14px;margin-right:2px}
.badge{border-radius:5px;padding:0 7px;font-weight:600;font-size:12.5px;line-height:20px;
background:var(--warn-soft);color:var(--warn)}
.badge.right,.badge.useful{background:var(--good-soft);color:var(--good)}
.badge.wrong{background:var(--bad-soft);color:var(--bad)}
.sums{display:flex;gap:18px;margin:8px 0 6px}
.sums div{line-height:1.25}
.sums dt,.facts dt{color:var(--quiet);font-size:12px}
.sums dd{margin:0;font-size:17px;font-weight:600}
.plus .signed{color:var(--good)}
.minus .signed{color:var(--bad)}
.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:1px 12px;margin:0;font-size:13px}
.facts dt{font-size:13px}
.facts dd{margin:0;overflow-wrap:anywhere}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px;line-height:1.5;tab-size:4;
overflow:auto;unicode-bidi:isolate}
.card pre{flex:1;padding:10px 12px;max-height:30em;background:var(--well)}
pre span,bdi{unicode-bidi:isolate}
.tag{color:var(--tag);background:var(--tag-soft);border-radius:3px;font-weight:600}
.thinking{color:var(--thinking)}
.answer{font-weight:700;border-radius:3px;padding:0 2px;background:var(--warn-soft);color:var(--warn)}
.is-right .answer{background:var(--good-soft);color:var(--good)}
.is-wrong .answer{background:var(--bad-soft);color:var(--bad)}
.odd{background:var(--warn-soft);color:var(--warn);border-radius:3px;font-size:.9em}
.cut{display:block;text-align:center;color:var(--quiet);font-style:italic;padding:6px 0}
footer{padding-bottom:30px;font-size:13px}
@media(max-width:600px){header,main,footer,form{padding-left:14px;padding-right:14px}
form{position:static}.tiles{grid-template-columns:repeat(3,1fr);gap:8px}.tile{padding:6px 9px}
.tile dd:not(.note){font-size:17px}.ask{grid-template-columns:1fr;gap:0}.ask dd{margin-bottom:6px}}
"""
_SCRIPT = """
const form = document.querySelector("form"), cards = [...document.querySelectorAll(".card")];
function apply() {
  const only = form.elements.only.value, text = form.elements.text.value.toLowerCase();
  let shown = 0;
  for (const card of cards) {
    const fits = !only || card.dataset.traits.split(" ").includes(only);
    card.hidden = !fits || !card.querySelector("pre").textContent.toLowerCase().includes(text);
    shown += !card.hidden;
  }
  for (const group of document.querySelectorAll("section"))
    group.hidden = !group.querySelector(".card:not([hidden])");
  form.elements.count.value = shown + " of " + cards.length + " completions";
}
form.addEventListener("input", apply);
form.addEventListener("submit", event => event.preventDefault());
form.hidden = false;
apply();
"""


def page(view: View) -> str:
    """The page: what the step came to, controls, then group after group."""
    title = f"{escape(visible(str(view.folder)))}, step {view.step}"
    security = policy(_STYLE, _SCRIPT)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{security}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
{_header(view)}
{_controls(view)}
<main>
{"".join(_group(group, view) for group in view.groups)}
</main>
<footer><p class="quiet">Texts longer than {LONGEST_CHARACTERS:,} characters are cut in the middle. Characters
that are not seen are <span class="odd">spelled out</span>.</p></footer>
<script>{_SCRIPT}</script>
</body>
</html>
"""


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
    options = f" ({_line(view.choice.options())})" if view.choice.options() else ""
    part = f"<p>Here: {shown:,} completions in {len(view.groups):,} of {view.matching:,} groups{options}</p>"
    return (
        f"<header>\n<h1>Rollouts of step {view.step}</h1>\n<p class='quiet'><code>{_line(str(view.folder))}"
        f"</code>, logged steps: {step_ranges(view.logged)}</p>\n"
        f"<dl class='tiles'>{''.join(_tile(*tile) for tile in tiles)}</dl>\n"
        f"{part if options or shown < len(rows) else ''}</header>"
    )


def _tile(name: str, value: str, note: str) -> str:
    return f"<div class='tile'><dt>{name}</dt><dd>{value}</dd><dd class='note'>{note}</dd></div>"


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


def _group(group: Group, view: View) -> str:
    first, name = group.first, f"g{group.first.group}"
    dots = "".join(_dot(judged, name, judged in group.chosen) for judged in group.all)
    reward = number(mean(judged.rollout.reward for judged in group.all))
    share = f"{group.right / len(group.all):.0%}"
    badges = "".join(f"<span class='badge {trait}'>{trait}</span>" for trait in group.traits)
    return f"""<section id="{name}">
<div class="title"><h2>Group {first.group}</h2>{badges}<span class="dots">{dots}</span>
<span>{group.right} of {len(group.all)} right ({share}), mean reward {reward}</span>
<code class="quiet">{_line(first.id)}</code></div>
<dl class="ask"><dt>question</dt><dd>{_block(plain_spans(first.question, LONGEST_CHARACTERS))}</dd>
<dt>gold answer</dt><dd>{_block(plain_spans(first.answer, LONGEST_CHARACTERS))}</dd></dl>
<details><summary>prompt</summary>{_block(plain_spans(first.prompt, LONGEST_CHARACTERS))}</details>
<div class="row" tabindex="0" role="group" aria-label="completions of group {first.group}">
{"".join(_card(judged, view, name) for judged in group.chosen)}
</div></section>
"""


def _dot(judged: Judged, group: str, chosen: bool) -> str:
    """A small mark with the colour of the verdict, which leads to the card where there is one."""
    row = judged.rollout
    title = f"#{row.index} {judged.verdict}, reward {number(row.reward)}"
    place = f" href='#{group}c{row.index}'" if chosen else " class='left-out'"
    return f"<a data-verdict='{judged.verdict}'{place} title='{title}' aria-label='{title}'></a>"


def _card(judged: Judged, view: View, group: str) -> str:
    row = judged.rollout
    sign = "plus" if row.advantage > 0 else "minus" if row.advantage < 0 else "zero"
    flags = [*judged.traits, *([] if row.trained else ["not trained on"])]
    badges = "".join(f"<span class='badge {flag.split()[0]}'>{flag}</span>" for flag in flags)
    sums = [("total", number(row.reward)), ("advantage", number(row.advantage, "+"))]
    sums.append(("tokens", f"{row.tokens:,}"))
    facts = [(_line(name), number(value)) for name, value in row.rewards.items()]
    extracted = f"<code>{_line(row.extracted)}</code>" if row.extracted else "none"
    facts.append(
        ("extracted", f"{extracted} <span class='quiet'>gold</span> <code>{_line(row.answer)}</code>")
    )
    if row.rule:
        facts.append(("rule", _line(row.rule)))
    if row.language_share is not None:
        facts.append(("language share", f"{row.language_share:.0%}"))
    spans = completion_spans(row.text, view.form, row.extracted, LONGEST_CHARACTERS)
    return f"""<article class="card {sign} is-{judged.verdict}" id="{group}c{row.index}"
 data-traits="{" ".join(judged.traits)}"><div class="head">
<div class="badges"><b>#{row.index}</b>{badges}</div>
<dl class="sums">{_pairs(sums, "div")}</dl><dl class="facts">{_pairs(facts)}</dl></div>
{_block(spans)}</article>
"""


def _pairs(pairs: Iterable[tuple[str, str]], around: str = "") -> str:
    """Names and values that are HTML already; the advantage has the colour of its sign."""
    before, after = (f"<{around}>", f"</{around}>") if around else ("", "")
    return "".join(
        f"{before}<dt>{name}</dt><dd{' class=signed' if name == 'advantage' else ''}>{value}</dd>{after}"
        for name, value in pairs
    )


def _block(spans: Sequence[Span]) -> str:
    return f"<pre tabindex='0'>{_spans(spans)}</pre>"


def _spans(spans: Iterable[Span]) -> str:
    return "".join(f"<span class='{kind}'>{escape(text)}</span>" for kind, text in spans)


def _line(text: str) -> str:
    """A short text that is not ours, on one line."""
    return f"<bdi>{escape(visible(text))}</bdi>"
