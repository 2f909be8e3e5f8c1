"""One self-contained HTML file about a run: numbers, curves, examples, costs, provenance.

Guaranteed: the file needs nothing else (no script, no request, its pictures are inline SVG); every
text is escaped, so what a model wrote can't become markup; it is written whole or not at all.

Not guaranteed: that the numbers are right. They come as they are from the caller, intervals included.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentdistill.errors import RunDirectoryError
from agentdistill.evaluation.charts import interval_bar, loss_chart
from agentdistill.runs import write_atomic

_LONGEST_TEXT = 6_000
"""Characters of one model-written text that are shown; the rest is in the run's own files."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """`correct` of `n`, with the caller's interval; shares are in 0..1."""

    label: str
    model: str
    benchmark: str
    correct: int
    n: int
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """A paired difference in accuracy on the same tasks; `gained` and `lost` count flips."""

    label: str
    benchmark: str
    difference: float
    low: float
    high: float
    gained: int
    lost: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class RenderedStep:
    """One step of an attempt as text."""

    thought: str = ""
    code: str = ""
    observation: str = ""


@dataclass(frozen=True, slots=True)
class RenderedAttempt:
    """One attempt in an example: who made it, its steps, its answer and the verdict."""

    label: str
    steps: Sequence[RenderedStep]
    answer: str | None
    correct: bool


@dataclass(frozen=True, slots=True)
class Example:
    """Attempts at one task, shown side by side."""

    question: str
    gold: str
    attempts: Sequence[RenderedAttempt]


@dataclass(frozen=True, slots=True)
class StageTiming:
    """What one stage cost."""

    stage: str
    seconds: float
    tokens_in: int = 0
    tokens_out: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything a report shows, in its order. Empty parts are left out.

    `facts` and `provenance` are label to text; `losses` maps a curve's name to (step, loss) points.
    """

    title: str
    subtitle: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    accuracies: Sequence[Accuracy] = ()
    differences: Sequence[Difference] = ()
    losses: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    timings: Sequence[StageTiming] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path, data: ReportData) -> None:
    """Write the page to `path`, atomically; raises RunDirectoryError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot write the report {path}: {error.strerror or error}") from error
    write_atomic(path, render(data))


def render(data: ReportData) -> str:
    """The page as text."""
    sections = (
        _facts(data.facts),
        _accuracies(data.accuracies, data.differences),
        _losses(data.losses),
        _examples(data.examples),
        _timings(data.timings),
        _provenance(data.provenance),
    )
    return _PAGE.format(
        title=_text(data.title),
        subtitle=f'<p class="subtitle">{_text(data.subtitle)}</p>' if data.subtitle else "",
        style=_STYLE,
        body="\n".join(section for section in sections if section),
    )


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    cells = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items()
    )
    return f'<dl class="facts">{cells}</dl>'


def _accuracies(accuracies: Sequence[Accuracy], differences: Sequence[Difference]) -> str:
    """A table a benchmark, so that only comparable numbers stand under each other."""
    if not accuracies and not differences:
        return ""
    parts = ["<h2>Accuracy</h2>"]
    benchmarks = [row.benchmark for row in accuracies] + [row.benchmark for row in differences]
    for benchmark in dict.fromkeys(benchmarks):
        rows = "".join(
            f"<tr><td>{_text(row.label)}<small>{_text(row.model)}</small></td>"
            f'<td class="number"><strong>{_share(row.correct / row.n if row.n else 0.0)}</strong>'
            f"<small>{row.correct} of {row.n}</small></td>"
            f'<td class="bar">{interval_bar(row.correct / row.n if row.n else 0.0, row.low, row.high)}'
            f"<small>{_share(row.low)} – {_share(row.high)}</small></td>"
            f"<td>{_text(row.note)}</td></tr>"
            for row in accuracies
            if row.benchmark == benchmark
        )
        parts.append(f"<h3>{_text(benchmark)}</h3>")
        if rows:
            head = "<tr><th>Who</th><th>Correct</th><th>95 % interval</th><th></th></tr>"
            parts.append(f'<div class="scroll"><table class="accuracy">{head}{rows}</table></div>')
        for row in differences:
            if row.benchmark == benchmark:
                parts.append(_difference(row))
    return "<section>" + "".join(parts) + "</section>"


def _difference(row: Difference) -> str:
    # An interval that holds 0 shows no difference, and the page must not look as if it did.
    kind = "up" if row.low > 0 else "down" if row.high < 0 else "none"
    words = {"up": "better", "down": "worse", "none": "no difference shown"}[kind]
    return (
        f'<p class="difference {kind}">'
        f"<strong>{_text(row.label)}: {_points(row.difference)} points</strong> "
        f"(95 % interval {_points(row.low)} to {_points(row.high)}; {words}). "
        f"Tasks gained: {row.gained}, lost: {row.lost}. {_text(row.note)}</p>"
    )


def _losses(losses: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    curves = {name: points for name, points in losses.items() if points}
    if not curves:
        return ""
    return f'<section><h2>Training loss</h2><div class="chart">{loss_chart(curves)}</div></section>'


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    parts = ["<h2>The same task, side by side</h2>"]
    for example in examples:
        attempts = "".join(_attempt(attempt) for attempt in example.attempts)
        parts.append(
            f'<article><p class="question">{_text(example.question)}</p>'
            f'<p class="gold">Right answer: <strong>{_text(example.gold)}</strong></p>'
            f'<div class="attempts">{attempts}</div></article>'
        )
    return "<section>" + "".join(parts) + "</section>"


def _attempt(attempt: RenderedAttempt) -> str:
    steps = "".join(
        f"<li>{_block('thought', step.thought)}{_block('code', step.code)}"
        f"{_block('seen', step.observation)}</li>"
        for step in attempt.steps
    )
    verdict = (
        '<span class="verdict right">✓ right</span>'
        if attempt.correct
        else ('<span class="verdict wrong">✗ wrong</span>')
    )
    answer = "no answer" if attempt.answer is None else f"answer: {_cut(attempt.answer, 300)}"
    return (
        f'<div class="attempt"><h4>{_text(attempt.label)} {verdict}</h4>'
        f"<ol>{steps}</ol><p>{_text(answer)}</p></div>"
    )


def _block(kind: str, text: str) -> str:
    text = _cut(text.strip(), _LONGEST_TEXT)
    if not text:
        return ""
    tag = "p" if kind == "thought" else "pre"
    return f'<{tag} class="{kind}">{_text(text)}</{tag}>'


def _timings(timings: Sequence[StageTiming]) -> str:
    if not timings:
        return ""
    rows = "".join(
        f'<tr><td>{_text(row.stage)}</td><td class="number">{_seconds(row.seconds)}</td>'
        f'<td class="number">{_count(row.tokens_in)}</td><td class="number">{_count(row.tokens_out)}</td>'
        f"<td>{_text(row.note)}</td></tr>"
        for row in timings
    )
    seconds = sum(row.seconds for row in timings)
    tokens_in, tokens_out = sum(row.tokens_in for row in timings), sum(row.tokens_out for row in timings)
    total = (
        f'<tr class="total"><td>Total</td><td class="number">{_seconds(seconds)}</td>'
        f'<td class="number">{_count(tokens_in)}</td><td class="number">{_count(tokens_out)}</td>'
        "<td></td></tr>"
    )
    head = "<tr><th>Stage</th><th>Time</th><th>Tokens in</th><th>Tokens out</th><th></th></tr>"
    return (
        "<section><h2>What it cost</h2>"
        f'<div class="scroll"><table>{head}{rows}{total}</table></div></section>'
    )


def _provenance(provenance: Mapping[str, str]) -> str:
    if not provenance:
        return ""
    rows = "".join(
        f'<tr><td>{_text(name)}</td><td class="value">{_text(value)}</td></tr>'
        for name, value in provenance.items()
    )
    return f'<section><h2>Where it comes from</h2><div class="scroll"><table>{rows}</table></div></section>'


def _text(text: str) -> str:
    """Escaped, and without control characters, which no HTML may hold."""
    return html.escape("".join(char if char >= " " or char in "\n\t" else "�" for char in str(text)))


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text) - longest:,} characters more)"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _count(value: int) -> str:
    return f"{value:,}" if value else "–"


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


_STYLE = """
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
.verdict { white-space: nowrap; }
.verdict.right { color: var(--right); } .verdict.wrong { color: var(--wrong); }
@media (max-width: 40rem) { body { padding: 1rem .9rem 3rem; } article { padding: .75rem; } }
@media print { pre { max-height: none; } article { break-inside: avoid; } }
"""

_PAGE = """<!doctype html>
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
