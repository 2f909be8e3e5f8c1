"""Sandboxes by SPEC: open one, keep some warm, name the one that `auto` means here, say what works.

A backend is a module with `open_stream(limits, preload) -> Stream` and `check() -> Check`; everything above
the stream is the same Session for all of them.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from agentdistill.clients.link import Stream
from agentdistill.clients.session import Session
from agentdistill.errors import SandboxError, UsageError
from agentdistill.types import Limits, SandboxTool

STRENGTH = ("bubblewrap", "docker", "landlock")
SPECS = ("auto", *STRENGTH, "docker:RUNTIME", "ws://HOST:PORT", "process")
"""The in-memory fake is no SPEC: it runs code in this process, so no flag, file or variable may name it."""

Tools = Mapping[str, SandboxTool] | Sequence[SandboxTool]


@dataclass(frozen=True)
class Backend:
    """How a SPEC opens a stream, and what to do when that or the start of the session fails."""

    stream: Callable[[Limits, Sequence[str]], Stream]
    remedy: Callable[[], str]
    found: Callable[[], str] = str  # what the doctor says of it beside that it works

    def open(self, tools: Sequence[SandboxTool], limits: Limits, preload: Sequence[str]) -> Session:
        return self.session(self.stream(limits, preload), tools, limits)

    def session(self, stream: Stream, tools: Sequence[SandboxTool], limits: Limits) -> Session:
        try:
            return Session(stream, tools, limits)
        except SandboxError as error:
            raise SandboxError(error.message, error.remedy or self.remedy()) from None


def open_sandbox(
    spec: str = "auto",
    *,
    tools: Tools = (),
    limits: Limits | None = None,
    preload: Sequence[str] = (),
) -> Session:
    """Open a session. `preload`: modules to import before the first step, once for all its forks.

    SandboxError if it cannot start, UsageError if the SPEC or a tool's name is wrong.
    """
    limits = limits or Limits()
    given = _named(tools)
    return _backend(resolve(spec)).open(given, limits, preload)


class SandboxPool:
    """Opens sessions of one kind; `size` jails are started ahead, off the path of whoever wants one.

    Guaranteed: no session gets a jail that another has used. A jail that has died while it waited is passed
    over for a new one. May be used from several threads.
    """

    def __init__(
        self, spec: str = "auto", *, limits: Limits | None = None, preload: Sequence[str] = (), size: int = 2
    ) -> None:
        self._limits = limits or Limits()
        self._preload = tuple(preload)
        self._backend = _backend(resolve(spec))
        self._starter = ThreadPoolExecutor(2, thread_name_prefix="sandbox-pool")
        self._waiting: deque[Future[Stream]] = deque()
        for _ in range(size):
            self._start()

    def open(self, tools: Tools = ()) -> Session:
        """A session. SandboxError if none can be started."""
        given = _named(tools)
        try:
            waiting = self._waiting.popleft()
        except IndexError:
            return self._backend.open(given, self._limits, self._preload)
        self._start()
        try:
            return self._backend.session(waiting.result(), given, self._limits)
        except SandboxError:  # the jail died, or its start failed once: a new one says whether it's broken
            return self._backend.open(given, self._limits, self._preload)

    def close(self) -> None:
        """End the jails nobody has asked for. Sessions that were opened stay open."""
        self._starter.shutdown(wait=True, cancel_futures=True)
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.cancelled() and waiting.exception() is None:
                waiting.result().close()

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._waiting.append(self._starter.submit(self._backend.stream, self._limits, self._preload))


def resolve(spec: str = "auto") -> str:
    """The backend a SPEC stands for on this machine. For `auto` the strongest that can run a session here:
    bubblewrap, docker if an engine answers and has the image, landlock; SandboxError if none can."""
    return _strongest() if spec == "auto" else spec


@functools.cache
def _strongest() -> str:
    problems = []
    for spec in STRENGTH:
        try:
            _backend(spec).open((), Limits(), ()).close()
            return spec
        except SandboxError as error:
            problems.append(f"{spec}: {error.message}")
    raise SandboxError(
        f"no sandbox works here ({'; '.join(problems)})",
        "`agentdistill sandbox doctor` says what to do for each",
    )


def _backend(spec: str) -> Backend:
    """The backend of a SPEC; its module is imported only when it is asked for."""
    name, _, rest = spec.partition(":")
    if spec == "bubblewrap":
        from agentdistill.clients import bubblewrap

        return Backend(bubblewrap.open_stream, bubblewrap.remedy)
    if spec == "landlock":
        from agentdistill.clients import landlock

        return Backend(landlock.open_stream, landlock.remedy, landlock.found)
    if name == "docker" and (rest or spec == "docker"):
        from agentdistill.clients import docker

        rebuild = "`agentdistill services build` makes the image anew"
        return Backend(functools.partial(docker.open_stream, runtime=rest), lambda: rebuild)
    if name in ("ws", "wss"):
        from agentdistill.clients import remote

        return Backend(functools.partial(remote.open_stream, url=spec), lambda: remote.remedy(spec))
    if spec == "process":
        from agentdistill.clients import process

        return Backend(process.open_stream, lambda: "")
    raise UsageError(f"no sandbox is called {spec!r}", f"one of {', '.join(SPECS)}")


def _named(tools: Tools) -> list[SandboxTool]:
    given = list(tools.values()) if isinstance(tools, Mapping) else list(tools)
    names = [tool.name for tool in given]
    for name in names:
        if not name.isidentifier() or name == "final_answer" or names.count(name) > 1:
            raise UsageError(f"{name!r} cannot be the name of a sandbox tool")
    return given


def doctor() -> list[tuple[str, bool, str, str]]:
    """(name, works, what was found, what to do for it to work), strongest first. Runs a session in each;
    what bubblewrap needs of an ordinary user's kernel has a line of its own."""
    from agentdistill.clients.bubblewrap import user_namespaces

    return [*(_try(spec) for spec in STRENGTH), ("user namespaces", *user_namespaces())]


def _try(spec: str) -> tuple[str, bool, str, str]:
    code = "import numpy, sympy\nf'numpy {numpy.__version__}, sympy {sympy.__version__}'"
    try:
        with _backend(spec).open((), Limits(), ()) as session:
            [execution] = session.run([code])
            found = session.facts
    except SandboxError as error:
        return (spec, False, error.message, error.remedy)
    limit = f"memory by cgroup ({found['cgroup']})" if found.get("cgroup") else "no cgroup: memory is polled"
    packages = "no numpy or sympy in it" if execution.error else execution.value
    remedy = "pip install numpy sympy" if execution.error else ""
    details = [f"Python {found['python']}", packages, limit, _backend(spec).found()]
    return (spec, True, ", ".join(filter(None, details)), remedy)
