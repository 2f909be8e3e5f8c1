"""`agentdistill services up`, `down`, `status` and `build`."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from agentdistill.cli import options as o

app = typer.Typer(help="Start and stop the sandbox gateway on this machine.", no_args_is_help=True)


@app.command()
def up(
    local: Annotated[
        bool, typer.Option("--local", help="As a process of yours. This is the default.")
    ] = False,
    docker: Annotated[bool, typer.Option("--docker", help="In a container, by Docker Compose.")] = False,
    port: Annotated[
        int | None, typer.Option(help="Port on 127.0.0.1. [default: 8765]", min=1, max=65535)
    ] = None,
) -> None:
    """Start the services and wait until they are healthy. Prints the SPEC for --sandbox.

    Example: agentdistill services up --local --port 8800
    """
    from agentdistill import services
    from agentdistill.cli.console import err
    from agentdistill.errors import UsageError

    if local and docker:
        raise UsageError("--local and --docker exclude each other")
    for name in services.SERVICES:
        started = time.monotonic()
        if docker:
            state, new = services.up_docker(name, port, lambda line: err.print(line, markup=False))
        else:
            state, new = services.up_local(name, port)
        if new:
            err.print(f"{name} is up after {time.monotonic() - started:.1f} s: use --{name} {state.url}")
        else:
            err.print(f"{name} is up already: use --{name} {state.url}")
        sys.stdout.write(f"{state.url}\n")


@app.command()
def down() -> None:
    """Stop the services that `up` has started. Sessions in them end.

    Example: agentdistill services down
    """
    from agentdistill import services
    from agentdistill.cli.console import err

    for name in services.SERVICES:
        state = services.read_state(name)
        if state is None:
            err.print(f"{name} is not up")
            continue
        was_up = services.is_up(state)
        services.down(state)
        err.print(f"{name} is down" if was_up else f"{name} was not up any more")


@app.command()
def status(as_json: o.AsJson = False) -> None:
    """Say which services are up, and how to use them.

    Example: agentdistill services status --json
    """
    from agentdistill import services
    from agentdistill.cli.console import print_json

    rows = []
    for name in services.SERVICES:
        state = services.read_state(name)
        found = services.health(state) if state else None
        row = {"name": name, "up": found is not None, "how": None, "url": None, "pid": None, "health": found}
        if state is not None:
            row.update(how=state.how, url=state.url, pid=state.pid or None)
        rows.append(row)
        if as_json:
            continue
        if state is None:
            line = "not up"
        elif found is None:
            line = f"started ({state.how}), but silent at {state.url}: agentdistill services down, then up"
        else:
            taken = f"{found.get('sessions')} of {found.get('max_sessions')} sessions"
            line = f"up ({state.how}), {found.get('jail')}, {taken}: {state.url}"
        sys.stdout.write(f"{name:<10}{line}\n")
    if as_json:
        print_json(rows)


@app.command()
def build(
    base: Annotated[
        str | None, typer.Option(help="Base image with Python 3.11 or later. [default: python:3.11-slim]")
    ] = None,
) -> None:
    """Build the image that `up --docker` and `--sandbox docker` run in.

    Example: agentdistill services build --base python:3.12-slim
    """
    from agentdistill.cli.console import err
    from agentdistill.clients.image import BASE, build_image

    sys.stdout.write(f"{build_image(base or BASE, lambda line: err.print(line, markup=False))}\n")
