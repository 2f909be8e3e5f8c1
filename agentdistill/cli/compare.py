"""`agentdistill compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentdistill.cli import options as o

if TYPE_CHECKING:
    from agentdistill.stages.compare import Comparison


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Graded RUN folders; each is compared with the first.")],
    html: Annotated[
        Path | None, typer.Option(help="Write a page with all of it.", show_default=False)
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write a table for a paper or a model card.", show_default=False)
    ] = None,
    as_json: o.AsJson = False,
) -> None:
    """Compare runs task by task: the paired difference with its interval, and what could not be paired.

    Example: agentdistill compare runs/untrained runs/student --html student.html
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.stages.compare import compare as run

    found = run(runs, html=html, markdown_file=markdown)
    if as_json:
        print_json(_record(found))
    else:
        show(found)
    for file in (html, markdown):
        if file is not None:
            err.print(f"written: {file}", markup=False)


def show(found: Comparison) -> None:
    """Tables on stderr: what each run has, then each difference."""
    from rich.table import Table

    from agentdistill.cli.console import err

    table = Table(title="right, with 95 % intervals", title_justify="left")
    table.add_column("run")
    sources = list(dict.fromkeys(source for run in found.runs for source in run.rows()))
    for source in sources:
        table.add_column(source, justify="right")
    for run in found.runs:
        rows = run.rows()
        cells = [
            f"{rows[s].rate:.1%} of {rows[s].n} ({rows[s].low:.1%} to {rows[s].high:.1%})"
            if s in rows
            else ""
            for s in sources
        ]
        table.add_row(run.label, *cells)
    err.print(table)
    for pairing in found.pairings:
        table = Table(title=pairing.label, title_justify="left")
        for column in ("tasks", "paired", "points", "95 % interval", "gained", "lost", "p"):
            table.add_column(column, justify="left" if column == "tasks" else "right")
        for source, row in pairing.rows().items():
            table.add_row(
                source,
                str(row.n),
                f"{100 * row.difference:+.1f}",
                f"{100 * row.low:+.1f} to {100 * row.high:+.1f}",
                str(row.gained),
                str(row.lost),
                f"{row.p:.2g}",
            )
        err.print(table)
        if said := pairing.unpaired():
            err.print(said, markup=False)


def _record(found: Comparison) -> dict[str, object]:
    from agentdistill.types import to_json

    return {
        "runs": [{"run": run.label, "model": run.model, "rates": to_json(run.rows())} for run in found.runs],
        "differences": [
            {
                "run": pairing.run.label,
                "with": found.runs[0].label,
                "all": to_json(pairing.all),
                "by_source": to_json(pairing.by_source),
                "only_first": list(pairing.only_first),
                "only_second": list(pairing.only_second),
                "other_question": list(pairing.other_question),
                "changed": list(pairing.changed),
            }
            for pairing in found.pairings
        ],
    }
