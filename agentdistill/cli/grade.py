"""`agentdistill grade`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentdistill.cli import options as o

if TYPE_CHECKING:
    from agentdistill.stages.grade import GradeSummary


def grade(
    run: Annotated[Path, typer.Argument(help="RUN folder.")],
    as_json: o.AsJson = False,
) -> None:
    """Score a run's answers and print a table.

    Example: agentdistill grade runs/teacher
    """
    from agentdistill.cli.console import Bars
    from agentdistill.stages.grade import grade as score

    show(score(run, progress=Bars()), as_json)


def show(summary: GradeSummary, as_json: bool) -> None:
    """Print a grade table for people (stderr), or the summary as JSON (stdout)."""
    from rich.table import Table

    from agentdistill.cli.console import err, print_json
    from agentdistill.types import to_json

    if as_json:
        record = to_json(summary)
        del record["scores"]
        print_json(record)
        return
    table = Table(title=summary.run, title_justify="left")
    for column in ("tasks", "correct", "n", "accuracy", "95 % interval"):
        table.add_column(column, justify="left" if column == "tasks" else "right")
    rows = {**summary.by_source, "all": summary.all} if len(summary.by_source) != 1 else summary.by_source
    for name, tally in rows.items():
        share = f"{tally.rate:.1%}" if tally.n else "-"
        table.add_row(name, str(tally.successes), str(tally.n), share, f"{tally.low:.1%} to {tally.high:.1%}")
    err.print(table)
    errors = ", ".join(f"{kind} {count}" for kind, count in sorted(summary.step_errors.items())) or "none"
    err.print(
        f"per attempt: {summary.steps:.1f} steps, {summary.tokens_in:.0f} tokens read, "
        f"{summary.tokens_out:.0f} written, {summary.seconds:.1f} s; stopped by the step limit: "
        f"{summary.stopped['max_steps']}; steps with errors: {errors}; failed attempts: {summary.failed}"
    )
    if (found := summary.majority) is not None:
        err.print(
            f"by the answer that most samples of a task gave: {found.successes} of {found.n} tasks, "
            f"{found.rate:.1%} ({found.low:.1%} to {found.high:.1%})"
        )
