"""`agentdistill sandbox run` and `sandbox doctor`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from agentdistill.cli import options as o

app = typer.Typer(help="Run code in the jail, and see which jails work here.", no_args_is_help=True)


@app.command()
def run(
    file: Annotated[Path, typer.Argument(help="Python file.")],
    sandbox: o.SandboxSpec = "auto",
    timeout: Annotated[float, typer.Option(help="Seconds.", min=0.1)] = 20.0,
    as_json: o.AsJson = False,
) -> None:
    """Run one program in a fresh session. Its own errors are its result: exit code 0.

    Example: agentdistill sandbox run program.py --timeout 5 --json
    """
    from agentdistill.cli.console import err, print_json
    from agentdistill.clients.sandbox import open_sandbox
    from agentdistill.errors import UsageError
    from agentdistill.types import Limits, to_json

    try:
        code = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    if sandbox == "process":
        err.print("[bold red]warning[/]: --sandbox process is no isolation")
    session = open_sandbox(sandbox or "auto", limits=Limits(seconds=timeout))
    try:
        [execution] = session.run([code])
    finally:
        session.close()
    if as_json:
        names = ("logs", "value", "is_final", "error", "timed_out", "seconds")
        print_json({name: to_json(getattr(execution, name)) for name in names})
        return
    sys.stdout.write(execution.logs)
    if execution.value is not None:
        sys.stdout.write(f"{execution.value}\n")
    if execution.error:
        sys.stderr.write(execution.error.rstrip() + "\n")


@app.command()
def doctor(as_json: o.AsJson = False) -> None:
    """Say which jails work on this machine, and what to do about the others.

    Example: agentdistill sandbox doctor
    """
    from agentdistill.cli.console import print_json
    from agentdistill.cli.doctor import print_checks
    from agentdistill.clients.sandbox import STRENGTH
    from agentdistill.clients.sandbox import doctor as check

    checks = check()
    if as_json:
        print_json([dict(zip(("name", "ok", "detail", "remedy"), row, strict=True)) for row in checks])
    else:
        print_checks(checks)
    if not any(ok for name, ok, *_ in checks if name in STRENGTH):
        raise typer.Exit(1)
