"""`agentdistill curate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentdistill.cli import options as o

if TYPE_CHECKING:
    from agentdistill.stages.curate import CurateSummary

NAMED = 5
"""Tasks named on the screen; data.json has them all."""


def curate(
    runs: Annotated[list[Path], typer.Argument(help="Graded RUN folders.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="DATA folder.")],
    test: Annotated[
        list[Path] | None,
        typer.Option(
            help="Task file to be tested on: training tasks that overlap with it are left out. Repeatable.",
            show_default=False,
        ),
    ] = None,
    per_task: Annotated[
        int | None,
        typer.Option(
            help="At most N attempts a task. Without it, all whose code differs.", min=1, show_default=False
        ),
    ] = None,
    kb: Annotated[
        Path | None,
        typer.Option(
            help="KB folder: also rows with an entry that fits, and rows of answers alone.",
            show_default=False,
        ),
    ] = None,
    kb_lexical: Annotated[
        bool, typer.Option("--kb-lexical", help="Find entries by words only, without a sentence encoder.")
    ] = False,
    skip_bad_rows: o.SkipBadRows = None,
    prompt: o.Prompt = None,
    as_json: o.AsJson = False,
) -> None:
    """Keep the trajectories worth learning from, and say why the others were left out.

    Example: agentdistill curate runs/teacher -o data/teacher --test gsm8k_test.jsonl --per-task 2
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.prompts import load_prompts
    from agentdistill.stages.curate import curate as run
    from agentdistill.stages.knowledge_rows import KnowledgeRows
    from agentdistill.types import to_json

    summary = run(
        runs,
        out,
        load_prompts(prompt or "student"),
        tests=test or (),
        per_task=per_task,
        skip_bad_rows=bool(skip_bad_rows),
        knowledge=KnowledgeRows(o.open_knowledge(kb, hybrid=not kb_lexical), kb.name) if kb else None,
    )
    for line in summary.skipped:
        err.print(f"skipped {line}", markup=False)
    if as_json:
        print_json(to_json(summary))
    else:
        show(summary)
    if not summary.kept:
        err.print("No row is left: nothing to train on.")
        raise typer.Exit(1)


def show(summary: CurateSummary) -> None:
    """A table of what became of the attempts, on stderr."""
    from rich.table import Table

    from agentdistill.cli.console import err
    from agentdistill.stages.curate import Rejection

    table = Table(title=summary.out, title_justify="left")
    table.add_column("attempts")
    for column in ("n", "share"):
        table.add_column(column, justify="right")
    counts = {"kept as rows": summary.kept}
    counts |= {reason.value: summary.rejected.get(reason.value, 0) for reason in Rejection}
    for name, count in counts.items():
        if count or name == "kept as rows":
            table.add_row(name, str(count), f"{count / max(1, summary.attempts):.1%}")
    table.add_row("all", str(summary.attempts), "", style="bold")
    err.print(table)
    if summary.variants:
        counts_of = ", ".join(f"{count} {name}" for name, count in summary.variants.items())
        err.print(f"rows: {counts_of}", markup=False)
    for found in summary.overlaps[:NAMED]:
        shared = f"shares {found.words} words in a row with" if found.words else "has the question of"
        err.print(f"left out: {found.task} {shared} {found.test} ({found.file})", markup=False)
    if len(summary.overlaps) > NAMED:
        err.print(f"and {len(summary.overlaps) - NAMED} more tasks: see data.json", markup=False)
