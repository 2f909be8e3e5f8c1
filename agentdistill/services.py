"""The services: separate programs that agentdistill starts and never imports. Where they are, which are up.

A checkout comes first, so that what a developer edits is what runs; an installed wheel carries the same
files as data in `agentdistill/_services/`.

A service that `agentdistill services up` has started is remembered in a state file that only its user may
read (it holds the token). Guaranteed: `down` ends exactly the process that `up` has started (pid and time
of its start are compared), for certain; a second `up` starts nothing. Not guaranteed: that a service which
was up a moment ago still is.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_state_path

from agentdistill.errors import InfrastructureError, UsageError

_PACKAGE = Path(__file__).resolve().parent
STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Service:
    """A program that answers GET /health and, with its token, GET /metrics."""

    command: Callable[[], list[str]]
    port: int
    token_variable: str
    scheme: str
    start_seconds: float = 60.0


def sandbox_command() -> list[str]:
    """How the gateway is started; options come after it."""
    return [sys.executable, "-I", str(service_folder("sandbox") / "gateway.py")]


def retrievers_command() -> list[str]:
    """How the package retrievers is run; a command and its options come after it.

    The folder it lies in is put at the end of the path: what else lies there must not hide anything.
    """
    parent = str(service_folder("retrievers").parent)
    run = f"import runpy, sys; sys.path.append({parent!r}); runpy.run_module('retrievers', None, '__main__')"
    return [sys.executable, "-P", "-c", run]


SERVICES = {
    "sandbox": Service(sandbox_command, 8765, "AGENTDISTILL_SANDBOX_TOKEN", "ws"),
    # Importing torch alone takes a minute on a busy machine.
    "retriever": Service(retrievers_command, 8766, "AGENTDISTILL_RETRIEVER_TOKEN", "http", 180.0),
}


@dataclass(frozen=True)
class State:
    """A service that has been started. `pid` and `started` (seconds since the epoch) only for "local".

    `of` is what it serves: a retriever's INDEX.
    """

    service: str
    how: Literal["local", "docker"]
    port: int
    token: str
    pid: int = 0
    started: float = 0.0
    of: str = ""

    @property
    def url(self) -> str:
        """The SPEC to use it by."""
        return f"{service_of(self).scheme}://127.0.0.1:{self.port}"


# ---------------------------------------------------------------------- where the files are


def service_folder(name: str) -> Path:
    """The folder of a service ("sandbox"). Raises InfrastructureError if it was not installed."""
    return _find(name)


def service_file(name: str) -> Path:
    """A file beside the services' folders ("compose.yaml"), likewise."""
    return _find(name)


def _find(name: str) -> Path:
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "sandbox" / "launch.py").is_file():
        return checkout / name
    path = _PACKAGE / "_services" / name
    if path.exists():
        return path
    raise InfrastructureError(f"the service's {name!r} is missing", "reinstall agentdistill")


# ---------------------------------------------------------------------- the ones that are up


def state_folder() -> Path:
    """Where state and log files lie: $AGENTDISTILL_STATE, else the platform's state folder."""
    override = os.environ.get("AGENTDISTILL_STATE")
    return Path(override) if override else user_state_path("agentdistill")


def log_file(name: str) -> Path:
    return state_folder() / f"{name}.log"


def is_up(state: State) -> bool:
    return health(state) is not None if state.how == "docker" else is_running(state)


def down(state: State) -> None:
    """End a service, for certain, and forget it."""
    if state.how == "docker":
        _compose(state, "down", "--timeout", "10")
    else:
        _end(state)
    forget_state(state.service)


def read_state(name: str) -> State | None:
    """What `up` has written; the service may have died since."""
    path = state_folder() / f"{name}.json"
    try:
        return State(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InfrastructureError(
            f"{path} cannot be read: {error}", "end the service by hand, delete it"
        ) from error


def write_state(state: State) -> None:
    path = state_folder() / f"{state.service}.json"
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600, exist_ok=False)
    temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
    temporary.replace(path)


def forget_state(name: str) -> None:
    (state_folder() / f"{name}.json").unlink(missing_ok=True)


def health(state: State) -> dict[str, Any] | None:
    """What the service says of itself, if it answers and knows our token."""
    if _get(state, "/metrics") is None:
        return None
    return _json(_get(state, "/health"))


def _get(state: State, path: str) -> bytes | None:
    connection = http.client.HTTPConnection("127.0.0.1", state.port, timeout=2)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {state.token}"})
        response = connection.getresponse()
        body = response.read(1 << 20)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == 200 else None


def _json(body: bytes | None) -> dict[str, Any] | None:
    try:
        value = json.loads(body or b"")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


# ---------------------------------------------------------------------- local processes


def up_local(
    name: str, port: int | None = None, options: Sequence[str] = (), of: str = ""
) -> tuple[State, bool]:
    """Start a service as a process of this user; False beside its state if it was up already.

    `options` are the program's own. UsageError if the service is up `of` something else.
    """
    service = SERVICES[name]
    state = read_state(name)
    if state is not None and state.how == "docker":
        raise UsageError(f"{name} is up in Docker", "agentdistill services down, then up --local")
    if state is not None and is_running(state):
        if port not in (None, state.port):
            message = f"{name} is up already, on port {state.port}"
            raise UsageError(message, "agentdistill services down first")
        _same_thing(state, of)
        return state, False
    state = State(name, "local", port or service.port, _token(service), of=of)
    return start(state, [*service.command(), *options, "--port", str(state.port)]), True


def _same_thing(state: State, of: str) -> None:
    if state.of != of:
        message = f"{state.service} is up already, for {state.of}"
        raise UsageError(message, "agentdistill services down first")


def start(state: State, command: Sequence[str], listening: int = -1) -> State:
    """Start a program that becomes what `state` says, and wait until it is healthy; the complete state.

    `listening` is a socket that the program gets as descriptor 3. InfrastructureError if it doesn't start.
    """
    state_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    pid = _spawn(command, state, listening)
    state = replace(state, pid=pid, started=_created(pid) or 0.0)
    write_state(state)
    try:
        wait_until_healthy(state)
    except BaseException:
        _end(state)
        forget_state(state.service)
        raise
    return state


def _token(service: Service) -> str:
    """The one in the variable, since clients would use that; else a new one, for the state file."""
    return os.environ.get(service.token_variable) or secrets.token_urlsafe(24)


def _spawn(command: Sequence[str], state: State, listening: int) -> int:
    """In a session of its own: it outlives this command, and Ctrl-C here doesn't reach it."""
    environment = {**os.environ, service_of(state).token_variable: state.token}
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions: list[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_DUP2, listening, 3),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log_file(state.service)), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(  # not subprocess: that wants to see the end of what it has started
        command[0],
        list(command),
        environment,
        file_actions=actions if listening >= 0 else actions[1:],
        setsid=True,
    )


def service_of(state: State) -> Service:
    """The entry of SERVICES. A state's name may go on after a hyphen: one of several of that service."""
    return SERVICES[state.service.partition("-")[0]]


def wait_until_healthy(state: State) -> None:
    """InfrastructureError, with the log's last line, if it ends or isn't healthy in time."""
    seconds = service_of(state).start_seconds
    until = time.monotonic() + seconds
    while health(state) is None:
        if state.how == "local" and not is_running(state):
            last = last_line(log_file(state.service))
            port = "--port" if state.service == "sandbox" else "--retriever-port"
            again = f"agentdistill services up --local {port} {state.port + 1}" if "port" in last else ""
            raise InfrastructureError(
                f"{state.service} ended at its start: {last or 'it said nothing'}", again
            )
        if time.monotonic() > until:
            where = str(log_file(state.service)) if state.how == "local" else "docker logs"
            raise InfrastructureError(f"{state.service} is not healthy after {seconds:g} s", f"see {where}")
        time.sleep(0.05)


def last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else ""
    return ""


def is_running(state: State) -> bool:
    """Whether the very process that `up` has started is there."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(state.pid, os.WNOHANG)  # a child of ours that has ended would stay as a zombie
    created = _created(state.pid)
    return created is not None and abs(created - state.started) < 1.0


def _created(pid: int) -> float | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def _end(state: State) -> None:
    """SIGTERM, and SIGKILL if that doesn't do. Its jails end with it, either way."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + STOP_SECONDS
        if is_running(state):
            with contextlib.suppress(ProcessLookupError):
                os.kill(state.pid, number)
        while is_running(state):
            if time.monotonic() > until:
                break
            time.sleep(0.02)
    if is_running(state):
        raise InfrastructureError(f"process {state.pid} of {state.service} does not end")


# ---------------------------------------------------------------------- Docker


def up_docker(
    name: str,
    port: int | None,
    progress: Callable[[str], None],
    check_image: Callable[[], object],
    variables: Mapping[str, str] | None = None,
    of: str = "",
) -> tuple[State, bool]:
    """Start a service by compose.yaml, likewise. Before, `check_image` raises if its image can't be used.

    `variables` are those that compose.yaml names for this service, beside its token and port.
    """
    state = read_state(name)
    if state is not None and state.how == "local" and is_running(state):
        raise UsageError(f"{name} is up as a local process", "agentdistill services down, then up --docker")
    if state is not None and state.how == "docker" and health(state) is not None:
        if port not in (None, state.port):
            message = f"{name} is up already, on port {state.port}"
            raise UsageError(message, "agentdistill services down first")
        _same_thing(state, of)
        return state, False
    _compose_program()  # both before there is a state to be cleaned up
    check_image()
    state_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    state = State(name, "docker", port or SERVICES[name].port, _token(SERVICES[name]), of=of)
    write_state(state)  # before the start: `down` cleans up after one that fails
    progress(f"{name}: starting the container")
    _compose(state, "up", "-d", name, variables=variables or {})
    progress(f"{name}: waiting until it is healthy")
    wait_until_healthy(state)
    return state, True


def _compose(state: State, *arguments: str, variables: Mapping[str, str] | None = None) -> None:
    """Run compose on our file; its last line is the error's text.

    Each service is a project of its own: `down` ends one and leaves the others.
    """
    service = SERVICES[state.service]
    port_variable = service.token_variable.replace("TOKEN", "PORT")
    own = {service.token_variable: state.token, port_variable: str(state.port), **(variables or {})}
    # Compose wants every variable of the file to be set, also those of services that it doesn't start.
    others = {other.token_variable: "unused" for other in SERVICES.values()}
    environment = {**others, **os.environ, **own}
    file = service_file("compose.yaml")
    project = "agentdistill" if state.service == "sandbox" else f"agentdistill-{state.service}"
    command = [*_compose_program(), "-p", project, "-f", str(file), *arguments]
    # In its folder: the old program looks there, and not beside its file, for the seccomp profile.
    run = subprocess.run(
        command, env=environment, cwd=file.parent, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        lines = (run.stderr or run.stdout).strip().splitlines() or ["it said nothing"]
        build = "agentdistill services build" + (" --retriever" if state.service == "retriever" else "")
        remedy = build if "image" in lines[-1] else "see `docker info`"
        raise InfrastructureError(f"{' '.join(command[:2])} {arguments[0]} failed: {lines[-1][:500]}", remedy)


def _compose_program() -> list[str]:
    """Both are about: the plugin of newer Docker, and the program of its own that came before."""
    if shutil.which("docker"):
        run = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)  # noqa: S607
        if run.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise InfrastructureError("there is no Docker Compose here", "install it, or use services up --local")
