"""The docker backend without an engine: the profile, the stream, the errors, what the image is made of."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentdistill.clients import docker, engine, image
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.errors import SandboxError
from agentdistill.types import Limits

DENIED = {"SCMP_ACT_ERRNO"}


def confine_calls(checkout: Path) -> set[str]:
    """The names in sandbox/confine.py's table: sandbox/ is no package, so it is run by itself."""
    space: dict[str, Any] = {"__name__": "confine"}
    exec((checkout / "sandbox" / "confine.py").read_text(), space)
    return set(space["CALLS"])


def allowed(profile: dict[str, Any]) -> set[str]:
    return {
        name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
    }


# ---------------------------------------------------------------------- seccomp


def test_a_session_may_make_no_call_that_the_other_jails_deny(checkout: Path) -> None:
    profile = json.loads(docker.seccomp_profile())
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert not allowed(profile) & confine_calls(checkout)
    assert {"read", "clone", "execve", "socketpair", "prctl"} <= allowed(profile)
    assert not {"setresuid", "chown", "landlock_restrict_self"} & allowed(profile)


def test_the_gateway_may_also_listen_and_change_ids_and_no_more(checkout: Path) -> None:
    profile = json.loads((checkout / "sandbox" / "seccomp.json").read_text())
    sockets = {"accept", "accept4", "bind", "connect", "listen", "socket"}
    assert allowed(profile) & confine_calls(checkout) == sockets
    families = [rule["args"] for rule in profile["syscalls"] if rule["names"] == ["socket"]]
    expected = [int(family) for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)]
    assert [(one["index"], one["value"], one["op"]) for [one] in families] == [
        (0, family, "SCMP_CMP_EQ") for family in expected
    ]


@pytest.mark.parametrize("flag", [0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000])
def test_clone_is_allowed_without_any_flag_for_a_new_namespace(flag: int) -> None:
    rules = json.loads(docker.seccomp_profile())["syscalls"]
    [[mask]] = [rule["args"] for rule in rules if rule["names"] == ["clone"]]
    assert mask["op"] == "SCMP_CMP_MASKED_EQ" and mask["valueTwo"] == 0
    assert mask["value"] & flag, "this flag would pass"
    assert not mask["value"] & (0x11 | 0x10000 | 0x100), "SIGCHLD and threads must pass"
    [answer] = [rule for rule in rules if rule["names"] == ["clone3"]]
    assert (answer["action"], answer["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


# ---------------------------------------------------------------------- the stream


class FakeEngine:
    """An engine whose attach connection is a socket of ours."""

    base_url = "http+docker://localhost"

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours

    def attach_socket(self, container: str, params: dict[str, int]) -> Any:
        stream = self._ours.makefile("rb", buffering=0)
        self._ours.close()
        return stream


@pytest.fixture
def attached() -> Iterator[tuple[docker.Attached, socket.socket]]:
    yield from attach()


def attach() -> Iterator[tuple[docker.Attached, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs:
        stream = docker.Attached(FakeEngine(ours), "container")
        yield stream, theirs
        theirs.close()
        stream.close()


def piece(kind: int, data: bytes) -> bytes:
    return bytes([kind, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


@given(
    pieces=st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=8),
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=6),
)
def test_stdout_comes_out_whole_however_it_is_cut(pieces: list[tuple[int, bytes]], cuts: list[int]) -> None:
    for stream, theirs in attach():
        wire = b"".join(piece(kind, data) for kind, data in pieces)
        got = bytearray()
        while wire:
            size = cuts[len(wire) % len(cuts)]
            theirs.sendall(wire[:size])
            wire = wire[size:]
            got += stream.receive(0) or b""
        assert bytes(got) == b"".join(data for kind, data in pieces if kind == 1)


def test_the_last_line_of_stderr_is_the_last_word(attached: tuple[docker.Attached, socket.socket]) -> None:
    stream, theirs = attached
    theirs.sendall(piece(2, b"one\n") + piece(1, b"data") + piece(2, b"two\n"))
    assert stream.receive(1) == b"data"
    assert stream.receive(0) is None
    theirs.close()
    assert stream.receive(1) == b""
    assert stream.close() == "two"
    assert stream.close() == "two"


# ---------------------------------------------------------------------- no engine


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    engine._version.cache_clear()
    yield monkeypatch
    engine._version.cache_clear()


@pytest.mark.parametrize("host", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1"])
def test_without_an_engine_the_error_says_where_and_what_to_do(
    elsewhere: pytest.MonkeyPatch, host: str
) -> None:
    elsewhere.setenv("DOCKER_HOST", host)
    with pytest.raises(SandboxError, match=f"no Docker engine answers at {host}.*start Docker"):
        open_sandbox("docker")


def test_a_socket_one_may_not_use_is_told_from_no_engine(
    elsewhere: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "docker.sock"
    user = os.geteuid()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0)
        elsewhere.setenv("DOCKER_HOST", f"unix://{path}")
        try:
            if user == 0:
                os.seteuid(65534)  # root may connect to anything
            with pytest.raises(SandboxError, match=r"no permission to use.*usermod -aG docker"):
                engine.connect()
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("lacking", ["MemoryLimit", "PidsLimit", "CpuCfsQuota"])
def test_an_engine_that_cannot_hold_a_limit_is_refused(lacking: str) -> None:
    class Engine:
        def info(self) -> dict[str, Any]:
            can = {name: name != lacking for name in ("MemoryLimit", "PidsLimit", "CpuCfsQuota")}
            return {"OSType": "linux", "SecurityOptions": ["name=seccomp,profile=default"], **can}

    with pytest.raises(SandboxError, match=f"lacks {lacking}"):
        engine.facts(Engine())


# ---------------------------------------------------------------------- the image and the container


def test_the_image_gets_the_tested_versions(checkout: Path) -> None:
    tested = set((checkout / "constraints.txt").read_text().split())
    for name in ("requirements.txt", "gateway-requirements.txt"):
        lines = (checkout / "sandbox" / name).read_text().splitlines()
        pins = {line for line in lines if line and not line.startswith("#")}
        assert pins and pins <= tested, sorted(pins - tested)


def test_a_changed_program_is_another_image(checkout: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("a")
    other.write_text("")
    before = image._hash([one, other])
    one.write_text("")
    other.write_text("a")
    assert image._hash([one, other]) != before
    assert (checkout / "sandbox" / "supervisor.py") in image._programs()


def test_an_engine_with_mapped_ids_gets_an_id_it_has() -> None:
    facts = {"NCPU": 2, "SecurityOptions": ["name=seccomp,profile=default", "name=userns"]}
    config = docker.container_config("image", Limits(cores=8), (), "", facts)
    uid, gid = map(int, config["User"].split(":"))
    assert uid == gid and 1000 < uid < 65536
    assert config["HostConfig"]["NanoCpus"] == 2_000_000_000, "no more than the engine's machine has"
    assert "Runtime" not in config["HostConfig"]
