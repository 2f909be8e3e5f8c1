"""What there is to be seen in the bubblewrap jail, name by name: README.md promises no more than this."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentdistill.clients.sandbox import open_sandbox
from agentdistill.types import Limits, Sandbox

HOST_PATHS = [
    "/etc/passwd",
    "/etc/hostname",
    "/root",
    "/home",
    "/var",
    "/usr/bin",
    "/sys",
    "/proc",
    "/run",
    "/tmp",
]


@pytest.fixture(scope="module")
def session() -> Iterator[Sandbox]:
    opened = open_sandbox("bubblewrap", limits=Limits(seconds=5))
    yield opened
    opened.close()


def value(session: Sandbox, code: str) -> object:
    [execution] = session.run([f"import os\n{code}"])
    assert execution.error is None, execution.error
    return execution.value


def test_the_hosts_paths_are_not_there(session: Sandbox) -> None:
    paths = [*HOST_PATHS, str(Path(__file__).resolve()), sys.prefix + "/bin", str(Path.home())]
    assert value(session, f"[p for p in {paths!r} if os.path.exists(p)]") == []


def test_the_names_at_the_top(session: Sandbox) -> None:
    known = {
        "dev",
        "etc",
        "lib",
        "lib64",
        "usr",
        "nix",
        "packages",
        "private",
        "python",
        "sandbox",
        "session",
    }
    assert set(value(session, "os.listdir('/')")) <= known  # type: ignore[call-overload]
    assert value(session, "os.listdir('/etc')") == ["ld.so.cache"]


def test_the_devices(session: Sandbox) -> None:
    assert value(session, "set(os.listdir('/dev'))") == {"null", "zero", "full", "random", "urandom"}


def test_the_environment(session: Sandbox) -> None:
    known = {"PATH", "LANG", "HOME", "TMPDIR", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "LD_LIBRARY_PATH"}
    assert set(value(session, "dict(os.environ)")) <= known  # type: ignore[call-overload]


def test_no_process_can_be_seen(session: Sandbox) -> None:
    """The supervisor's /proc lies below a folder that interpreters can't enter."""
    [execution] = session.run(["import os\nos.listdir('/private')"])
    assert "PermissionError" in (execution.error or "")
