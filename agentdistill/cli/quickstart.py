"""`agentdistill quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentdistill.cli import options as o

if TYPE_CHECKING:
    from agentdistill.quickstart.report import QuickstartResult


def quickstart(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything it makes.")] = Path("quickstart"),
    eval_file: Annotated[
        str | None,
        typer.Option("--eval", help="A task file to evaluate on as well (its first 40).", show_default=False),
    ] = None,
    sandbox: o.SandboxSpec = "auto",
    as_json: o.AsJson = False,
) -> None:
    """The whole pipeline on this machine, with a report at the end.

    Ctrl-C keeps the work, the same command goes on.

    Example: agentdistill quickstart --out quickstart
    """
    from agentdistill.cli.console import Bars, print_json
    from agentdistill.quickstart.pipeline import quickstart as run
    from agentdistill.quickstart.report import summary

    result = run(out, eval_file=eval_file, sandbox=sandbox or "auto", progress=Bars())
    if as_json:
        print_json(summary(result))
    show(result)


def show(result: QuickstartResult) -> None:
    """The table people see at the end."""
    from rich.table import Table

    from agentdistill.cli.console import err
    from agentdistill.quickstart.report import STUDENT, STUDENTS, seconds_without_download

    table = Table(title=f"{STUDENT} on tasks it never saw", title_justify="left")
    for column in ("student", "tasks", "correct", "accuracy", "95 % interval"):
        table.add_column(column, justify="left" if column in ("student", "tasks") else "right")
    for (name, benchmark), found in result.evaluations.items():
        share = found.all
        table.add_row(
            STUDENTS[name],
            benchmark,
            f"{share.successes} of {share.n}",
            f"{share.rate:.1%}",
            f"{share.low:.1%} to {share.high:.1%}",
        )
    err.print(table)
    teacher = result.teacher.all
    stages = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in result.seconds.items())
    err.print(f"The teacher solved {teacher.successes} of {teacher.n} live training tasks.")
    err.print(f"{stages}; after downloads {seconds_without_download(result) / 60:.1f} min in all.")
    err.print(f"Report: {result.out / 'report.html'}", markup=False)
    student = result.out / "student"
    err.print(
        f"Next: agentdistill eval {result.out / 'tasks' / 'held-out.jsonl'} -o runs/mine --model {student} "
        "--max-steps 1",
        markup=False,
    )
