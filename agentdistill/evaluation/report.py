"""One self-contained HTML file about a run: numbers, curves, examples, costs, provenance.

Guaranteed: the file needs nothing else (no script, no request, its pictures are inline SVG); every
text is escaped, so what a model wrote can't become markup; it is written whole or not at all.

Not guaranteed: that the numbers are right. They come as they are from the caller, intervals included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentdistill.errors import RunDirectoryError
from agentdistill.evaluation.charts import count_bar, interval_bar, loss_chart
from agentdistill.evaluation.page import PAGE, STYLE, escaped
from agentdistill.runs import write_atomic

_LONGEST_TEXT = 6_000
"""Characters of one model-written text that are shown; the rest is in the run's own files."""

_OPEN = 4
"""Examples that are not folded."""


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
    """Attempts at one task, shown side by side; `note` says why it is shown."""

    question: str
    gold: str
    attempts: Sequence[RenderedAttempt]
    note: str = ""


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

    `facts` and `provenance` are label to text; `losses` maps a curve's name to (step, loss) points; `counts`
    maps a heading to what was counted under it. Of the examples the first few are open, the others folded.
    """

    title: str
    subtitle: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    accuracies: Sequence[Accuracy] = ()
    differences: Sequence[Difference] = ()
    losses: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    examples_title: str = "The same task, side by side"
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
        _grid(data.accuracies),
        _accuracies(data.accuracies, data.differences),
        _losses(data.losses),
        _counts(data.counts),
        _examples(data.examples, data.examples_title),
        _timings(data.timings),
        _provenance(data.provenance),
    )
    return PAGE.format(
        title=escaped(data.title),
        subtitle=f'<p class="subtitle">{escaped(data.subtitle)}</p>' if data.subtitle else "",
        style=STYLE,
        body="\n".join(section for section in sections if section),
    )


def _facts(facts: Mapping[str, str]) -> str:
    if not facts:
        return ""
    cells = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in facts.items()
    )
    return f'<dl class="facts">{cells}</dl>'


def _grid(accuracies: Sequence[Accuracy]) -> str:
    """Who by benchmark, where there are several of both. What was not measured is left empty."""
    names = list(dict.fromkeys(row.label for row in accuracies))
    benchmarks = list(dict.fromkeys(row.benchmark for row in accuracies))
    if len(names) < 2 or len(benchmarks) < 2:
        return ""
    cells = {
        (row.label, row.benchmark): f"<strong>{_share(row.correct / row.n if row.n else 0.0)}</strong> "
        f"<small>{100 * row.low:.0f}–{100 * row.high:.0f}</small>"
        for row in accuracies
    }
    head = "".join(f"<th>{escaped(benchmark)}</th>" for benchmark in benchmarks)
    rows = "".join(
        f"<tr><td>{escaped(name)}</td>"
        + "".join(f'<td class="number">{cells.get((name, benchmark), "")}</td>' for benchmark in benchmarks)
        + "</tr>"
        for name in names
    )
    return (
        '<section><h2>At a glance</h2><div class="scroll"><table class="grid">'
        f"<tr><th></th>{head}</tr>{rows}</table></div></section>"
    )


def _counts(counts: Mapping[str, Mapping[str, int]]) -> str:
    parts = []
    for heading, found in counts.items():
        most = max(found.values(), default=0)
        rows = "".join(
            f"<tr><td>{escaped(name)}</td><td>{count_bar(count, most)}</td>"
            f'<td class="number">{count:,}</td></tr>'
            for name, count in found.items()
        )
        parts.append(f"<div><h3>{escaped(heading)}</h3><table>{rows}</table></div>" if rows else "")
    body = "".join(parts)
    return f'<section><h2>What happened</h2><div class="counts">{body}</div></section>' if body else ""


def _accuracies(accuracies: Sequence[Accuracy], differences: Sequence[Difference]) -> str:
    """A table a benchmark, so that only comparable numbers stand under each other."""
    if not accuracies and not differences:
        return ""
    parts = ["<h2>Accuracy</h2>"]
    benchmarks = [row.benchmark for row in accuracies] + [row.benchmark for row in differences]
    for benchmark in dict.fromkeys(benchmarks):
        rows = "".join(
            f"<tr><td>{escaped(row.label)}<small>{escaped(row.model)}</small></td>"
            f'<td class="number"><strong>{_share(row.correct / row.n if row.n else 0.0)}</strong>'
            f"<small>{row.correct} of {row.n}</small></td>"
            f'<td class="bar">{interval_bar(row.correct / row.n if row.n else 0.0, row.low, row.high)}'
            f"<small>{_share(row.low)} – {_share(row.high)}</small></td>"
            f"<td>{escaped(row.note)}</td></tr>"
            for row in accuracies
            if row.benchmark == benchmark
        )
        parts.append(f"<h3>{escaped(benchmark)}</h3>")
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
        f"<strong>{escaped(row.label)}: {_points(row.difference)} points</strong> "
        f"(95 % interval {_points(row.low)} to {_points(row.high)}; {words}). "
        f"Tasks gained: {row.gained}, lost: {row.lost}. {escaped(row.note)}</p>"
    )


def _losses(losses: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    curves = {name: points for name, points in losses.items() if points}
    if not curves:
        return ""
    return f'<section><h2>Training loss</h2><div class="chart">{loss_chart(curves)}</div></section>'


def _examples(examples: Sequence[Example], title: str) -> str:
    if not examples:
        return ""
    parts = [f"<h2>{escaped(title)}</h2>"]
    for number, example in enumerate(examples):
        article = _example(example)
        if number >= _OPEN:
            first = " ".join(example.question.split())
            head = f"{example.note}: {_cut(first, 160)}" if example.note else _cut(first, 160)
            article = f"<details><summary>{escaped(head)}</summary>{article}</details>"
        parts.append(article)
    return "<section>" + "".join(parts) + "</section>"


def _example(example: Example) -> str:
    attempts = "".join(_attempt(attempt) for attempt in example.attempts)
    note = f'<p class="note">{escaped(example.note)}</p>' if example.note else ""
    return (
        f'<article><p class="question">{escaped(example.question)}</p>'
        f'<p class="gold">Right answer: <strong>{escaped(_cut(example.gold, 300))}</strong></p>{note}'
        f'<div class="attempts">{attempts}</div></article>'
    )


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
        f'<div class="attempt"><h4>{escaped(attempt.label)} {verdict}</h4>'
        f"<ol>{steps}</ol><p>{escaped(answer)}</p></div>"
    )


def _block(kind: str, text: str) -> str:
    text = _cut(text.strip(), _LONGEST_TEXT)
    if not text:
        return ""
    tag = "p" if kind == "thought" else "pre"
    return f'<{tag} class="{kind}">{escaped(text)}</{tag}>'


def _timings(timings: Sequence[StageTiming]) -> str:
    if not timings:
        return ""
    rows = "".join(
        f'<tr><td>{escaped(row.stage)}</td><td class="number">{_seconds(row.seconds)}</td>'
        f'<td class="number">{_count(row.tokens_in)}</td><td class="number">{_count(row.tokens_out)}</td>'
        f"<td>{escaped(row.note)}</td></tr>"
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
        f'<tr><td>{escaped(name)}</td><td class="value">{escaped(value)}</td></tr>'
        for name, value in provenance.items()
    )
    return f'<section><h2>Where it comes from</h2><div class="scroll"><table>{rows}</table></div></section>'


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
