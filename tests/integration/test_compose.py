"""compose.yaml on a real engine, by the Compose that is installed: a gateway behind its door. `-m docker`."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentdistill.clients import engine as engines
from agentdistill.clients.image import image_id
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.errors import SandboxError

pytestmark = pytest.mark.docker

PROJECT = "agentdistill-test"
TOKEN = "a-token-for-this-test"
OUTSIDE = "198.18.77.2"  # of the range for tests of networks


@pytest.fixture(scope="module")
def port(checkout: Path) -> Iterator[int]:
    """The gateway, up and answering, and its port."""
    with engines.connect() as engine:
        image_id(engine)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number: int = free.getsockname()[1]
    compose(checkout, number, "up", "-d", "sandbox")
    try:
        until = time.monotonic() + 60
        while health(number) is None:
            assert time.monotonic() < until, compose(checkout, number, "logs", "--no-color")
            time.sleep(0.2)
        yield number
    finally:
        compose(checkout, number, "down", "--timeout", "5")


def compose(checkout: Path, port: int, *arguments: str) -> str:
    program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    environment = {
        **os.environ,
        "AGENTDISTILL_SANDBOX_TOKEN": TOKEN,
        "AGENTDISTILL_SANDBOX_PORT": str(port),
        "AGENTDISTILL_SANDBOX_CPUS": "1",
    }
    command = [*program, "-p", PROJECT, "-f", str(checkout / "compose.yaml"), *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def health(port: int) -> dict[str, Any] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        found: dict[str, Any] = json.load(connection.getresponse())
        return found
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def container(service: str) -> dict[str, Any]:
    """What the engine says of a service's only container."""
    labels = [f"com.docker.compose.project={PROJECT}", f"com.docker.compose.service={service}"]
    with engines.connect() as engine:
        [found] = engine.containers(filters={"label": labels})
        inspected: dict[str, Any] = engine.inspect_container(found["Id"])
        return inspected


def inside(service: str, code: str) -> str:
    command = ["docker", "exec", container(service)["Id"], "python", "-I", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_sessions_work_and_state_is_kept(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDISTILL_SANDBOX_TOKEN", TOKEN)
    one, other = (open_sandbox(f"ws://127.0.0.1:{port}") for _ in range(2))
    try:
        assert one.run(["import numpy\nx = numpy.arange(4).sum()"])[0].error is None
        assert one.run(["int(x)"])[0].value == 6
        assert [execution.value for execution in one.run(["int(x) + 1", "int(x) + 2"])] == [7, 8]
        uids = {session.run(["import os; os.getuid()"])[0].value for session in (one, other)}
        assert len(uids) == 2 and 0 not in uids
        assert (health(port) or {})["sessions"] == 2
    finally:
        one.close()
        other.close()
    assert (health(port) or {})["jail"] == "landlock"


def test_another_token_is_refused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDISTILL_SANDBOX_TOKEN", "wrong")
    with pytest.raises(SandboxError, match="token"):
        open_sandbox(f"ws://127.0.0.1:{port}")


def test_the_containers_are_made_with_every_limit(port: int) -> None:
    gateway, door = container("gateway")["HostConfig"], container("sandbox")["HostConfig"]
    for host in (gateway, door):
        assert host["ReadonlyRootfs"] is True and host["CapDrop"] == ["ALL"] and not host["Privileged"]
        assert host["Memory"] == host["MemorySwap"] > 0 and host["PidsLimit"] > 0 and host["NanoCpus"] > 0
        assert any("no-new-privileges" in option for option in host["SecurityOpt"])
        assert any(option.startswith("seccomp") and "landlock" in option for option in host["SecurityOpt"])
        assert not host["Binds"]
    assert sorted(name.removeprefix("CAP_") for name in gateway["CapAdd"]) == [
        "CHOWN",
        "KILL",
        "SETGID",
        "SETUID",
    ]
    assert not door["CapAdd"] and container("sandbox")["Config"]["User"] == "65534:65534"
    assert not gateway["PortBindings"]
    assert door["PortBindings"] == {"8765/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}


def test_the_gateway_gets_healthy(port: int) -> None:
    until = time.monotonic() + 60
    while container("gateway")["State"]["Health"]["Status"] != "healthy":
        assert time.monotonic() < until, container("gateway")["State"]["Health"]
        time.sleep(0.5)


LISTEN = """
import socket
with socket.create_server(("198.18.77.2", 80)) as server:
    print("listening", flush=True)
    while True:
        server.accept()[0].close()
"""
CONNECT = """
import socket
try:
    socket.create_connection(("198.18.77.2", 80), timeout=3).close()
    print("reached")
except OSError as error:
    print("not reached")
"""


@pytest.fixture
def outside() -> Iterator[None]:
    """A machine elsewhere, played by a network namespace that routes back to us."""
    space = "agentdistill-out"
    steps = (
        f"ip netns add {space}",
        "ip link add adout0 type veth peer name adout1",
        f"ip link set adout1 netns {space}",
        "ip addr add 198.18.77.1/30 dev adout0",
        "ip link set adout0 up",
        f"ip -n {space} addr add {OUTSIDE}/30 dev adout1",
        f"ip -n {space} link set adout1 up",
        f"ip -n {space} route add default via 198.18.77.1",
    )
    try:
        for step in steps:
            subprocess.run(step.split(), check=True, capture_output=True)
        command = ["ip", "netns", "exec", space, sys.executable, "-I", "-c", LISTEN]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None and server.stdout.readline() == "listening\n"
            yield
            server.kill()
    finally:
        subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a network namespace")
@pytest.mark.usefixtures("outside")
def test_nothing_gets_out_of_the_gateways_container(port: int) -> None:
    assert inside("sandbox", CONNECT) == "reached", "the door must reach it, or this test shows nothing"
    assert inside("gateway", CONNECT) == "not reached"


def test_the_language_model_is_served_only_when_asked_for(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compose reads the profile as it is meant; the service itself needs a GPU, and has not been tried."""
    options = "--enable-lora --lora-modules student=/adapters/student"
    monkeypatch.setenv("AGENTDISTILL_LLM_OPTIONS", options)
    service = yaml.safe_load(compose(checkout, 1, "--profile", "llm", "config"))["services"]["llm"]
    assert service["profiles"] == ["llm"]
    command = service["command"]
    command = command if isinstance(command, str) else " ".join(command)
    assert command.startswith("/model --served-model-name teacher") and command.endswith(options)
    [port] = service["ports"]
    assert "127.0.0.1" in (port if isinstance(port, str) else port["host_ip"])
    # What stands before vLLM: without a key it serves nobody.
    entry = [part.replace("$$", "$") for part in service["entrypoint"]]
    done = subprocess.run(
        [*entry, "/model"], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "set AGENTDISTILL_LLM_KEY\n")
