"""The `agentdistill` command. Heavy imports happen inside the commands, so `--help` answers at once.

Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 stopped by Ctrl-C with the work so far kept.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from agentdistill import __version__
from agentdistill.cli import (
    chat,
    compare,
    curate,
    doctor,
    evaluate,
    export,
    generate,
    grade,
    index,
    inspect,
    kb,
    models,
    quickstart,
    sandbox,
    services,
    tasks,
    train,
)
from agentdistill.errors import AgentDistillError

app = typer.Typer(
    name="agentdistill",
    help="Distil a large tool-using agent into a small one anybody can run.\n\n"
    "Start with `agentdistill quickstart`: the whole pipeline on your machine, with a report at the end.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command in (
    quickstart.quickstart,
    generate.generate,
    grade.grade,
    chat.chat,
    compare.compare,
    curate.curate,
    train.train,
    inspect.inspect,
    export.export,
    doctor.doctor,
):
    app.command()(command)
app.command("eval")(evaluate.evaluate)
app.add_typer(tasks.app, name="tasks")
app.add_typer(models.app, name="models")
app.add_typer(index.app, name="index")
app.add_typer(kb.app, name="kb")
app.add_typer(sandbox.app, name="sandbox")
app.add_typer(services.app, name="services")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agentdistill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


# Typer carries a click of its own whose module is private; its public BadParameter is a click UsageError.
_UsageError: Any = typer.BadParameter.__bases__[0]


def main() -> None:
    """Entry point: turns errors into one line and an exit code."""
    try:
        code = app(standalone_mode=False)
    except AgentDistillError as error:
        sys.stderr.write(f"agentdistill: {error}\n")
        code = error.exit_code
    except _UsageError as error:
        context, message = error.ctx, error.format_message()
        hint = f" (see `{context.command_path} --help`)" if context else ""
        if message:  # a group called without a command has printed its help already
            sys.stderr.write(f"agentdistill: {message}{hint}\n")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        code = 0  # the reader of our output went away (`| head`)
    if code == 130:  # typer turns a KeyboardInterrupt into this code by itself
        sys.stderr.write("agentdistill: stopped; the work so far is kept, the same command goes on\n")
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 0)
