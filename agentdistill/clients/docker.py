"""The docker backend: one hardened container a session, made by the Docker engine. See sandbox/README.md.

The container's first process is the session's supervisor, its stream the engine's attach connection. When
that closes, however this process ends, the supervisor's input ends, it ends too, and the engine removes the
container. What can be left behind is one that was made and never started; `engine.reap` removes those.

Guaranteed: no network, a read-only root, no capability, an unused user id for each session, limits on memory,
processes and CPU, our own filter of system calls instead of the engine's. Not guaranteed: more than the
engine does; whoever may use its socket is as good as root on its machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from docker.errors import APIError, DockerException

from agentdistill.clients import engine as engines
from agentdistill.clients.engine import LABEL, OWNER, Engine
from agentdistill.clients.image import image_id
from agentdistill.clients.link import Stream
from agentdistill.errors import SandboxError
from agentdistill.services import service_folder
from agentdistill.types import Limits

COPIES = 4  # folders of a session, its candidates and twins share this many times `folder_mb`, as elsewhere
MAX_FILES = 100_000  # the wall; the supervisor ends a step that is past 20,000 when it looks
SHARE = 2  # times memory_mb for all processes of a session, which share pages
OVERHEAD_MB = 256  # supervisor, first interpreter, page tables, socket buffers
END_SECONDS = 2.0  # for the supervisor to end by itself
MAX_WORDS = 4_000
# Besides what the engine masks by default: none of it is of any use to Python.
MASKED = (
    "/dev/mqueue", "/dev/pts", "/proc/acpi", "/proc/asound", "/proc/bus", "/proc/cmdline", "/proc/config.gz",
    "/proc/fs", "/proc/interrupts", "/proc/irq", "/proc/kallsyms", "/proc/kcore", "/proc/key-users",
    "/proc/keys", "/proc/kmsg", "/proc/latency_stats", "/proc/modules", "/proc/pagetypeinfo",
    "/proc/sched_debug", "/proc/scsi", "/proc/slabinfo", "/proc/sys", "/proc/sysrq-trigger",
    "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo", "/proc/zoneinfo", "/sys",
)  # fmt: skip

_reaped: set[int] = set()  # our pid, once the leftovers of others have been cleared away


def open_stream(limits: Limits, preload: Sequence[str], runtime: str = "") -> Stream:
    """A session's container with its supervisor. SandboxError, with what to do, if it cannot be started."""
    with engines.connect() as engine:
        facts = engines.facts(engine)
        if runtime and runtime not in facts["Runtimes"]:
            known = ", ".join(sorted(facts["Runtimes"]))
            raise SandboxError(f"the Docker engine has no runtime {runtime!r}", f"it has {known}")
        if os.getpid() not in _reaped:
            engines.reap(engine)
            _reaped.add(os.getpid())
        return _start(engine, container_config(image_id(engine), limits, preload, runtime, facts))


def _start(engine: Engine, config: dict[str, Any]) -> Attached:
    try:
        container = engine.create_container_from_config(config)["Id"]
    except (DockerException, OSError) as error:
        raise SandboxError(f"no container can be made: {_explain(error)}", "see `docker info`") from None
    stream: Attached | None = None
    try:
        stream = Attached(engine, container)
        engine.start(container)
    except (DockerException, OSError) as error:
        with contextlib.suppress(DockerException, OSError):  # the first error counts; the reaper comes again
            engines.remove(engine, container)
        if stream is not None:
            stream.close()
        raise SandboxError(f"the container does not start: {_explain(error)}", "see `docker info`") from None
    return stream


def seccomp_profile() -> str:
    """sandbox/seccomp.json without what only the gateway needs, as the JSON text that the engine takes."""
    profile = json.loads((service_folder("sandbox") / "seccomp.json").read_text())
    rules = profile["syscalls"]
    profile["syscalls"] = [rule for rule in rules if not rule["comment"].startswith("gateway only")]
    return json.dumps(profile)


def container_config(
    image: str, limits: Limits, preload: Sequence[str], runtime: str, facts: dict[str, Any]
) -> dict[str, Any]:
    """What the engine is asked for. The SDK's own helper knows neither masked paths nor one-time stdin."""
    uid = _unused_uid(facts)
    memory = (SHARE * limits.memory_mb + COPIES * limits.folder_mb + OVERHEAD_MB) << 20
    processes = limits.processes + 48  # interpreters of the session count too
    if runtime:  # gVisor has threads of its own for each of them, and dies where it may have no more
        processes = 4 * processes + 256
    supervisor = {
        **asdict(limits),
        "jail": "docker",
        "folder": "/session",
        "proc": "/proc",
        "uid": None,
        "packages": ["/packages"],
        "preload": list(preload),
        "cgroup": f"docker, {memory >> 20} MB",
    }
    tmpfs = f"rw,nosuid,nodev,noexec,mode=0700,uid={uid},gid={uid}"
    tmpfs += f",size={COPIES * limits.folder_mb}m,nr_inodes={MAX_FILES}"
    command = ["/bin/python", "-s", "-S", "-P", "-B", "/sandbox/supervisor.py", json.dumps(supervisor)]
    host = {
        "AutoRemove": True,
        "CapDrop": ["ALL"],
        "CgroupnsMode": "private",
        "IpcMode": "none",
        "LogConfig": {"Type": "none"},
        "MaskedPaths": list(MASKED),
        "Memory": memory,
        "MemorySwap": memory,  # memory and swap together: no swap
        "NanoCpus": min(limits.cores, facts["NCPU"]) * 1_000_000_000,
        "NetworkMode": "none",
        "PidsLimit": processes,
        "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp_profile()}"],
        # gVisor makes a writable /tmp where none is mounted.
        "Tmpfs": {"/session": tmpfs, "/tmp": "ro,nosuid,nodev,noexec,mode=0555,size=4k"},  # noqa: S108
        "Ulimits": [_ulimit("core", 0), _ulimit("nofile", 1024), _ulimit("memlock", 0)],
    }
    if runtime:
        host["Runtime"] = runtime
    return {
        "Image": image,
        "Cmd": command,
        "User": f"{uid}:{uid}",
        "Env": ["PYTHONHASHSEED=0"],
        "WorkingDir": "/session",
        "Hostname": "sandbox",
        "Labels": {LABEL: "session", OWNER: engines.owner()},
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "HostConfig": host,
    }


class Attached:
    """A container's stdin, stdout and stderr over the engine's attach connection.

    The engine cuts stdout and stderr into pieces with a header of eight bytes: which, three zeros, length.
    """

    def __init__(self, engine: Engine, container: str) -> None:
        self._container = container
        self._closed = False
        self._said = b""  # the end of stderr
        self._header = b""
        self._kind, self._left = 0, 0  # of the piece that is being read
        if not engine.base_url.startswith(("http+docker://localhost", "http://")):
            raise OSError(
                "sessions need an engine on a socket or plain TCP: set DOCKER_HOST to unix:// or tcp://"
            )
        attach = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        raw = engine.attach_socket(container, params=attach)
        # A descriptor of our own: the library's belongs to an HTTP response, which closes it when collected.
        self._socket = socket.socket(fileno=os.dup(raw.fileno()))
        raw._sock.close()
        raw.close()
        self._socket.settimeout(None)
        self._poll = select.poll()  # select() can't watch descriptors over 1023
        self._poll.register(self._socket, select.POLLIN)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, seconds: float) -> bytes | None:
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            if not self._poll.poll(max(0, int(left * 1000))):
                if left > 0.001:
                    continue
                return None
            data = self._socket.recv(1 << 18)
            if not data:
                return b""
            out = self._divide(data)
            if out:
                return out

    def close(self) -> str:
        if not self._closed:
            self._closed = True
            self._end()
        lines = self._said.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else ""

    def _end(self) -> None:
        """The end of its input ends the supervisor. What doesn't end, the engine kills."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            until = time.monotonic() + END_SECONDS
            data: bytes | None = None
            while data != b"" and time.monotonic() < until:
                data = self.receive(until - time.monotonic())
        except OSError:
            data = None
        self._socket.close()
        if data == b"":
            return
        try:
            with engines.connect() as engine:
                engines.remove(engine, self._container)
        except (DockerException, OSError, SandboxError) as error:
            self._said += f"\nthe container {self._container[:12]} is left behind: {_explain(error)}".encode()

    def _divide(self, data: bytes) -> bytes:
        """What of these bytes is stdout; stderr is put aside."""
        out = []
        while data:
            if not self._left:
                missing = 8 - len(self._header)
                self._header, data = self._header + data[:missing], data[missing:]
                if len(self._header) < 8:
                    break
                self._kind, self._left = self._header[0], int.from_bytes(self._header[4:], "big")
                self._header = b""
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            if self._kind == 1:
                out.append(piece)
            else:
                self._said = (self._said + piece)[-MAX_WORDS:]
        return b"".join(out)


def _ulimit(name: str, value: int) -> dict[str, Any]:
    return {"Name": name, "Soft": value, "Hard": value}


def _unused_uid(facts: dict[str, Any]) -> int:
    """An id nobody uses, another one for each session: the kernel counts some things by it."""
    draw = int.from_bytes(os.urandom(4), "big")
    if any("name=userns" in option or "name=rootless" in option for option in facts["SecurityOptions"]):
        return 20_000 + draw % 40_000  # an engine like that has 65,536 ids
    return 2_000_000_000 + draw % 100_000_000


def _explain(error: Exception) -> str:
    return str(error.explanation) if isinstance(error, APIError) and error.explanation else str(error)
