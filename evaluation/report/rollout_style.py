"""Style and script of completions with their rewards. Without the script everything is shown."""

from __future__ import annotations

CARDS = """
.group{margin:26px 0 34px;content-visibility:auto;contain-intrinsic-size:auto 620px;scroll-margin-top:60px;
h2,h5{margin:0;font-size:16px}
.dots{display:flex;flex-wrap:wrap;gap:4px}
.dots a{width:12px;height:12px;border-radius:3px;background:var(--bad)}
.dots a[data-verdict=right]{background:var(--good)}
.dots a[data-verdict=unverifiable]{background:var(--warn)}
.dots a.left-out{opacity:.3}
details{margin-top:6px;font-size:13.5px}
summary{color:var(--quiet);cursor:pointer;width:max-content}
details pre{margin-top:4px;padding:8px 10px;max-height:20em;border:1px solid var(--line);
border-radius:6px;background:var(--paper)}
.row{display:flex;gap:12px;align-items:stretch;overflow-x:auto;margin-top:12px;padding:2px 2px 12px;
scroll-snap-type:x proximity}
.card{flex:0 0 min(370px,86vw);display:flex;flex-direction:column;background:var(--card);
border:1px solid var(--line);border-top:4px solid var(--line);border-radius:8px;overflow:hidden;
scroll-snap-align:start;scroll-margin:70px 2px}
.card.plus{border-color:var(--good)}
.card.minus{border-color:var(--bad)}
.card:target{outline:2px solid var(--focus);outline-offset:-1px}
.card pre{flex:1;padding:10px 12px;max-height:30em;background:var(--paper)}
.card .question pre{padding:8px 12px;max-height:9em;background:none;color:var(--quiet);
border-bottom:1px solid var(--line)}
.head{padding:10px 12px 8px;border-bottom:1px solid var(--line)}
.badges{display:flex;flex-wrap:wrap;gap:6px;align-items:center;font-size:13px}
.badges b{font-size:14px;margin-right:2px}
.sums{display:flex;gap:18px;margin:8px 0 6px}
.sums div{line-height:1.25}
.sums dt,.facts dt{color:var(--quiet);font-size:12px}
.sums dd{margin:0;font-size:17px;font-weight:600}
.plus .signed{color:var(--good)}
.minus .signed{color:var(--bad)}
.facts{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:1px 12px;margin:0;font-size:13px}
.facts dt{font-size:13px}
.facts dd{margin:0;overflow-wrap:anywhere}
}
"""
PAGE = """
form{position:sticky;top:0;z-index:1;background:var(--page);border-bottom:1px solid var(--line)}
@media(max-width:600px){form{position:static}}
"""
SCRIPT = """
const form = document.querySelector("form"), cards = [...document.querySelectorAll(".card")];
function apply() {
  const only = form.elements.only.value, text = form.elements.text.value.toLowerCase();
  let shown = 0;
  for (const card of cards) {
    const fits = !only || card.dataset.traits.split(" ").includes(only);
    card.hidden = !fits || !card.querySelector("pre").textContent.toLowerCase().includes(text);
    shown += !card.hidden;
  }
  for (const group of document.querySelectorAll(".group"))
    group.hidden = !group.querySelector(".card:not([hidden])");
  form.elements.count.value = shown + " of " + cards.length + " completions";
}
form.addEventListener("input", apply);
form.addEventListener("submit", event => event.preventDefault());
form.hidden = false;
apply();
"""
