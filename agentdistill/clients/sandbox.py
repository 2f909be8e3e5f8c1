"""Sandboxes by SPEC: open one, name the one that `auto` means here, say what works on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentdistill.clients import bubblewrap
from agentdistill.clients.bubblewrap import open_bubblewrap
from agentdistill.clients.process import open_process
from agentdistill.errors import SandboxError, UsageError
from agentdistill.types import Limits, Sandbox, SandboxTool

SPECS = ("auto", "bubblewrap", "process")
"""The in-memory fake is no SPEC: it runs code in this process, so no flag, file or variable may name it."""


def open_sandbox(
    spec: str = "auto",
    *,
    tools: Mapping[str, SandboxTool] | Sequence[SandboxTool] = (),
    limits: Limits | None = None,
) -> Sandbox:
    """Open a session. SandboxError if it cannot start, UsageError if the SPEC or a tool's name is wrong."""
    limits = limits or Limits()
    given = list(tools.values()) if isinstance(tools, Mapping) else list(tools)
    names = [tool.name for tool in given]
    for name in names:
        if not name.isidentifier() or name == "final_answer" or names.count(name) > 1:
            raise UsageError(f"{name!r} cannot be the name of a sandbox tool")
    spec = _known(spec)
    if spec == "process":
        return open_process(given, limits)
    return open_bubblewrap(given, limits)


def resolve(spec: str = "auto") -> str:
    """The backend a SPEC stands for on this machine. Opens and closes a session to find out for `auto`."""
    if _known(spec) != "auto":
        return spec
    open_bubblewrap((), Limits()).close()
    return "bubblewrap"


def _known(spec: str) -> str:
    if spec in SPECS:
        return spec
    if spec in ("docker", "landlock") or spec.startswith(("docker:", "ws://", "wss://")):
        raise UsageError(f"the sandbox {spec!r} is not built yet", "use --sandbox bubblewrap")
    raise UsageError(f"no sandbox is called {spec!r}", f"one of {', '.join(SPECS)}")


def doctor() -> list[tuple[str, bool, str, str]]:
    """(name, works, what was found, what to do for it to work), strongest first."""
    return [
        _bubblewrap(),
        ("docker", False, "not built yet", ""),
        ("landlock", False, "not built yet", ""),
    ]


def _bubblewrap() -> tuple[str, bool, str, str]:
    try:
        session = open_bubblewrap((), Limits(seconds=20))
        try:
            [execution] = session.run(["import numpy, sympy\nnumpy.__version__, sympy.__version__"])
        finally:
            session.close()
    except SandboxError as error:
        return ("bubblewrap", False, error.message, error.remedy)
    detail = f"{bubblewrap.bwrap()}"
    if execution.error:
        return ("bubblewrap", True, f"{detail}; no numpy or sympy in it", "pip install numpy sympy")
    return ("bubblewrap", True, f"{detail}; numpy {execution.value[0]}, sympy {execution.value[1]}", "")
