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

from agentdistill.clients import bubblewrap, process
from agentdistill.clients.link import Stream
from agentdistill.clients.session import Session
from agentdistill.errors import SandboxError, UsageError
from agentdistill.types import Limits, Sandbox, SandboxTool

SPECS = ("auto", "bubblewrap", "process")
"""The in-memory fake is no SPEC: it runs code in this process, so no flag, file or variable may name it."""

Tools = Mapping[str, SandboxTool] | Sequence[SandboxTool]


@dataclass(frozen=True)
class Backend:
    """How a SPEC opens a stream, and what to do when that or the start of the session fails."""

    stream: Callable[[Limits, Sequence[str]], Stream]
    remedy: Callable[[], str]

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
) -> Sandbox:
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

    def open(self, tools: Tools = ()) -> Sandbox:
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
    """The backend a SPEC stands for on this machine. For `auto` the first one that can run a session."""
    return _strongest() if spec == "auto" else spec


@functools.cache
def _strongest() -> str:
    _backend("bubblewrap").open((), Limits(), ()).close()
    return "bubblewrap"


def _backend(spec: str) -> Backend:
    if spec == "bubblewrap":
        return Backend(bubblewrap.open_stream, bubblewrap.remedy)
    if spec == "process":
        return Backend(process.open_stream, lambda: "")
    if spec in ("docker", "landlock") or spec.startswith(("docker:", "ws://", "wss://")):
        raise UsageError(f"the sandbox {spec!r} is not built yet", "use --sandbox bubblewrap")
    raise UsageError(f"no sandbox is called {spec!r}", f"one of {', '.join(SPECS)}")


def _named(tools: Tools) -> list[SandboxTool]:
    given = list(tools.values()) if isinstance(tools, Mapping) else list(tools)
    names = [tool.name for tool in given]
    for name in names:
        if not name.isidentifier() or name == "final_answer" or names.count(name) > 1:
            raise UsageError(f"{name!r} cannot be the name of a sandbox tool")
    return given


def doctor() -> list[tuple[str, bool, str, str]]:
    """(name, works, what was found, what to do for it to work), strongest first."""
    return [
        _bubblewrap(),
        ("docker", False, "not built yet", ""),
        ("landlock", False, "not built yet", ""),
    ]


def _bubblewrap() -> tuple[str, bool, str, str]:
    try:
        with _backend("bubblewrap").open((), Limits(seconds=20), ()) as session:
            [execution] = session.run(["import numpy, sympy\nnumpy.__version__, sympy.__version__"])
    except SandboxError as error:
        return ("bubblewrap", False, error.message, error.remedy)
    detail = f"{bubblewrap.bwrap()}"
    if execution.error:
        return ("bubblewrap", True, f"{detail}; no numpy or sympy in it", "pip install numpy sympy")
    return ("bubblewrap", True, f"{detail}; numpy {execution.value[0]}, sympy {execution.value[1]}", "")
