"""How all pages look: colours in light and dark, type, and the small parts that every page has.

What only one page has stands beside it. Rules of parts that the page of a run has, too, are nested in the
class of the part, out of each other's way.
"""

from __future__ import annotations

BASE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--line:#dfe3e8;--rail:#cdd3db;--text:#1c2128;
--quiet:#626b77;--paper:#f6f8fa;--well:#eef1f5;--good:#1a7f4b;--good-soft:#e3f4ea;--bad:#c2342b;
--bad-soft:#fdeae8;--warn:#8a5a00;--warn-soft:#fdf1d6;--tag:#8a3fb5;--tag-soft:#f4e9fa;--thinking:#4d5a6a;
--focus:#2563c9;--low:#b9cdf0;--high:#1f4fa8}
@media(prefers-color-scheme:dark){:root{--page:#0f1216;--card:#171b21;--line:#2b323b;--rail:#3a434e;
--text:#e3e7ec;--quiet:#97a1ae;--paper:#11151a;--well:#20262e;--good:#57c98b;--good-soft:#14301f;
--bad:#ff8178;--bad-soft:#3a1a18;--warn:#eab552;--warn-soft:#352a10;--tag:#d3a1ee;--tag-soft:#2c1f36;
--thinking:#a9b4c2;--focus:#7fb0ff;--low:#2f4a78;--high:#8db6ff}}
*{box-sizing:border-box}
[hidden]{display:none!important}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
header,main,footer{padding:0 28px}
header{padding-top:26px}
h1{margin:0;font-size:22px;line-height:1.3}
code,pre{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}
code{overflow-wrap:anywhere}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:13px;line-height:1.5;tab-size:4;
overflow:auto;unicode-bidi:isolate}
pre span,bdi{unicode-bidi:isolate}
a{color:var(--focus);text-underline-offset:2px}
:focus-visible{outline:2px solid var(--focus);outline-offset:2px}
.quiet{color:var(--quiet);font-weight:400}
header p,footer p{margin:2px 0 0}
footer{padding-top:4px;padding-bottom:32px;font-size:13px}
.title{display:flex;flex-wrap:wrap;gap:4px 12px;align-items:center}
.ask{margin:8px 0 0;display:grid;grid-template-columns:max-content minmax(0,1fr);gap:4px 14px}
.ask dt{color:var(--quiet)}
.ask dd{margin:0}
.ask pre{max-height:15em;font-size:14px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(118px,1fr));gap:10px;margin:16px 0 12px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px 12px}
.tile dt{color:var(--quiet);font-size:12.5px}
.tile dd{margin:0;font-size:18px;font-weight:600;line-height:1.35}
.tile .note{color:var(--quiet);font-size:12px;font-weight:400;text-wrap:balance}
.box{overflow-x:auto;margin-top:12px;background:var(--card);border:1px solid var(--line);border-radius:8px}
.badge{border-radius:5px;padding:0 7px;font-weight:600;font-size:12.5px;line-height:20px;
background:var(--well);color:var(--quiet);white-space:nowrap}
.badge code{font-size:12px;white-space:normal}
.right,.useful{background:var(--good-soft);color:var(--good)}
.wrong{background:var(--bad-soft);color:var(--bad)}
.warn,.unverifiable,.truncated,.unformatted,.replaced,.not{background:var(--warn-soft);color:var(--warn)}
.tag{color:var(--tag);background:var(--tag-soft);border-radius:3px;font-weight:600}
.thinking{color:var(--thinking)}
.answer{font-weight:700;border-radius:3px;padding:0 2px;background:var(--warn-soft);color:var(--warn)}
.is-right .answer{background:var(--good-soft);color:var(--good)}
.is-wrong .answer{background:var(--bad-soft);color:var(--bad)}
.odd{background:var(--warn-soft);color:var(--warn);border-radius:3px;font-size:.9em}
.cut{display:block;text-align:center;color:var(--quiet);font-style:italic;padding:4px 0}
@media(max-width:600px){header,main,footer{padding-left:14px;padding-right:14px}
.tiles{grid-template-columns:repeat(2,1fr);gap:8px}.tile{padding:6px 9px}
.ask{grid-template-columns:1fr;gap:0}.ask dd{margin-bottom:6px}}
"""

CONTROLS = """
form{display:flex;flex-wrap:wrap;gap:8px;align-items:center;padding:10px 28px}
form button,form label{font:inherit;font-size:13.5px;color:inherit;background:var(--card);cursor:pointer;
border:1px solid var(--line);border-radius:99px;padding:2px 12px}
form button:hover,form label:hover{border-color:var(--quiet)}
form label:has(:checked){background:var(--text);border-color:var(--text);color:var(--page)}
form label:has(:focus-visible){outline:2px solid var(--focus);outline-offset:2px}
form input[type=radio],form input[type=checkbox]{position:absolute;opacity:0;pointer-events:none}
form input[type=search]{font:inherit;font-size:13.5px;flex:0 1 220px;min-width:120px;padding:3px 10px;
border:1px solid var(--line);border-radius:8px;background:var(--card);color:inherit}
form output{margin-left:auto;color:var(--quiet);font-size:13.5px}
@media(max-width:600px){form{padding-left:14px;padding-right:14px}}
"""
"""Of the pages that let their content be filtered."""

TABLES = """
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{text-align:right;padding:6px 12px;white-space:nowrap;border-top:1px solid var(--line)}
tr:first-child>*{border-top:0}
th{color:var(--quiet);font-weight:400;font-size:12.5px}
td:first-child,th:first-child{text-align:left}
td:first-child{white-space:normal;min-width:11em;overflow-wrap:anywhere}
@media(max-width:600px){th,td{padding:6px 9px}td:first-child{min-width:8em}}
"""
