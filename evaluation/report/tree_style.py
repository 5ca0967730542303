"""Style and script of the page of search trees. Without the script everything is there, all closed."""

_BARS = "".join(f".s{level}{{--v:{level * 5}%}}" for level in range(21))
STYLE = (
    """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--line:#dfe3e8;--rail:#cdd3db;--text:#1c2128;
--quiet:#626b77;--good:#1a7f4b;--good-soft:#e3f4ea;--bad:#c2342b;--bad-soft:#fdeae8;--warn:#8a5a00;
--warn-soft:#fdf1d6;--tag:#8a3fb5;--tag-soft:#f4e9fa;--thinking:#4d5a6a;--focus:#2563c9;--low:#b9cdf0;
--high:#1f4fa8;--well:#eef1f5}
@media(prefers-color-scheme:dark){:root{--page:#0f1216;--card:#171b21;--line:#2b323b;--rail:#3a434e;
--text:#e3e7ec;--quiet:#97a1ae;--good:#57c98b;--good-soft:#14301f;--bad:#ff8178;--bad-soft:#3a1a18;
--warn:#eab552;--warn-soft:#352a10;--tag:#d3a1ee;--tag-soft:#2c1f36;--thinking:#a9b4c2;--focus:#7fb0ff;
--low:#2f4a78;--high:#8db6ff;--well:#20262e}}
*{box-sizing:border-box}
[hidden]{display:none!important}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
header,main,footer,form{padding:0 28px;max-width:1180px;margin:0 auto}
header{padding-top:26px}
h1{margin:0;font-size:22px;line-height:1.3}
h2{margin:0;font-size:18px}
h3{margin:0;font-size:16px;overflow-wrap:anywhere}
code,pre{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
code{overflow-wrap:anywhere}
a{color:var(--focus);text-underline-offset:2px}
:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
.quiet{color:var(--quiet);font-weight:400}
p{margin:2px 0 0}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px;line-height:1.55;tab-size:4;
overflow:auto;unicode-bidi:isolate}
pre span,bdi{unicode-bidi:isolate}
.bar-top{position:sticky;top:0;z-index:2;background:var(--page);border-bottom:1px solid var(--line);
margin-top:14px}
form{display:flex;flex-wrap:wrap;gap:8px;align-items:center;padding-top:9px;padding-bottom:9px}
form button,form label{font:inherit;font-size:13.5px;color:inherit;background:var(--card);cursor:pointer;
border:1px solid var(--line);border-radius:99px;padding:2px 12px}
form button:hover,form label:hover{border-color:var(--quiet)}
form label:has(:checked){background:var(--text);border-color:var(--text);color:var(--page)}
form label:has(:focus-visible){outline:2px solid var(--focus);outline-offset:2px}
form input{position:absolute;opacity:0;pointer-events:none}
.part{color:var(--quiet);font-size:13px;margin-top:4px}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--quiet);font-size:13px;margin-top:10px;
align-items:center}
.key span{display:inline-flex;align-items:center;gap:7px}
.box{overflow-x:auto;margin-top:12px;background:var(--card);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{text-align:right;padding:6px 12px;white-space:nowrap;border-top:1px solid var(--line)}
tr:first-child>*{border-top:0}
th{color:var(--quiet);font-weight:400;font-size:12.5px}
td:first-child,th:first-child,.answers td:last-child,.answers th:last-child{text-align:left}
.answers td:last-child{white-space:normal;min-width:17em}
td:first-child{white-space:normal;min-width:11em;overflow-wrap:anywhere}
.problem{margin:30px 0 0}
.search{margin:26px 0 40px;scroll-margin-top:60px}
.title{display:flex;flex-wrap:wrap;gap:4px 12px;align-items:center}
.ask{margin:8px 0 0;display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 14px}
.ask dt{color:var(--quiet)}
.ask dd{margin:0}
.ask pre{max-height:15em;font-size:14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:12px 0 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px 12px}
.tile dt{color:var(--quiet);font-size:12.5px}
.tile dd{margin:0;font-size:18px;font-weight:600;line-height:1.35}
.tile .note{color:var(--quiet);font-size:12px;font-weight:400;text-wrap:balance}
.badge{border-radius:5px;padding:0 7px;font-weight:600;font-size:12.5px;line-height:20px;
background:var(--well);color:var(--quiet);white-space:nowrap}
.badge code{font-size:12px;white-space:normal}
.right{background:var(--good-soft);color:var(--good)}
.wrong{background:var(--bad-soft);color:var(--bad)}
.warn{background:var(--warn-soft);color:var(--warn)}
.takes{background:none;box-shadow:inset 0 0 0 1px currentColor;color:var(--win)}
.is-right{--win:var(--good);--win-soft:var(--good-soft)}
.is-wrong{--win:var(--bad);--win-soft:var(--bad-soft)}
.is-none{--win:var(--quiet);--win-soft:var(--well)}
.tree{overflow-x:auto;margin-top:12px;padding:16px 18px 6px;background:var(--card);
border:1px solid var(--line);border-radius:8px}
.tree ol,.tree ul{list-style:none;margin:0;padding:0}
.step{position:relative;padding:0 0 14px 24px;min-width:250px}
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
.step{scroll-margin-top:70px}
.head{display:flex;flex-wrap:wrap;gap:3px 10px;align-items:center;font-size:13px;margin-bottom:2px}
.head b{font-weight:600}
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
.only .others,.only .note-line{display:none}
.tag{color:var(--tag);background:var(--tag-soft);border-radius:3px;font-weight:600}
.thinking{color:var(--thinking)}
.answer{font-weight:700;border-radius:3px;padding:0 2px;background:var(--warn-soft);color:var(--warn)}
.odd{background:var(--warn-soft);color:var(--warn);border-radius:3px;font-size:.9em}
.cut{display:block;text-align:center;color:var(--quiet);font-style:italic;padding:4px 0}
footer{padding-top:4px;padding-bottom:32px;font-size:13px}
@media(max-width:600px){header,main,footer,form{padding-left:14px;padding-right:14px}
.bar-top{position:static}.tiles{grid-template-columns:repeat(2,1fr);gap:8px}.tile{padding:6px 9px}
.ask{grid-template-columns:1fr;gap:0}.ask dd{margin-bottom:6px}.tree{padding:12px 10px 4px}
.step{padding-left:20px;min-width:220px}details>.below{padding-left:9px;margin-left:0}
th,td{padding:6px 9px}td:first-child{min-width:8em}}
"""
    + _BARS
)
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
