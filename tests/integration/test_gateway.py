"""The gateway as it is run: a process of its own, real jails, real connections, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from gateway import GATEWAY, TOKEN, VARIABLE, Gateway, free_port, start_gateway
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from agentdistill.clients import remote
from agentdistill.clients.session import Session
from agentdistill.errors import SandboxError, UsageError
from agentdistill.types import Execution, Limits, SandboxTool

LIMITS = Limits(seconds=10)
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Gateway]:
    with start_gateway() as gateway:
        yield gateway


@pytest.fixture
def gateway(shared: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv(VARIABLE, TOKEN)
    return shared


def lease(gateway: Gateway, *tools: SandboxTool, limits: Limits = LIMITS, wait: float = 10) -> Session:
    return Session(remote.open_stream(limits, (), gateway.url, wait), tools, limits)


def one(session: Session, code: str) -> Execution:
    [execution] = session.run([code])
    return execution


def below(process: psutil.Process) -> list[psutil.Process]:
    return process.children(recursive=True)


def supervisors(gateway: Gateway) -> list[psutil.Process]:
    found = []
    for process in below(psutil.Process(gateway.process.pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "supervisor.py" in " ".join(process.cmdline()):
                found.append(process)
    return found


def wait_until(done: Callable[[], bool], what: str, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"not {what} after {seconds} s"
        time.sleep(0.02)


def gone(processes: Sequence[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != "zombie" for process in processes)


# ---------------------------------------------------------------------- sessions


def test_a_session_over_the_gateway_is_a_session(gateway: Gateway) -> None:
    tool = SandboxTool("double", lambda x: 2 * x, ("x",))
    with lease(gateway, tool) as session:
        assert one(session, "x = double(21)\nprint('hi')\nx").value == 42
        results = session.run(["x += 1\nx", "x += 2\nx", "1 / 0"])
        assert [result.value for result in results] == [43, 44, None]
        session.keep(1)
        assert one(session, "x").value == 44
        session.undo(2)
        assert one(session, "x").value == 42
        assert one(session, "import os\nos._exit(3)").error
        assert one(session, "x").value == 42
    gateway.wait_for_sessions(0)


def test_what_is_larger_than_a_message_is_cut_into_several(gateway: Gateway) -> None:
    text = "é" * 3_000_000
    with lease(gateway) as session:
        session.put("text", text)
        assert one(session, "len(text), text[-1]").value == (3_000_000, "é")
        assert len(one(session, "'x' * 900_000").value) == 900_000


def test_each_session_has_a_user_id_of_its_own(gateway: Gateway) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can hand out user ids")
    with lease(gateway) as a, lease(gateway) as b:
        ids = [one(session, "import os\nos.getuid(), os.getcwd()").value for session in (a, b)]
    assert ids[0][0] != ids[1][0]
    assert 0 not in (ids[0][0], ids[1][0])


def test_health_and_metrics(gateway: Gateway) -> None:
    before = gateway.metric("leases_total")
    with lease(gateway):
        health = gateway.health()
        assert (
            health["status"] == "ok"
            and health["sessions"] == 1
            and health["jail"] in ("bubblewrap", "landlock")
        )
        assert gateway.metric("sessions") == 1
    gateway.wait_for_sessions(0)
    assert gateway.metric("leases_total") == before + 1
    text = gateway.get("/metrics")[1]
    counts = [int(line.split()[1]) for line in text.splitlines() if "start_seconds_bucket" in line]
    assert counts == sorted(counts) and counts[-1] == gateway.metric("start_seconds_count") > 0
    assert gateway.get("/metrics", token=None)[0] == 401
    assert gateway.get("/metrics", token="wrong")[0] == 401
    assert "jail" not in gateway.get("/metrics", token="wrong")[1]


def test_check_says_what_is_there(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "of 64 sessions" in remote.check(gateway.url)
    monkeypatch.setenv(VARIABLE, "wrong")
    with pytest.raises(SandboxError, match=VARIABLE):
        remote.check(gateway.url)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize("token", ["wrong", TOKEN + "x", TOKEN[:-1], "", "ä"])
def test_a_wrong_token_is_refused_before_the_handshake(gateway: Gateway, token: str) -> None:
    leased = gateway.metric("leases_total")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(f"{gateway.url}/session", additional_headers=headers),
    ):
        pass
    assert refused.value.response.status_code == 401
    assert gateway.metric("leases_total") == leased


@pytest.mark.parametrize("token", ["wrong", None])
def test_the_client_says_which_variable_holds_the_token(
    gateway: Gateway, token: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AGENTDISTILL_STATE", str(tmp_path))
    if token is None:
        monkeypatch.delenv(VARIABLE)
    else:
        monkeypatch.setenv(VARIABLE, token)
    with pytest.raises(SandboxError, match=f"token.*{VARIABLE}"):
        lease(gateway)


def test_a_web_page_gets_no_session(gateway: Gateway) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(f"{gateway.url}/session", additional_headers=HEADERS, origin="https://example.com"),  # type: ignore[arg-type]
    ):
        pass
    assert refused.value.response.status_code == 403


GOOD: dict[str, Any] = {"protocol": 1, "limits": asdict(Limits()), "preload": []}
BAD_OPENINGS = {
    "not JSON": ("{", "no JSON object"),
    "deep": ("[" * 10_000, "no JSON object"),
    "long": (" " * 20_000, "short JSON text"),
    "bytes": (json.dumps(GOOD).encode(), "short JSON text"),
    "another protocol": (GOOD | {"protocol": 2}, "protocol 1, the client 2"),
    "no limits": ({"protocol": 1}, "limits: exactly these"),
    "an unknown limit": (GOOD | {"limits": {**GOOD["limits"], "jail": 1}}, "limits: exactly these"),
    "a text": (GOOD | {"limits": {**GOOD["limits"], "memory_mb": "1"}}, "memory_mb is no number"),
    "a bool": (GOOD | {"limits": {**GOOD["limits"], "cores": True}}, "cores is no number"),
    "too much": (
        GOOD | {"limits": {**GOOD["limits"], "memory_mb": 10**6}},
        "memory_mb is 1000000, .*at most 4096",
    ),
    "nothing": (GOOD | {"limits": {**GOOD["limits"], "processes": 0}}, "processes is 0"),
    "not a number": (GOOD | {"limits": {**GOOD["limits"], "seconds": float("nan")}}, "seconds is nan"),
    "a path": (GOOD | {"preload": ["../evil"]}, "not the name of a module"),
    "many modules": (GOOD | {"preload": ["os"] * 50}, "at most 16 modules"),
}


@pytest.mark.parametrize("opening", BAD_OPENINGS)
def test_an_opening_that_asks_for_the_wrong_thing_gets_one_clear_line(gateway: Gateway, opening: str) -> None:
    message, wanted = BAD_OPENINGS[opening]
    with connect(f"{gateway.url}/session", additional_headers=HEADERS) as connection:
        connection.send(json.dumps(message) if isinstance(message, dict) else message)
        answer = json.loads(connection.recv(timeout=5))
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=5)
    assert set(answer) == {"error", "remedy"} and len(answer["error"]) < 300
    assert re.search(wanted, answer["error"])
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 4003
    gateway.wait_for_sessions(0)


def test_the_client_passes_a_refusal_on_with_its_remedy(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SandboxError, match=r"memory_mb is 8192.*ask for less"):
        lease(gateway, limits=Limits(memory_mb=8192))
    monkeypatch.setattr(remote, "PROTOCOL", 2)
    with pytest.raises(SandboxError, match=r"protocol 1, the client 2.*same version"):
        lease(gateway)


def test_a_message_that_is_too_large_ends_only_its_own_session(gateway: Gateway) -> None:
    reason = 'ended_total{reason="too_large"}'
    before = gateway.metric(reason)
    with lease(gateway) as other:
        with connect(f"{gateway.url}/session", additional_headers=HEADERS) as connection:
            connection.send(json.dumps(GOOD))
            assert json.loads(connection.recv(timeout=10))["protocol"] == 1
            with pytest.raises(ConnectionClosed):
                connection.send(bytes((1 << 20) + 1))
                while True:
                    connection.recv(timeout=5)
        gateway.wait_for_sessions(1)
        assert gateway.metric(reason) == before + 1
        assert one(other, "1 + 1").value == 2


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTDISTILL_STATE", str(tmp_path))
    url = f"ws://127.0.0.1:{free_port()}"
    for call in (lambda: remote.open_stream(LIMITS, (), url), lambda: remote.check(url)):
        with pytest.raises(SandboxError, match=r"connection refused \(agentdistill services up --local\)"):
            call()


@pytest.mark.parametrize(
    "url",
    ["ws://", "http://127.0.0.1:1", "ws://127.0.0.1:x", "ws://a:b@127.0.0.1:1", "ws://127.0.0.1:1/path"],
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT"):
        remote.open_stream(LIMITS, (), url)


# ---------------------------------------------------------------------- places, idleness, age


@pytest.fixture(scope="module")
def narrow() -> Iterator[Gateway]:
    """One place, and sessions that end soon."""
    options = ("--max-sessions", "1", "--warm", "0", "--idle-seconds", "1", "--lifetime-seconds", "3")
    with start_gateway(*options) as gateway:
        yield gateway


@pytest.fixture
def tight(narrow: Gateway, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.setenv(VARIABLE, TOKEN)
    narrow.wait_for_sessions(0)
    return narrow


def test_who_finds_it_full_waits_and_gets_the_next_place(tight: Gateway) -> None:
    first = lease(tight)
    with pytest.raises(InvalidStatus) as refused, connect(f"{tight.url}/session", additional_headers=HEADERS):
        pass
    assert refused.value.response.status_code == 503
    assert refused.value.response.headers["Retry-After"] == "1"
    with pytest.raises(SandboxError, match=r"no place at the gateway .* in 0\.3 s: all 1 sessions"):
        lease(tight, wait=0.3)
    timer = threading.Timer(0.5, first.close)
    timer.start()
    started = time.monotonic()
    with lease(tight) as second:
        assert time.monotonic() - started >= 0.4
        assert one(second, "1 + 1").value == 2
    timer.join()


def test_an_idle_session_ends_and_says_why(tight: Gateway) -> None:
    session = lease(tight)
    jails = supervisors(tight)
    assert jails
    for _ in range(3):  # bytes keep it alive
        time.sleep(0.5)
        assert one(session, "1 + 1").value == 2
    tight.wait_for_sessions(0)
    assert gone(jails)
    with pytest.raises(SandboxError, match="no byte in 1 s"):
        session.run(["1"])


def test_a_session_has_a_longest_life(tight: Gateway) -> None:
    session = lease(tight)
    started = time.monotonic()
    with pytest.raises(SandboxError, match="ends sessions after 3 s"):
        while True:
            session.run(["1"])
            time.sleep(0.1)
    assert 2 < time.monotonic() - started < 6
    tight.wait_for_sessions(0)


# ---------------------------------------------------------------------- deaths


def test_the_gateway_killed_in_mid_step_is_one_error_and_leaves_no_process() -> None:
    with start_gateway() as gateway:
        session, bystander = lease(gateway), lease(gateway)
        one(session, "x = 1")
        processes = below(psutil.Process(gateway.process.pid))
        assert len(processes) > 6
        threading.Timer(0.3, gateway.process.kill).start()
        started = time.monotonic()
        with pytest.raises(SandboxError, match="connection to the gateway is lost") as first:
            session.run(["import time\ntime.sleep(5)"])
        assert time.monotonic() - started < 3
        with pytest.raises(SandboxError) as second:
            session.run(["1"])
        assert second.value is first.value
        with pytest.raises(SandboxError):
            bystander.run(["1"])
        wait_until(lambda: gone(processes), "gone", 8)
        with pytest.raises(SandboxError, match="connection refused"):
            lease(gateway)


def test_sigterm_ends_sessions_and_the_gateway_soon() -> None:
    with start_gateway() as gateway:
        session = lease(gateway)
        processes = below(psutil.Process(gateway.process.pid))
        threading.Timer(0.3, gateway.process.terminate).start()
        with pytest.raises(SandboxError, match="the gateway has been stopped"):
            session.run(["import time\ntime.sleep(5)"])
        assert gateway.process.wait(5) == 0
        wait_until(lambda: gone(processes), "gone", 3)
        assert "Traceback" not in gateway.log.read_text()


def test_a_gateway_restarted_under_load_costs_only_typed_errors() -> None:
    port = free_port()
    stop, errors, wrong, done = threading.Event(), [0], [], [0]

    def client() -> None:
        while not stop.is_set():
            try:
                stream = remote.open_stream(LIMITS, (), f"ws://127.0.0.1:{port}", 5)
                with Session(stream, (), LIMITS) as session:
                    for number in range(5):
                        if one(session, f"{number} + 1").value != number + 1:
                            wrong.append("a wrong value")
                done[0] += 1
            except SandboxError:
                errors[0] += 1
                time.sleep(0.05)
            except BaseException as problem:
                wrong.append(repr(problem))
                return

    threads = [threading.Thread(target=client) for _ in range(4)]
    try:
        for round_ in range(3):
            with start_gateway(port=port) as gateway:
                if not threads[0].is_alive():
                    for thread in threads:
                        thread.start()
                before = done[0]
                wait_until(lambda before=before: done[0] >= before + 4 or bool(wrong), "leased", 20)
                if round_ == 1:
                    gateway.process.kill()
        assert errors[0] > 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert wrong == []


def test_a_client_killed_takes_its_jail_along(gateway: Gateway) -> None:
    gateway.wait_for_sessions(0)
    program = (
        "import sys, time\n"
        "from agentdistill.clients import remote\n"
        "from agentdistill.clients.session import Session\n"
        "from agentdistill.types import Limits\n"
        f"session = Session(remote.open_stream(Limits(), (), {gateway.url!r}), (), Limits())\n"
        "session.run(['x = 1'])\n"
        "print('ready', flush=True)\n"
        "session.run(['import time; time.sleep(15)'])\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None and client.stdout.readline() == b"ready\n"
        assert gateway.health()["sessions"] == 1
        client.kill()
    gateway.wait_for_sessions(0, seconds=3)


def test_a_killed_launcher_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with start_gateway() as gateway:
        with lease(gateway) as session:
            [launcher] = psutil.Process(gateway.process.pid).children()
            launcher.kill()
            wait_until(lambda: gone([launcher]), "gone")
            with contextlib.suppress(SandboxError):  # its jails may have died with it
                session.run(["1"])
        with lease(gateway) as session:
            assert one(session, "1 + 1").value == 2


def test_a_jail_that_died_while_it_waited_is_passed_over() -> None:
    with start_gateway("--warm", "2") as gateway:
        wait_until(lambda: gateway.metric("warm") == 2, "warm")
        waiting = supervisors(gateway)
        for process in waiting:
            with contextlib.suppress(psutil.NoSuchProcess):  # one's end is the others'
                process.kill()
        wait_until(lambda: gone(waiting), "dead")
        with lease(gateway, limits=Limits()) as session:
            assert one(session, "1 + 1").value == 2


def test_jails_are_started_ahead_for_what_is_asked_for_twice() -> None:
    with start_gateway("--warm", "1") as gateway:

        def waited() -> float:
            wait_until(lambda: gateway.metric("warm") == 1, "warm")
            before = gateway.metric("start_seconds_sum")
            lease(gateway).close()
            return gateway.metric("start_seconds_sum") - before

        cold, _, warm = waited(), waited(), waited()
        assert warm < 0.005 < cold


# ---------------------------------------------------------------------- backpressure


def resident_mb(gateway: Gateway) -> float:
    rss: int = psutil.Process(gateway.process.pid).memory_info().rss
    return rss / 1e6


class _Deaf:
    """A stream that stops reading when it is told to, and goes on when it is told to, once."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._heard = threading.Event()
        self.deaf = False
        self.send, self.close, self.hear = stream.send, stream.close, self._heard.set

    def receive(self, seconds: float) -> bytes | None:
        if self.deaf and not self._heard.wait(min(seconds, 0.05)):
            return None
        data: bytes | None = self._stream.receive(seconds)
        return data


FLOOD = """
import gc
[channel] = [found for found in gc.get_objects() if type(found).__name__ == "Channel"]
for number in range(200):
    call = {"op": "call", "run": channel.run, "name": "t", "id": 10_000 + number}
    channel.send({**call, "args": ["x" * 500_000], "kwargs": {}})
"""


def test_a_client_that_does_not_read_costs_the_gateway_no_memory(gateway: Gateway) -> None:
    limits = Limits(seconds=20)
    stream = _Deaf(remote.open_stream(limits, (), gateway.url))
    results: list[Execution] = []

    def first_call(x: str) -> None:
        stream.deaf = True  # 199 more are on their way, 100 MB

    tool = SandboxTool("t", first_call, ("x",))
    with Session(stream, (tool,), limits) as session, lease(gateway) as other:
        one(other, "1")
        before = resident_mb(gateway)
        thread = threading.Thread(target=lambda: results.extend(session.run([FLOOD])))
        thread.start()
        wait_until(lambda: stream.deaf, "deaf")
        highest = before
        for _ in range(12):
            time.sleep(0.1)
            highest = max(highest, resident_mb(gateway))
        assert one(other, "1 + 1").value == 2, "another client waits for the one that doesn't read"
        assert results == []
        stream.hear()
        thread.join(30)
        assert [len(result.tool_calls) for result in results] == [200], "nothing is lost"
    assert highest - before < 15


def test_a_jail_that_does_not_read_costs_the_gateway_no_memory(gateway: Gateway) -> None:
    known = {process.pid for process in supervisors(gateway)}
    limits = Limits(seconds=12)  # nobody has jails of these ready
    with Session(remote.open_stream(limits, (), gateway.url), (), limits) as session:
        one(session, "1")
        stopped = [process for process in supervisors(gateway) if process.pid not in known]
        before = resident_mb(gateway)
        for process in stopped:
            process.suspend()
        thread = threading.Thread(target=session.put, args=("text", "x" * 30_000_000))
        try:
            thread.start()
            highest = before
            for _ in range(12):
                time.sleep(0.1)
                highest = max(highest, resident_mb(gateway))
            assert thread.is_alive(), "30 MB have gone somewhere"
        finally:
            for process in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        thread.join(20)
        assert one(session, "len(text)").value == 30_000_000
    assert highest - before < 15


# ---------------------------------------------------------------------- many


def total_pss_mb(process: psutil.Process) -> float:
    """Memory of a process and all below it; a page that several share counts once."""
    total = 0
    for one_of_them in [process, *below(process)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += one_of_them.memory_full_info().pss
    return total / 1e6


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_leases_at_once() -> None:
    count, steps = 200, 2000
    with (
        start_gateway("--max-sessions", str(count), "--warm", "0") as gateway,
        contextlib.ExitStack() as stack,
    ):
        with ThreadPoolExecutor(16) as threads:
            begun = time.monotonic()
            sessions = list(threads.map(lambda _: lease(gateway, wait=60), range(count)))
            leased = time.monotonic() - begun
        for session in sessions:
            stack.callback(session.close)
        for number, session in enumerate(sessions):
            assert one(session, f"x = {number}\nx").value == number
        memory = total_pss_mb(psutil.Process(gateway.process.pid))
        seconds = []
        for number in range(steps):
            session = sessions[number * 7 % count]
            begun = time.monotonic()
            assert one(session, "x").value == number * 7 % count
            seconds.append(time.monotonic() - begun)
        seconds.sort()
        with pytest.raises(SandboxError, match="no place"):
            lease(gateway, wait=0.2)
    p50, p99 = (1000 * seconds[int(steps * part)] for part in (0.5, 0.99))
    print(
        f"{count} leases in {leased:.1f} s; {memory:.0f} MB PSS in all; "
        f"step p50 {p50:.1f} ms, p99 {p99:.1f} ms (n={steps})"
    )
    assert memory < 4_000


# ---------------------------------------------------------------------- the program


def run_gateway(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-I", str(GATEWAY), *arguments]
    return subprocess.run(
        command, env={**environment, **variables}, capture_output=True, text=True, check=False, timeout=20
    )


def test_nobody_is_served_without_a_token() -> None:
    run = run_gateway("--port", str(free_port()))
    assert run.returncode == 2 and "a token is needed" in run.stderr


def test_an_empty_token_file_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    run = run_gateway("--token-file", str(tmp_path / "token"))
    assert run.returncode == 1 and "holds no token" in run.stderr


def test_the_token_goes_no_further(gateway: Gateway) -> None:
    environments = [process.environ() for process in below(psutil.Process(gateway.process.pid))]
    assert environments
    assert TOKEN not in str(environments)


def test_folders_of_a_gateway_that_died_are_removed() -> None:
    with tempfile.TemporaryDirectory() as name:
        parent = Path(name)
        parent.chmod(0o755)  # a session has a user id of its own, and must get to its folder
        with start_in(parent) as first:
            [folder] = parent.iterdir()
            (folder / "session").mkdir()
            with start_in(parent):
                assert (folder / "session").is_dir(), "one that is alive keeps its own"
            first.process.kill()
            first.process.wait()
        (folder / "session").mkdir(exist_ok=True)  # as if launch.py had been killed, too
        with start_in(parent):
            assert not folder.exists()
        assert list(parent.iterdir()) == []


@contextlib.contextmanager
def start_in(folder: Path) -> Iterator[Gateway]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        with start_gateway() as gateway:
            yield gateway
