"""Attempts as one self-contained HTML file: a table, and below it each attempt to unfold.

Guaranteed as of `report.py`: no script, no request, every text escaped, written whole or not at all. It is
written piece by piece, so memory holds one attempt at a time. Not guaranteed: whole texts; of each at most
SHOWN characters, and how many more there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from agentdistill.errors import RunDirectoryError
from agentdistill.evaluation.attempt import AttemptPage, Look, Part, Section, verdict_words
from agentdistill.evaluation.page import PAGE, STYLE, escaped
from agentdistill.visible import visible

SHOWN = 20_000
"""Characters of one text."""

_BODY = "<!-- body -->"
_STYLE = """
.list td { max-width: 30rem; overflow-wrap: break-word; }
.list th.number, .list td.number { text-align: right; }
.list a { color: inherit; } .list .right { color: var(--right); } .list .wrong { color: var(--wrong); }
.entry > summary { font-weight: 600; color: var(--ink); } .entry:target > summary { color: var(--accent); }
.entry h4 { justify-content: flex-start; }
.entry .attempt > p.thought { font-weight: 400; margin: 0 0 .35rem; }
.entry .attempt details { margin-left: 1rem; } .entry .attempt > details { margin-left: 0; }
.error { border-color: var(--wrong); color: var(--wrong); }
.prompt, .seen, .error, .code { white-space: pre-wrap; } .label { color: var(--dim); font-weight: 600; }
.k, .kn, .ow, .kc { color: var(--third); } .s1, .s2, .s, .sd, .sa, .si { color: var(--right); }
.mi, .mf { color: var(--second); } .c1 { color: var(--dim); } .nb, .nf, .nc { color: var(--accent); }
"""
_PYTHON: PythonLexer = PythonLexer()
_HTML: HtmlFormatter[str] = HtmlFormatter(nowrap=True)


@dataclass(frozen=True, slots=True)
class Heading:
    """A column of the table; numbers stand at its right."""

    title: str
    number: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """What a row of the table leads to: attempts beside each other, or why one cannot be shown, by who made
    them."""

    title: str
    attempts: Sequence[tuple[str, AttemptPage | str]]


def write_attempts(
    path: Path,
    *,
    title: str,
    subtitle: str,
    headings: Sequence[Heading],
    rows: Iterable[Sequence[str]],
    entries: Iterable[Entry],
) -> None:
    """Write the page, replacing what is at `path`; as many rows as entries. Raises RunDirectoryError."""
    page = PAGE.format(
        title=escaped(title),
        subtitle=f'<p class="subtitle">{escaped(subtitle)}</p>',
        style=STYLE + _STYLE,
        body=_BODY,
    )
    head, _, tail = page.partition(_BODY)
    incoming = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with incoming.open("w", encoding="utf-8", errors="replace") as file:
            file.write(head)
            file.writelines(_table(headings, rows))
            file.write("<section><h2>Attempts</h2>\n")
            file.writelines(_entry(number, entry) for number, entry in enumerate(entries, 1))
            file.write(f"</section>{tail}")
            file.flush()
            os.fsync(file.fileno())
        incoming.replace(path)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            incoming.unlink(missing_ok=True)


def _table(headings: Sequence[Heading], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    kinds = [' class="number"' if heading.number else "" for heading in headings]
    cells = (
        f"<th{kind}>{escaped(heading.title)}</th>" for kind, heading in zip(kinds, headings, strict=True)
    )
    yield f'<section><div class="scroll"><table class="list"><tr><th></th>{"".join(cells)}</tr>\n'
    for number, row in enumerate(rows, 1):
        shown = "".join(f"<td{kind}>{_cell(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        yield f'<tr><td class="number"><a href="#n{number}">{number}</a></td>{shown}</tr>\n'
    yield "</table></div></section>\n"


def _cell(text: str) -> str:
    kind = {"✓": "right", "gained": "right", "✗": "wrong", "lost": "wrong"}.get(text)
    return f'<span class="{kind}">{text}</span>' if kind else escaped(text)


def _entry(number: int, entry: Entry) -> str:
    attempts = "".join(_attempt(who, attempt) for who, attempt in entry.attempts)
    return (
        f'<details class="entry"><summary>{number}. {escaped(entry.title)}</summary>'
        f'<article id="n{number}"><div class="attempts">{attempts}</div></article></details>\n'
    )


def _attempt(who: str, page: AttemptPage | str) -> str:
    name = f"<small>{escaped(who)}</small>" if who else ""
    if isinstance(page, str):
        return f'<div class="attempt">{name}<p class="error">{escaped(page)}</p></div>'
    kind = {True: "right", False: "wrong", None: "none"}[page.verdict]
    facts = " · ".join(f"{label} {value}" for label, value in page.facts)
    return (
        f'<div class="attempt">{name}<h4>{escaped(page.title)} '
        f'<span class="verdict {kind}">{verdict_words(page.verdict)}</span></h4>'
        f"<small>{escaped(facts)}</small>{''.join(map(_section, page.sections))}</div>"
    )


def _section(section: Section) -> str:
    inner = "".join([*map(_part, section.parts), *map(_section, section.sections)])
    if section.folded:
        return f"<details><summary>{escaped(section.title)}</summary>{inner}</details>"
    return f"<h3>{escaped(section.title)}</h3>{inner}"


def _part(part: Part) -> str:
    label = f'<span class="label">{escaped(part.label)}: </span>' if part.label else ""
    if part.look is Look.CODE:
        return f'<pre class="code">{highlight(visible(part.text, SHOWN), _PYTHON, _HTML)}</pre>'
    text = escaped(part.text.strip(), SHOWN)
    if part.look in (Look.SEEN, Look.ERROR, Look.PROMPT):
        return f'<pre class="{part.look}">{label}{text}</pre>'
    return f'<p class="{part.look if part.look is not Look.NOTE else "thought"}">{label}{text}</p>'
