"""Where the services' files are, which services are up, and `agentdistill services` from end to end."""

from __future__ import annotations

import ast
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from gateway import VARIABLE, free_port, start_gateway

from agentdistill import services
from agentdistill.cli.main import main
from agentdistill.clients import remote
from agentdistill.clients.session import Session
from agentdistill.errors import InfrastructureError, SandboxError, UsageError
from agentdistill.services import State
from agentdistill.types import Limits


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENTDISTILL_STATE", str(tmp_path / "state"))
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path / "state"


@pytest.fixture
def cleaned() -> Iterator[None]:
    yield
    for name in services.SERVICES:
        state = services.read_state(name)
        if state is not None:
            services.down(state)


def command(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `agentdistill services ...`, run in this process."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "argv", ["agentdistill", "services", *arguments])
        main()
    said = capfd.readouterr()
    assert isinstance(end.value.code, int)
    return end.value.code, said.out, said.err


def test_files_of_the_services_are_found(checkout: Path) -> None:
    assert services.service_file("compose.yaml") == checkout / "compose.yaml"
    assert services.service_folder("sandbox") == checkout / "sandbox"


def test_the_pool_is_filled_for_the_limits_that_clients_have_by_default(checkout: Path) -> None:
    tree = ast.parse((checkout / "sandbox" / "gateway.py").read_text())
    [usual] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "USUAL"
    ]
    assert usual == asdict(Limits())


# ---------------------------------------------------------------------- the state file


def test_the_state_is_for_its_user_only(folder: Path) -> None:
    folder.mkdir()
    state = State("sandbox", "local", 1234, "secret", 5, 6.0)
    services.write_state(state)
    services.write_state(state)
    assert services.read_state("sandbox") == state
    assert stat.S_IMODE((folder / "sandbox.json").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["sandbox.json"]
    services.forget_state("sandbox")
    assert services.read_state("sandbox") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"unknown": 1}', "null"])
def test_a_damaged_state_is_an_error_that_names_its_file(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "sandbox.json").write_text(text)
    with pytest.raises(InfrastructureError, match=r"sandbox\.json"):
        services.read_state("sandbox")


def test_down_leaves_a_process_alone_that_only_has_the_same_pid(folder: Path) -> None:
    folder.mkdir()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        state = State("sandbox", "local", free_port(), "token", stranger.pid, time.time() - 1000)
        services.write_state(state)
        assert not services.is_up(state)
        services.down(state)
        assert stranger.poll() is None
        stranger.kill()
    assert services.read_state("sandbox") is None


# ---------------------------------------------------------------------- the commands


def test_up_status_down(capfd: pytest.CaptureFixture[str], folder: Path, cleaned: None) -> None:
    port = str(free_port())
    url = f"ws://127.0.0.1:{port}"
    assert command(capfd, "status") == (0, "sandbox   not up\nretriever not up\n", "")

    code, out, err = command(capfd, "up", "--local", "--port", port)
    assert (code, out) == (0, f"{url}\n") and f"--sandbox {url}" in err
    assert stat.S_IMODE((folder / "sandbox.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "sandbox.log").stat().st_mode) == 0o600

    state = services.read_state("sandbox")
    assert state is not None
    process = psutil.Process(state.pid)
    assert state.token not in " ".join(process.cmdline())
    assert os.getsid(state.pid) == state.pid, "Ctrl-C in the terminal would end it"
    with Session(remote.open_stream(Limits(), (), url), (), Limits()) as session:  # by the state's token
        assert session.run(["1 + 1"])[0].value == 2

        code, out, err = command(capfd, "up", "--local")
        assert (code, out) == (0, f"{url}\n") and "already" in err
        assert services.read_state("sandbox") == state
        code, _, err = command(capfd, "up", "--port", str(free_port()))
        assert code == 2 and "up already" in err
        code, _, err = command(capfd, "up", "--docker")
        assert code == 2 and "as a local process" in err

        code, out, _ = command(capfd, "status", "--json")
        row, other = json.loads(out)
        assert code == 0 and row["up"] is True and row["url"] == url and row["pid"] == state.pid
        assert row["health"]["sessions"] == 1 and other["name"] == "retriever" and other["up"] is False
        assert state.token not in out

        children = process.children(recursive=True)
        code, _, err = command(capfd, "down")
        assert code == 0 and "sandbox is down" in err
        with pytest.raises(SandboxError, match="gateway has been stopped"):
            session.run(["1"])
    assert not process.is_running()
    assert psutil.wait_procs(children, 5)[1] == []
    assert services.read_state("sandbox") is None
    assert command(capfd, "down")[::2] == (0, "sandbox is not up\nretriever is not up\n")


def test_up_with_an_index_starts_the_retriever(
    capfd: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, cleaned: None
) -> None:
    from retrieval import build_index

    from agentdistill.clients.retriever import open_retriever

    index, ports = build_index(tmp_path), [str(free_port()), str(free_port())]
    arguments = ("up", "--port", ports[0], "--retriever-port", ports[1], "--index")
    code, out, err = command(capfd, *arguments, str(index))
    urls = [f"ws://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"]
    assert (code, out.split()) == (0, urls) and f"--retriever {urls[1]}" in err
    with open_retriever(urls[1]) as retriever:  # by the state's token
        assert retriever.search(["music"], 1)[0][0].id == "bach"
    state = services.read_state("retriever")
    assert state is not None and state.token not in " ".join(psutil.Process(state.pid).cmdline())

    assert "already" in command(capfd, *arguments, str(index))[2]
    assert f"4 passages of {index}" in command(capfd, "status")[1]
    (tmp_path / "other").mkdir()
    code, _, err = command(capfd, "up", "--index", str(build_index(tmp_path / "other")))
    assert code == 2 and f"up already, for {index}" in err
    code, _, err = command(capfd, "up", "--index", str(tmp_path / "nothing"))
    assert code == 1 and "index build" in err and "Traceback" not in err

    assert command(capfd, "down")[2] == "sandbox is down\nretriever is down\n"
    assert services.read_state("retriever") is None and not services.is_running(state)


def test_a_service_that_died_is_started_anew(capfd: pytest.CaptureFixture[str], cleaned: None) -> None:
    port = free_port()
    first, _ = services.up_local("sandbox", port)
    os.kill(first.pid, 9)
    while services.is_running(first):
        time.sleep(0.01)
    assert "silent" in command(capfd, "status")[1]
    second, new = services.up_local("sandbox", port)
    assert new and second.pid != first.pid and second.token != first.token


def test_up_uses_the_token_that_clients_will_use(monkeypatch: pytest.MonkeyPatch, cleaned: None) -> None:
    monkeypatch.setenv(VARIABLE, "a token of one's own")
    state, _ = services.up_local("sandbox", free_port())
    assert state.token == "a token of one's own"
    assert "sessions taken" in remote.check(state.url)


def test_a_port_in_use_is_one_line(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    with start_gateway() as other:
        os.environ.pop(VARIABLE)  # up makes a token of its own, which the other gateway doesn't know
        code, out, err = command(capfd, "up", "--port", str(other.port))
    assert code == 1 and out == ""
    assert "Address already in use" in err and f"--port {other.port + 1}" in err and "Traceback" not in err
    assert services.read_state("sandbox") is None


def test_a_port_of_something_else_is_never_taken_for_ours(folder: Path) -> None:
    """A gateway that does not know our token answers /health, and isn't ours."""
    with start_gateway(token="theirs") as other:
        assert services.health(State("sandbox", "local", other.port, "theirs")) is not None
        assert services.health(State("sandbox", "local", other.port, "ours")) is None


def test_local_and_docker_exclude_each_other(capfd: pytest.CaptureFixture[str], folder: Path) -> None:
    assert command(capfd, "up", "--local", "--docker")[0] == 2
    folder.mkdir()
    services.write_state(State("sandbox", "docker", free_port(), "token"))
    with pytest.raises(UsageError, match="up in Docker"):
        services.up_local("sandbox")


def test_without_compose_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InfrastructureError, match=r"no Docker Compose here .*--local"):
        services.up_docker("sandbox", free_port(), lambda line: None, lambda: None)
    assert services.read_state("sandbox") is None
