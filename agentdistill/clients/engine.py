"""The Docker engine: reach it, say what it lacks, remove containers whose owners are gone.

Guaranteed: an engine that cannot be reached, or cannot hold the limits of a session, is a SandboxError that
says what to do. A container is removed only if its owner is seen to be dead, or if it is none of the running:
a running one ends by itself with its stream.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
from docker.errors import APIError, DockerException, NotFound

from agentdistill.errors import SandboxError

LABEL = "agentdistill"  # its value says what a container or image is for
OWNER = "agentdistill.owner"
KNOCK_SECONDS = 10.0
FORGOTTEN = 600  # seconds after which a session's container that does not run has been left behind

Engine = Any  # docker.APIClient; the library has no types


def connect() -> Engine:
    """A client of the engine, to be closed (`with`). SandboxError if none answers.

    Each caller has one of its own: the library keeps a connection open for every path it was asked for.
    """
    host = os.environ.get("DOCKER_HOST", "")
    where = host or "the local socket"
    try:
        _knock(host)
        return docker.APIClient(**docker.utils.kwargs_from_env(), version=_version(host))
    except PermissionError:
        remedy = "sudo usermod -aG docker $USER, then log in again; that group is as good as root"
        raise SandboxError(f"no permission to use the Docker engine at {where}", remedy) from None
    except (FileNotFoundError, ConnectionRefusedError, socket.gaierror, TimeoutError):
        remedy = "install and start Docker, or set DOCKER_HOST to where one runs"
        raise SandboxError(f"no Docker engine answers at {where}", remedy) from None
    except (DockerException, OSError) as error:
        raise SandboxError(
            f"the Docker engine at {where} cannot be used: {error}", "see `docker info`"
        ) from None


@functools.lru_cache(maxsize=4)
def _version(host: str) -> str:
    """The version of the interface that both sides know; asking for it costs as much as a request."""
    with docker.APIClient(**docker.utils.kwargs_from_env(), version="auto") as engine:
        return str(engine.api_version)


def _knock(host: str) -> None:
    """Connect and hang up, for the plain OSError of it: the library's errors are texts."""
    parts = urlsplit(docker.utils.parse_host(host or None))
    if parts.scheme in ("http+unix", "unix"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(parts.path)
    elif parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), timeout=KNOCK_SECONDS).close()


def facts(engine: Engine) -> dict[str, Any]:
    """The engine's own description. SandboxError if it could not hold a session's limits."""
    try:
        info: dict[str, Any] = engine.info()
    except (DockerException, OSError) as error:
        raise SandboxError(f"the Docker engine does not answer: {error}", "see `docker info`") from error
    if info["OSType"] != "linux":
        raise SandboxError(f"the Docker engine runs {info['OSType']} containers", "switch it to Linux ones")
    lacking = [name for name in ("MemoryLimit", "PidsLimit", "CpuCfsQuota") if not info.get(name)]
    if lacking:
        remedy = "a rootless engine needs cgroup v2 with these controllers delegated to its user"
        raise SandboxError(f"the Docker engine cannot hold limits: it lacks {', '.join(lacking)}", remedy)
    if not any("name=seccomp" in option for option in info["SecurityOptions"]):
        raise SandboxError("the Docker engine cannot filter system calls", "use one built with seccomp")
    return info


# ---------------------------------------------------------------------- whose containers


def owner() -> str:
    """This process, as a label: the kernel's boot, the pid namespace, the pid and when it started."""
    return f"{_here()} {os.getpid()} {_started(os.getpid())}"


def reap(engine: Engine) -> int:
    """Remove the containers of sessions whose client is dead; returns how many. SandboxError if it can't."""
    removed = 0
    try:
        for container in engine.containers(all=True, filters={"label": f"{LABEL}=session"}):
            if _abandoned(container):
                removed += remove(engine, container["Id"])
    except (DockerException, OSError) as error:
        raise SandboxError(f"containers cannot be cleared away: {error}", "see `docker ps -a`") from error
    return removed


def remove(engine: Engine, container: str) -> bool:
    """Kill and remove; False if somebody else has, or is about to."""
    try:
        engine.remove_container(container, force=True, v=True)
    except NotFound:
        return False
    except APIError as error:
        if error.status_code == 409:  # its removal is under way
            return False
        raise
    return True


def _abandoned(container: dict[str, Any]) -> bool:
    here, process, started = [*container["Labels"].get(OWNER, "").split(), "", "", ""][:3]
    if here == _here() and process.isdigit():
        return bool(_started(int(process)) != started)
    return bool(container["State"] != "running" and time.time() - container["Created"] > FORGOTTEN)


@functools.cache
def _here() -> str:
    """Where a pid means the same process: another container of this machine has its own."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}:{Path('/proc/self/ns/pid').readlink()}"


def _started(process: int) -> str:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return "dead"
    fields = stat.rpartition(")")[2].split()
    return "dead" if fields[0] in "ZX" else fields[19]
