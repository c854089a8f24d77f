"""Style sheet of the report."""

STYLE = """
:root{--ink:#222831;--muted:#5f6875;--line:#dfe3e8;--soft:#f5f7f9;--accent:#0072b2}
*{box-sizing:border-box}
body{margin:0;color:var(--ink);background:#fff;font:16px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif}
main,header{max-width:1180px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .2rem}
h2{font-size:1.25rem;margin:2.6rem 0 .3rem;padding-top:1.1rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.2rem 0 .2rem}
p{margin:.3rem 0 .8rem;max-width:78ch}
.sub{color:var(--muted);margin:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:12px;
margin:1.4rem 0 0;padding:0}
.tile{background:var(--soft);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
.tile b{display:block;font-size:1.45rem;line-height:1.25;font-weight:650;
font-variant-numeric:tabular-nums}
.tile b small{font-size:.85rem;font-weight:400;color:var(--muted);white-space:nowrap}
.tile span{display:block;font-size:.86rem;color:var(--muted);line-height:1.35}
nav{margin:1.2rem 0 0;font-size:.95rem;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem}
nav a{color:var(--accent);text-decoration:none;white-space:nowrap}
nav a:hover{text-decoration:underline}
figure{margin:.6rem 0 1rem;break-inside:avoid}
figure img{max-width:100%;height:auto;display:block}
figcaption{margin-top:.35rem;font-size:.88rem;color:var(--muted);max-width:90ch}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:8px 28px;
align-items:start}
.wide-right{display:grid;grid-template-columns:minmax(0,1fr) minmax(0,max-content);gap:8px 28px;
align-items:start}
@media(max-width:900px){.wide-right{grid-template-columns:1fr}}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums;
margin:.4rem 0 1rem}
th,td{padding:5px 14px 5px 0;border-bottom:1px solid var(--line);text-align:right;
vertical-align:top;white-space:nowrap}
th{font-weight:600;color:var(--muted);white-space:nowrap}
td:first-child,th:first-child,td.t,th.t{text-align:left}
td.t{white-space:normal}
.wrap table{font-size:.87rem}
.u{white-space:nowrap}
.wrap th{white-space:normal;vertical-align:bottom}
.wide-right table{font-size:.85rem}
.wide-right th,.wide-right td{padding-right:10px}
#slices .bar{display:flex;gap:10px;margin:.7rem 0 .4rem;align-items:center}
#slices select,#slices button{font:inherit;font-size:.9rem;padding:4px 10px;border-radius:6px;
border:1px solid #b9c0c9;background:#fff;color:var(--ink)}
#slices .planes{display:flex;gap:12px;align-items:flex-start}
#slices figure{margin:0}
#slices figcaption{font-size:.8rem;margin:.1rem 0 0}
#slices canvas.slice{display:block;cursor:crosshair;touch-action:none;border:1px solid var(--line)}
#slices canvas:focus-visible{outline:2px solid var(--accent);outline-offset:1px}
#slices canvas.key{width:110px;height:145px;align-self:center}
#slices .below{display:grid;grid-template-columns:minmax(260px,2fr) 3fr;gap:8px 40px;
margin-top:.9rem;align-items:start}
#slices .sliders label{display:flex;align-items:center;gap:8px;font-size:.92rem}
#slices .sliders input{flex:1}
#slices .sliders output{width:6.5em;text-align:right;font-variant-numeric:tabular-nums}
#slices .readout{margin:0;justify-self:start}
#slices .readout th,#slices .readout td{text-align:left;padding:3px 16px 3px 0}
@media(max-width:700px){#slices .below{grid-template-columns:1fr}#slices canvas.key{display:none}}
@media print{#viewer{display:none}}
.note{border-left:3px solid #e69f00;padding-left:10px}
.doubts{border:1px solid #e69f00;border-left-width:5px;border-radius:8px;padding:10px 16px;
margin:1.2rem 0 0}
.doubts ul{margin:.3rem 0 0;padding-left:1.2rem}
a.get{color:var(--accent)}
details{margin:.5rem 0;border:1px solid var(--line);border-radius:8px;padding:8px 14px}
summary{cursor:pointer;font-weight:600}
pre{font-size:.8rem;line-height:1.4;background:var(--soft);padding:12px;border-radius:6px;
overflow:auto;max-height:420px;white-space:pre-wrap;overflow-wrap:anywhere}
footer{max-width:1180px;margin:3rem auto 2rem;padding:1rem 24px 0;color:var(--muted);
font-size:.85rem;border-top:1px solid var(--line)}
@media print{body{font-size:11px}nav{display:none}h2{break-after:avoid}
.tile{break-inside:avoid}main,header,footer{max-width:none;padding:0}}
"""
