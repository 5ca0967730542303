"""Style and script of search trees. Without the script everything is there, all closed."""

from __future__ import annotations

_BARS = "".join(f".s{level}{{--v:{level * 5}%}}" for level in range(21))
TREES = (
    f"""{_BARS}
.problem{{margin:30px 0 0}}
.problem h2,.problem h4{{margin:0;font-size:18px}}
.is-right{{--win:var(--good);--win-soft:var(--good-soft)}}
.is-wrong{{--win:var(--bad);--win-soft:var(--bad-soft)}}
.is-none{{--win:var(--quiet);--win-soft:var(--well)}}
"""
    + """
.search{margin:26px 0 40px;scroll-margin-top:60px;
p{margin:2px 0 0}
h3,h5{margin:0;font-size:16px;overflow-wrap:anywhere}
pre{line-height:1.55}
.part{color:var(--quiet);font-size:13px;margin-top:4px}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--quiet);font-size:13px;margin-top:10px;
align-items:center}
.key span{display:inline-flex;align-items:center;gap:7px}
.takes{background:none;box-shadow:inset 0 0 0 1px currentColor;color:var(--win)}
.answers td:last-child,.answers th:last-child{text-align:left}
.answers td:last-child{white-space:normal;min-width:17em}
.tree{overflow-x:auto;margin-top:12px;padding:16px 18px 6px;background:var(--card);
border:1px solid var(--line);border-radius:8px}
.tree ol,.tree ul{list-style:none;margin:0;padding:0}
.step{position:relative;padding:0 0 14px 24px;min-width:250px;scroll-margin-top:70px}
.step::before{content:"";position:absolute;left:5px;top:12px;bottom:-12px;width:2px;background:var(--rail)}
ol>.step:last-child::before,ul>.step::before{display:none}
.below .step:last-child{padding-bottom:6px}
.step::after{content:"";position:absolute;left:0;top:5px;width:12px;height:12px;border-radius:50%;
background:var(--card);border:2px solid var(--rail)}
.step.wins::before{background:var(--win)}
.step.wins::after{background:var(--win);border-color:var(--win)}
.step.ends:not(.wins)::after{background:var(--quiet);border-color:var(--quiet)}
.step.pruned::after{border-style:dashed}
.step.pruned>pre{color:var(--quiet);opacity:.8}
.step:target>.head{outline:2px solid var(--focus);outline-offset:3px;border-radius:4px}
.head{display:flex;flex-wrap:wrap;gap:3px 10px;align-items:center;font-size:13px;margin-bottom:2px}
.head b{font-weight:600}
.head .badge{white-space:normal}
.head .quiet{font-size:12.5px}
.wins>.head b{color:var(--win)}
.step>pre{padding:5px 10px;border-left:3px solid transparent;border-radius:0 6px 6px 0;max-height:32em}
.step.wins>pre{background:var(--win-soft);border-left-color:var(--win);border-radius:6px}
.step:not(.wins)>pre{padding-left:0}
.score{display:inline-flex;align-items:center;gap:6px}
.bar{display:inline-block;width:56px;height:7px;border-radius:4px;background:var(--well);overflow:hidden}
.bar::before{content:"";display:block;height:100%;width:var(--v);border-radius:4px;
background:color-mix(in oklab,var(--high) var(--v),var(--low))}
.strip{display:inline-flex;gap:2px;vertical-align:-2px}
.strip i{display:flex;align-items:flex-end;width:6px;height:14px;border-radius:2px;background:var(--well)}
.strip i::before{content:"";width:100%;height:var(--v);min-height:1px;border-radius:2px;
background:color-mix(in oklab,var(--high) var(--v),var(--low))}
details{margin-top:6px;font-size:13px}
summary{cursor:pointer;color:var(--quiet);width:fit-content;border-radius:6px;padding:1px 8px 1px 4px}
summary:hover{background:var(--well)}
details>.below{margin:8px 0 2px 2px;padding-left:14px;border-left:1px dashed var(--rail)}
.more>summary{margin-left:-2px}
.note-line{color:var(--quiet);font-style:italic;font-size:13px;padding:0 0 8px 24px}
}
@media(max-width:600px){.search{.tree{padding:12px 10px 4px}
.step{padding-left:20px;min-width:220px}details>.below{padding-left:9px;margin-left:0}}}
"""
)
PAGE = """
header,main,footer,form{max-width:1180px;margin:0 auto}
.bar-top{position:sticky;top:0;z-index:2;background:var(--page);border-bottom:1px solid var(--line);
margin-top:14px}
.only .others,.only .note-line{display:none}
@media(max-width:600px){.bar-top{position:static}}
"""
SCRIPT = """
const form = document.querySelector("form");
const all = open => { for (const d of document.querySelectorAll(".tree details")) d.open = open; };
function reveal() {
  const place = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (!place) return;
  form.elements.only.checked = false;
  document.body.classList.remove("only");
  for (let d = place.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
  place.scrollIntoView();
}
form.elements.open.addEventListener("click", () => all(true));
form.elements.close.addEventListener("click", () => all(false));
form.elements.only.addEventListener("change", event =>
  document.body.classList.toggle("only", event.target.checked));
form.addEventListener("submit", event => event.preventDefault());
addEventListener("hashchange", reveal);
document.querySelector(".bar-top").hidden = false;
reveal();
"""
