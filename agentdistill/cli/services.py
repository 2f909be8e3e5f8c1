"""`agentdistill services up`, `down`, `status` and `build`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentdistill.cli import options as o

if TYPE_CHECKING:
    from agentdistill.services import State

app = typer.Typer(
    help="Start and stop the sandbox gateway and the retriever on this machine.", no_args_is_help=True
)


@app.command()
def up(
    local: Annotated[
        bool, typer.Option("--local", help="As a process of yours. This is the default.")
    ] = False,
    docker: Annotated[bool, typer.Option("--docker", help="In a container, by Docker Compose.")] = False,
    port: Annotated[
        int | None, typer.Option(help="The sandbox's, on 127.0.0.1. \\[default: 8765]", min=1, max=65535)
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="INDEX folder: starts the retriever too.", show_default=False)
    ] = None,
    retriever_port: Annotated[
        int | None, typer.Option(help="The retriever's, on 127.0.0.1. \\[default: 8766]", min=1, max=65535)
    ] = None,
) -> None:
    """Start the services and wait until they are healthy. Prints the SPECs for --sandbox and --retriever.

    Example: agentdistill services up --local --index wiki-index
    """
    from agentdistill.errors import UsageError

    if local and docker:
        raise UsageError("--local and --docker exclude each other")
    started = time.monotonic()
    _say_up(*_sandbox_up(port, docker), started)
    if index is not None:
        started = time.monotonic()
        _say_up(*_retriever_up(index, retriever_port, docker), started)
    elif retriever_port is not None:
        raise UsageError("--retriever-port goes with --index INDEX")


def _sandbox_up(port: int | None, docker: bool) -> tuple[State, bool]:
    from agentdistill import services

    if not docker:
        return services.up_local("sandbox", port)
    from agentdistill.clients.engine import connect
    from agentdistill.clients.image import image_id

    return services.up_docker("sandbox", port, _say, lambda: image_id(connect()))


def _retriever_up(index: Path, port: int | None, docker: bool) -> tuple[State, bool]:
    from agentdistill import services
    from agentdistill.clients.shared_retriever import encoder_folder

    index = index.resolve()
    encoder = encoder_folder(index)
    if docker:
        from agentdistill.clients.engine import connect
        from agentdistill.clients.image import RETRIEVER, image_id

        variables = {"AGENTDISTILL_RETRIEVER_INDEX": str(index)}
        if encoder is not None:
            variables["AGENTDISTILL_RETRIEVER_ENCODER"] = str(encoder)
        return services.up_docker(
            "retriever", port, _say, lambda: image_id(connect(), RETRIEVER), variables, of=str(index)
        )
    options = ["serve", str(index), *(("--encoder", str(encoder)) if encoder else ())]
    return services.up_local("retriever", port, options, of=str(index))


def _say_up(state: State, new: bool, started: float) -> None:
    name = state.service
    after = f"after {time.monotonic() - started:.1f} s" if new else "already"
    _say(f"{name} is up {after}: use --{name} {state.url}")
    sys.stdout.write(f"{state.url}\n")


def _say(line: str) -> None:
    from agentdistill.cli.console import err

    err.print(line, markup=False)


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
            row.update(how=state.how, url=state.url, pid=state.pid or None, of=state.of or None)
        rows.append(row)
        if as_json:
            continue
        if state is None:
            line = "not up"
        elif found is None:
            line = f"started ({state.how}), but silent at {state.url}: agentdistill services down, then up"
        elif name == "sandbox":
            taken = f"{found.get('sessions')} of {found.get('max_sessions')} sessions"
            line = f"up ({state.how}), {found.get('jail')}, {taken}: {state.url}"
        else:
            old = ", which has changed since: down, then up" if found.get("changed") else ""
            line = f"up ({state.how}), {found.get('passages')} passages of {state.of}{old}: {state.url}"
        sys.stdout.write(f"{name:<10}{line}\n")
    if as_json:
        print_json(rows)


@app.command()
def build(
    base: Annotated[
        str | None, typer.Option(help="Base image with Python 3.11 or later. \\[default: python:3.11-slim]")
    ] = None,
    retriever: Annotated[
        bool, typer.Option("--retriever", help="The retriever's image, and not the sandbox's.")
    ] = False,
) -> None:
    """Build the image that `up --docker` and `--sandbox docker` run in.

    Example: agentdistill services build --base python:3.12-slim
    """
    from agentdistill.clients.image import BASE, RETRIEVER, SANDBOX, build_image

    sys.stdout.write(f"{build_image(base or BASE, _say, RETRIEVER if retriever else SANDBOX)}\n")
