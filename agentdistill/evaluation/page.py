"""The page that reports are: its HTML around the body, its style sheet, light and dark, and texts in it."""

from __future__ import annotations

import html

from agentdistill.visible import visible

STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --dim: #626a76; --paper: #ffffff; --panel: #f5f6f8;
  --line: #dfe3e8; --accent: #2f6fde; --second: #c2571a; --third: #7a4bc4; --fourth: #14857a;
  --right: #15803d; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --dim: #9aa3af; --paper: #14171c;
  --panel: #1d2128; --line: #323842; --accent: #7aa7f7; --second: #f0975c; --third: #b898ee;
  --fourth: #5cc5b8; --right: #5fcf86; --wrong: #f28b82; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: .5rem 0 .25rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
h4 { font-size: .95rem; margin: 0 0 .5rem; display: flex; justify-content: space-between; gap: .75rem; }
.subtitle, small, .gold, dt { color: var(--dim); }
.subtitle { margin: 0 0 1.25rem; max-width: 46rem; }
small { display: block; font-size: .8rem; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 0; }
.facts div { background: var(--panel); border-radius: .5rem; padding: .6rem .8rem; }
dt { font-size: .8rem; } dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; color: var(--dim); font-weight: 500; font-size: .8rem; }
th, td { padding: .45rem .9rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.accuracy { table-layout: fixed; min-width: 36rem; } .accuracy th:nth-child(1) { width: 32%; }
.accuracy th:nth-child(2) { width: 15%; } .accuracy th:nth-child(3) { width: 30%; }
.bar svg { width: 100%; height: 1.1rem; display: block; }
.total td { font-weight: 600; border-bottom: 0; }
.value { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .8rem;
  overflow-wrap: anywhere; }
.difference { border-left: 4px solid var(--dim); padding: .5rem .9rem; background: var(--panel);
  border-radius: 0 .5rem .5rem 0; }
.difference.up { border-color: var(--right); } .difference.down { border-color: var(--wrong); }
.chart { max-width: 48rem; overflow-x: auto; }
.chart svg { width: 100%; min-width: 30rem; height: auto; display: block; }
article { border: 1px solid var(--line); border-radius: .75rem; padding: 1rem; margin: 0 0 1.25rem; }
.question { margin: 0; font-weight: 600; white-space: pre-wrap; overflow-wrap: anywhere; }
.gold { margin: .25rem 0 1rem; }
.attempts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.attempt { background: var(--panel); border-radius: .5rem; padding: .8rem; min-width: 0; }
.attempt ol { margin: 0; padding: 0; list-style: none; } .attempt li + li { margin-top: .8rem; }
.attempt > p { margin: .6rem 0 0; font-weight: 600; overflow-wrap: anywhere; }
.thought { margin: 0 0 .35rem; white-space: pre-wrap; overflow-wrap: anywhere; }
pre { margin: 0 0 .35rem; padding: .5rem .65rem; border-radius: .4rem; max-height: 18rem; overflow: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; background: var(--paper); border: 1px solid var(--line);
  font: .82rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre.seen { background: none; border-style: dashed; color: var(--dim); }
.grid td, .grid th { padding-right: 1.2rem; } .grid small { display: inline; }
.counts { display: grid; gap: .5rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }
.counts table { table-layout: fixed; } .counts td { padding: .25rem .6rem .25rem 0; border-bottom: 0; }
.counts td:nth-child(1) { width: 40%; overflow-wrap: anywhere; } .counts td:nth-child(3) { width: 22%; }
.counts svg { width: 100%; height: .7rem; display: block; margin-top: .35rem; }
details { margin: 0 0 .6rem; } details article { margin: .6rem 0 1.25rem; }
summary { cursor: pointer; color: var(--dim); overflow-wrap: anywhere; }
.note { margin: -.75rem 0 .9rem; color: var(--dim); font-size: .9rem; overflow-wrap: anywhere; }
.verdict { white-space: nowrap; }
.verdict.right { color: var(--right); } .verdict.wrong { color: var(--wrong); }
@media (max-width: 40rem) { body { padding: 1rem .9rem 3rem; } article { padding: .75rem; } }
@media print { pre { max-height: none; } article { break-inside: avoid; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>{subtitle}</header>
<main>
{body}
</main>
</body>
</html>
"""


def escaped(text: str, limit: int | None = None) -> str:
    """A text of others as it may stand in HTML: no markup, no control characters, cut at `limit`."""
    return html.escape(visible(text, limit))
