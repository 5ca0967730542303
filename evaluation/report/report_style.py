"""Style and script of the page of a run. Without the script everything is there."""

from __future__ import annotations

REPORT = """
html{scroll-padding-top:58px}
header,main,footer,.links div{max-width:1120px;margin:0 auto;padding-left:28px;padding-right:28px}
header{padding-top:40px}
header .made{color:var(--quiet);font-size:13.5px;margin:0 0 4px}
header h1{font-size:30px;letter-spacing:-.015em;overflow-wrap:anywhere}
.lead{font-size:17px;margin:8px 0 0;max-width:46em}
header .tiles{margin:24px 0 26px;grid-template-columns:repeat(auto-fit,minmax(150px,1fr))}
.tile{padding:12px 16px}
.tile dd{font-size:22px}
.links{position:sticky;top:0;z-index:3;background:var(--page);border-bottom:1px solid var(--line)}
.links div{display:flex;gap:22px;overflow-x:auto;padding-top:11px;padding-bottom:11px;scrollbar-width:none;
font-size:14px}
.links a{color:var(--quiet);text-decoration:none;white-space:nowrap}
.links a:hover{color:var(--text)}
main>section{margin:44px 0 56px}
main>section>h2{margin:0 0 6px;font-size:21px;letter-spacing:-.01em}
main>section>.says{color:var(--quiet);margin:0 0 16px;max-width:46em}
main h3{margin:26px 0 6px;font-size:16px;overflow-wrap:anywhere}
main h4{margin:20px 0 6px;font-size:14px;font-weight:600}
main p{margin:8px 0}
.missing{border:1px solid var(--warn);background:var(--warn-soft);border-radius:10px;padding:12px 18px}
.missing h2{font-size:16px!important;color:var(--warn)}
.missing ul{margin:6px 0 0;padding-left:20px}
.missing li{overflow-wrap:anywhere;margin:3px 0}
.pictures{columns:440px 2;column-gap:18px;margin:16px 0}
figure{margin:0 0 18px;padding:16px 18px 12px;background:var(--card);border:1px solid var(--line);
border-radius:10px;break-inside:avoid}
figure .picture{max-width:none}
figure.wide .picture{max-width:620px;margin:0 auto}
.pictures:has(.wide){columns:1}
.pictures>p{column-span:all}
figcaption{color:var(--quiet);font-size:13px;line-height:1.45;padding-top:10px}
figcaption b{color:var(--text)}
figcaption a{white-space:nowrap}
.effects td{vertical-align:top;padding:12px 14px;white-space:nowrap}
.effects td:first-child,.effects td:nth-child(3){white-space:normal;min-width:19em;overflow-wrap:anywhere}
.effects td:nth-child(3){min-width:15em}
.effects td .quiet{font-size:13px}
.effects th,.effects td,.texts th,.texts td{text-align:left}
.effects td:nth-child(2){white-space:normal;min-width:7.5em}
.texts td{white-space:normal;overflow-wrap:anywhere;vertical-align:top}
.texts td:first-child{width:13em}
.stage{background:var(--card);border:1px solid var(--line);border-radius:10px;margin:8px 0}
.stage>summary{display:grid;grid-template-columns:minmax(11em,15em) minmax(0,1fr) 4.5em 6.5em;gap:2px 16px;
align-items:baseline;padding:11px 16px;cursor:pointer;list-style:none;border-radius:10px}
.stage>summary::-webkit-details-marker{display:none}
.stage>summary:hover{background:var(--paper)}
.stage .name{font-weight:600;overflow-wrap:anywhere}
.stage .name::before{content:"\\203a";display:inline-block;width:.9em;color:var(--quiet);
transition:transform .12s;transform-origin:30% 55%}
.stage[open]>summary .name::before{transform:rotate(90deg)}
.stage .came{color:var(--quiet);font-size:13.5px;overflow-wrap:anywhere}
.stage .took{text-align:right;color:var(--quiet);font-size:13.5px}
.stage>summary .badge{justify-self:end}
.stage .inside{padding:2px 18px 18px;border-top:1px solid var(--line)}
.stage pre,.again pre{padding:10px 12px;border:1px solid var(--line);border-radius:6px;
background:var(--paper);max-height:26em}
.stage .inside>details,.again details{margin-top:12px}
.stage .inside>details>summary,.again summary{color:var(--quiet);cursor:pointer;
width:max-content;font-size:13.5px}
main .group{margin:10px 0 30px;content-visibility:visible}
main .group .card{flex:1 0 min(250px,84vw);max-width:340px}
.numbers{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:10px 18px;margin:14px 0}
.numbers dt{color:var(--quiet);font-size:12.5px;overflow-wrap:anywhere}
.numbers dd{margin:0;font-weight:600;overflow-wrap:anywhere}
.inside .box{width:fit-content;max-width:100%}
.inside .box td,.inside .box th{padding-top:4px;padding-bottom:4px}
.inside :is(td,th):not(:first-child){padding-left:22px}
.trouble{border-left:3px solid var(--bad);padding:6px 14px;margin:12px 0;background:var(--bad-soft);
overflow-wrap:anywhere}
.trouble pre{background:none;border:0;padding:4px 0 0}
@media(max-width:700px){header,main,footer,.links div{padding-left:16px;padding-right:16px}
header{padding-top:26px}header h1{font-size:25px}.lead{font-size:16px}
.stage>summary{grid-template-columns:1fr auto;padding:10px 12px}
.stage .came{grid-column:1/-1;order:3}.stage .took{grid-column:1;text-align:left;order:4}
.stage>summary .badge{order:2}
.stage .inside{padding:2px 12px 14px}
figure{padding:12px 10px 10px}
.effects,.effects tr,.effects td{display:block}
.effects tr:first-child{display:none}
.effects tr{border-top:1px solid var(--line);padding:10px 12px}
.effects td,.effects td:nth-child(n){border:0;padding:3px 0;text-align:left;min-width:0;
white-space:normal}
.effects td:nth-child(5)::before{content:"over the runs ";color:var(--quiet)}
.texts td:first-child{width:auto;min-width:7em}}
@media print{.links{display:none}details::details-content{content-visibility:visible;block-size:auto}}
"""
SCRIPT = """
function reveal() {
  const place = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
  if (!place) return;
  for (let d = place.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
  place.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();
"""
