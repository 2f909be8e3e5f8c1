"""`agentdistill export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentdistill.cli import options as o


def export(
    source: Annotated[Path, typer.Argument(help="RUN folder, or DATA folder of `agentdistill curate`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write; a folder for hf.")],
    format: Annotated[
        str,
        typer.Option(
            help="messages (TRL, OpenAI), sharegpt or atif, all as JSON Lines, or hf (a `datasets` folder)."
        ),
    ] = "messages",
    correct_only: Annotated[
        bool, typer.Option("--correct-only", help="Only attempts that were graded correct.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            help="With hf: also send it to this repository of the hub; a new one is private.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at -o.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Write trajectories for other tools: trainers, viewers, the hub.

    Example: agentdistill export runs/teacher --format messages --correct-only -o teacher.jsonl
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.stages.export import export as run
    from agentdistill.types import to_json

    summary = run(source, out, format, correct_only=correct_only, force=force, push=push)
    if summary.ungraded:
        err.print(
            f"{summary.ungraded} of {summary.rows} attempts have no verdict, theirs is null "
            f"(agentdistill grade {source})",
            markup=False,
        )
    for reason, count in summary.left_out.items():
        err.print(f"{count} left out: {reason}", markup=False)
    if as_json:
        print_json(to_json(summary))
        return
    err.print(f"{summary.rows} rows ({summary.correct} correct) in {summary.out}", markup=False)
    if summary.pushed:
        err.print(f"sent to {summary.pushed}", markup=False)
