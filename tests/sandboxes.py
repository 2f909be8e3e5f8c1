"""Open a sandbox of any kind for a test: the SPECs, the fake, and `gateway`, started when first asked for."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from gateway import start_gateway

from agentdistill.clients.memory import MemorySandbox
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.types import Limits, Sandbox, SandboxTool

_LOCAL = ["bubblewrap", "landlock", "gateway", "process"]
REAL = [*_LOCAL, pytest.param("docker", marks=pytest.mark.docker)]
"""What conformance means something for; Docker's image is built by CI, so it waits for `-m docker`."""


def open_backend(
    spec: str,
    *,
    tools: Sequence[SandboxTool] = (),
    limits: Limits | None = None,
    preload: Sequence[str] = (),
) -> Sandbox:
    """`memory` is no SPEC: the fake runs code in this process, so it can only be made by its class."""
    if spec == "memory":
        return MemorySandbox(tools, limits)
    return open_sandbox(real_spec(spec), tools=tools, limits=limits, preload=preload)


def real_spec(spec: str) -> str:
    """What open_sandbox takes: the address of the gateway for `gateway`."""
    return _gateway() if spec == "gateway" else spec


@functools.cache
def _gateway() -> str:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(start_gateway("--warm", "0")).url
