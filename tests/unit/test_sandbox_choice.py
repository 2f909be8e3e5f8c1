"""Which sandbox `auto` takes, and what is said when one or all of them do not work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agentdistill.clients import bubblewrap, docker, landlock, sandbox
from agentdistill.clients.link import Stream
from agentdistill.clients.memory import MemorySandbox
from agentdistill.errors import SandboxError
from agentdistill.types import Limits


class _Opens:
    """Stands in for a backend: opens a fake session, or says that it can't."""

    def __init__(self, problem: str = "") -> None:
        self.problem = problem

    def __call__(self, limits: Limits, preload: Sequence[str], **extras: str) -> Stream:
        if self.problem:
            raise SandboxError(self.problem, "a remedy")
        return None  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    sandbox._strongest.cache_clear()
    monkeypatch.setattr(sandbox, "Session", lambda stream, tools, limits: MemorySandbox(tools, limits))
    yield
    sandbox._strongest.cache_clear()


def working(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for module in (bubblewrap, docker, landlock):
        name = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, "open_stream", _Opens("" if name in names else f"no {name} here"))


@pytest.mark.parametrize(
    ("works", "chosen"),
    [
        (("bubblewrap", "docker", "landlock"), "bubblewrap"),
        (("docker", "landlock"), "docker"),
        (("landlock",), "landlock"),
    ],
)
def test_auto_takes_the_strongest_that_works(
    monkeypatch: pytest.MonkeyPatch, works: tuple[str, ...], chosen: str
) -> None:
    working(monkeypatch, *works)
    assert sandbox.resolve("auto") == chosen


def test_auto_never_takes_less_than_a_jail_and_says_what_each_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    working(monkeypatch)
    with pytest.raises(SandboxError) as caught:
        sandbox.resolve("auto")
    for name in sandbox.STRENGTH:
        assert f"{name}: no {name} here" in caught.value.message
    assert "sandbox doctor" in caught.value.remedy
    with pytest.raises(SandboxError):  # asked again, it looks again
        sandbox.open_sandbox()


def test_a_start_that_fails_has_the_remedy_of_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise SandboxError("the jail is gone")

    monkeypatch.setattr(bubblewrap, "open_stream", _Opens())
    monkeypatch.setattr(bubblewrap, "remedy", lambda: "do this")
    monkeypatch.setattr(sandbox, "Session", broken)
    with pytest.raises(SandboxError) as caught:
        sandbox.open_sandbox("bubblewrap")
    assert caught.value.remedy == "do this"


def test_apparmor_and_sysctls_have_a_line_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for name in ("_APPARMOR", "_USERNS", "_MAXIMUM"):
        monkeypatch.setattr(bubblewrap, name, tmp_path / name)
    assert bubblewrap.user_namespaces()[:2] == (True, "allowed")
    (tmp_path / "_MAXIMUM").write_text("0\n")
    assert "max_user_namespaces" in bubblewrap.user_namespaces()[2]
    (tmp_path / "_USERNS").write_text("0\n")
    assert "unprivileged_userns_clone" in bubblewrap.user_namespaces()[2]
    (tmp_path / "_APPARMOR").write_text("1\n")
    allowed, found, remedy = bubblewrap.user_namespaces()
    assert not allowed and "AppArmor" in found and "apparmor_restrict_unprivileged_userns=0" in remedy
    monkeypatch.setattr(sandbox, "_try", lambda spec: (spec, True, "", ""))
    assert ("user namespaces", False) in [row[:2] for row in sandbox.doctor()]
