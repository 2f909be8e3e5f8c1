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
    judge: o.JudgeModel = None,
    grader: o.GraderFile = None,
    sandbox: Annotated[
        str, typer.Option(help="Where programs of `code` tasks are tested; SPEC as of generate.")
    ] = "auto",
    workers: Annotated[int, typer.Option(help="Answers judged side by side.", min=1)] = 2,
    as_json: o.AsJson = False,
) -> None:
    """Score a run's answers, print a table, write summary.json and report.html.

    Example: agentdistill grade runs/teacher
    """
    from agentdistill.cli.console import Bars
    from agentdistill.models.spec import open_model
    from agentdistill.stages.grade import grade as score
    from agentdistill.stages.progress import fetching

    own = o.load_grader(grader) if grader else None
    bars = Bars()
    model = open_model(judge, slots=workers, progress=fetching(judge, bars)) if judge else None
    try:
        summary = score(run, grader=own, judge=model, sandbox=sandbox, workers=workers, progress=bars)
    finally:
        if model is not None:
            model.close()
    show(summary, as_json)


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
    columns = ["tasks", "correct", "n", "accuracy", "95 % interval", *(["F1"] if summary.f1 else [])]
    for column in columns:
        table.add_column(column, justify="left" if column == "tasks" else "right")
    rows = {**summary.by_source, "all": summary.all} if len(summary.by_source) != 1 else summary.by_source
    for name, tally in rows.items():
        share = f"{tally.rate:.1%}" if tally.n else "-"
        cells = [name, str(tally.successes), str(tally.n), share, f"{tally.low:.1%} to {tally.high:.1%}"]
        if summary.f1:
            cells.append(f"{100 * summary.f1[name]:.1f}" if name in summary.f1 else "")
        table.add_row(*cells)
    err.print(table)
    errors = ", ".join(f"{kind} {count}" for kind, count in sorted(summary.step_errors.items())) or "none"
    calls = "".join(f", {count:.1f} {tool}" for tool, count in summary.tool_calls.items())
    cost = f", ${summary.usd:.4f}" if summary.usd is not None else ""
    err.print(
        f"per attempt: {summary.steps:.1f} steps{calls}, {summary.tokens_in:.0f} tokens read, "
        f"{summary.tokens_out:.0f} written, {summary.seconds:.1f} s{cost}; stopped by the step limit: "
        f"{summary.stopped['max_steps']}; steps with errors: {errors}; failed attempts: {summary.failed}"
    )
    cut = [f"{name} {n}" for name in ("timeout", "memory", "died") if (n := summary.methods.get(name))]
    if cut:
        err.print(f"answers whose grading was cut off, and which count as wrong: {', '.join(cut)}")
    if summary.pass_at:
        shares = ", ".join(f"pass@{k} {share:.1%}" for k, share in summary.pass_at.items())
        err.print(f"{summary.samples} attempts a task: {shares}; intervals are clustered by task")
    if (most := summary.majority) is not None:
        err.print(
            f"by the answer that most attempts at a task gave: {most.successes} of {most.n} tasks, "
            f"{most.rate:.1%} ({most.low:.1%} to {most.high:.1%})"
        )
    if (found := summary.agreement) is not None:
        kappa = f", kappa {found.kappa:.2f}" if found.kappa is not None else ""
        err.print(
            f"judged by {found.judge}: {found.both + found.neither} of {found.n} as exact match{kappa}; "
            f"right for the judge alone {found.only_judge}, for exact match alone {found.only_exact}; "
            f"no verdict {found.unread}",
            markup=False,
        )
