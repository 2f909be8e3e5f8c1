"""Things that break: processes killed from outside, streams cut short, jails that talk nonsense.

Whatever happens, a step ends as data or as a SandboxError of one line, in time; a new session works
afterwards, and nothing of the old one is left on the machine.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gateway import start_gateway
from sandboxes import open_backend

from agentdistill.clients.bubblewrap import open_stream
from agentdistill.clients.session import Session
from agentdistill.clients.start import _Launcher
from agentdistill.errors import SandboxError
from agentdistill.types import ErrorKind, Execution, Limits, Sandbox

LOCAL = ["bubblewrap", "landlock", "gateway", "process"]
LIMITS = Limits(seconds=1, memory_mb=512, folder_mb=8, processes=16)
KILL_ALL = """
import os
for pid in range(2, 400):
    try: os.kill(pid, 9)
    except OSError: pass
"""
IN_TIME = 8.0  # seconds for what takes one, on a machine that others use, too


def descendants(root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = set(), [root]
    while todo:
        below = children.get(todo.pop(), [])
        found.update(below)
        todo += below
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    return ""


def shoot(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Patient:
    """A session and the host's pids of its processes."""

    def __init__(self, spec: str) -> None:
        open_backend(spec, limits=LIMITS).close()  # what serves many sessions runs by now
        before = descendants(os.getpid())
        self.session = open_backend(spec, limits=LIMITS)
        self.before = before
        self.run("x = 'there'")
        pythons = [pid for pid in self.family() if "supervisor.py" in command_of(pid)]
        parents = [parent_of(pid) for pid in pythons]
        self.supervisor = max(set(pythons), key=parents.count)

    def family(self) -> set[int]:
        return descendants(os.getpid()) - self.before

    def run(self, *codes: str) -> list[Execution]:
        started = time.monotonic()
        try:
            return self.session.run(list(codes))
        finally:
            assert time.monotonic() - started < IN_TIME


@pytest.fixture(params=LOCAL)
def patient(request: pytest.FixtureRequest) -> Iterator[Patient]:
    opened = Patient(request.param)
    yield opened
    opened.session.close()
    until = time.monotonic() + IN_TIME
    while opened.family():
        assert time.monotonic() < until, [command_of(pid) for pid in opened.family()]
        time.sleep(0.02)
    again = open_backend(request.param, limits=LIMITS)
    assert again.run(["1 + 1"])[0].value == 2
    again.close()


def clear(caught: pytest.ExceptionInfo[SandboxError]) -> None:
    text = str(caught.value)
    assert text and "\n" not in text and "Traceback" not in text


# ---------------------------------------------------------------------- killed from outside


def test_interpreters_killed_at_random_moments(patient: Patient) -> None:
    """Each step ends as data, and the session goes on; if all its states are shot, SandboxError."""
    chance = random.Random(7)
    code = "sum(range(100_000))"
    for number in range(15):
        victims = sorted(descendants(patient.supervisor))
        timer = threading.Timer(chance.random() / 50, shoot, (chance.choice(victims),))
        timer.start()
        try:
            codes = [code] * chance.choice((1, 1, 3))
            for execution in patient.run(*codes):
                assert execution.value == 4999950000 or execution.error_kind is ErrorKind.DIED, execution
            timer.join()
            [execution] = patient.run(f"{number}")
            assert execution.value == number or execution.error_kind is ErrorKind.DIED, execution
        except SandboxError as problem:  # the first interpreter was among the victims
            assert "no interpreter of the session answers" in str(problem), problem
            return


def test_a_family_shot_in_one_volley_is_one_error(patient: Patient) -> None:
    time.sleep(0.3)  # the twin of the last step is there by then
    for pid in descendants(patient.supervisor):
        shoot(pid)
    with pytest.raises(SandboxError) as caught:
        patient.run("1")
    clear(caught)


def test_stopped_interpreters_do_not_hold_us_up(patient: Patient) -> None:
    patient.run("x = 2")
    for pid in descendants(patient.supervisor):
        shoot(pid, signal.SIGSTOP)
    with contextlib.suppress(SandboxError):
        patient.run("x")


@pytest.mark.parametrize("during", [False, True])
def test_a_lost_supervisor_is_our_error_and_not_the_codes(patient: Patient, during: bool) -> None:
    timer = threading.Timer(0.3 if during else 0, shoot, (patient.supervisor,))
    timer.start()
    if not during:
        timer.join()
    with pytest.raises(SandboxError) as caught:
        patient.run("import time\ntime.sleep(.9)" if during else "1 + 1")
    clear(caught)
    with pytest.raises(SandboxError):
        patient.run("1 + 1")


def test_a_stopped_supervisor_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentdistill.clients.session.KILL_SECONDS", 1.0)
    monkeypatch.setattr("agentdistill.clients.session.FORK_SECONDS", 1.0)
    patient = Patient("bubblewrap")
    shoot(patient.supervisor, signal.SIGSTOP)
    with pytest.raises(SandboxError) as caught:
        patient.run("1")
    clear(caught)
    patient.session.close()


@pytest.mark.parametrize("spec", ["bubblewrap", "landlock", "process"])
def test_a_killed_launcher_is_replaced(spec: str) -> None:
    patient = Patient(spec)
    launchers = [
        pid
        for pid in descendants(os.getpid())
        if "launch.py" in command_of(pid) and parent_of(pid) == os.getpid()
    ]
    [launcher] = launchers
    shoot(launcher)
    time.sleep(0.1)
    try:  # a jail may outlive it; it ends with its stream
        [execution] = patient.run("x")
        assert execution.value == "there"
    except SandboxError:
        pass
    again = open_backend(spec, limits=LIMITS)
    assert again.run(["1 + 1"])[0].value == 2
    again.close()
    family = {pid for pid in patient.family() if Path(f"/proc/{pid}").exists()}
    patient.session.close()
    gone({pid for pid in family if "launch.py" not in command_of(pid)})


def gone(pids: set[int]) -> None:
    until = time.monotonic() + IN_TIME
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists() and not zombie(pid)]:
        assert time.monotonic() < until, [command_of(pid) for pid in alive]
        time.sleep(0.02)


def zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.parametrize("spec", ["bubblewrap", "landlock", "process"])
def test_the_jail_dies_with_us(spec: str) -> None:
    code = f"""
import sys, time
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.types import Limits
session = open_sandbox({spec!r}, limits=Limits(seconds=60))
print("up", flush=True)
session.run(["while True: pass"])
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        time.sleep(0.3)
        family = descendants(process.pid)
        assert len(family) >= 4
        process.kill()
    gone(family)


# ---------------------------------------------------------------------- streams that break


class Tampered:
    """A jail's stream, with `change` applied to every piece that comes out of it."""

    def __init__(self, change: Callable[[bytes], bytes]) -> None:
        self.stream = open_stream(LIMITS, ())
        self.change = change

    def send(self, data: bytes) -> None:
        self.stream.send(data)

    def receive(self, seconds: float) -> bytes | None:
        data = self.stream.receive(seconds)
        return self.change(data) if data else data

    def close(self) -> str:
        return self.stream.close()


def event(body: object) -> bytes:
    data = json.dumps(body).encode()
    return struct.pack(">II", len(data), 0) + data


@pytest.mark.parametrize("kept", [1, 5, 9, 30, 90])
def test_a_stream_that_breaks_in_mid_frame(kept: int) -> None:
    """After its first message, as many bytes come through as `kept` says, and then the end."""
    left = kept
    cut = False

    def change(data: bytes) -> bytes:
        nonlocal left
        if not cut:
            return data
        data, left = data[:left], max(0, left - len(data))
        return data

    session = Session(Tampered(change), (), LIMITS)
    cut = True
    with pytest.raises(SandboxError) as caught:
        for _ in range(50):
            session.run(["1"])
    clear(caught)
    with pytest.raises(SandboxError):
        session.run(["1"])


GARBAGE = [
    b"\xff" * 64,
    bytes(64),
    b"GET / HTTP/1.1\r\n\r\n",
    struct.pack(">II", 5, 0) + b"{}{}{",
    struct.pack(">II", 0xFFFFFFFF, 1),
    struct.pack(">II", 2, 0) + b"[]",
    event({}),
    event({"op": "ready"}),
    event({"op": "forked", "tag": []}),
    event({"op": "died", "id": {}}),
    event({"op": "died", "id": 2, "status": "x" * 100, "logs": 5, "cut": "y"}),
    event({"op": ["hello"]}),
]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("early", [True, False])
def test_garbage_from_the_jail(garbage: bytes, early: bool) -> None:
    """From the supervisor's side: an error, or nothing at all; never another exception and never for ever."""
    armed = early

    def change(data: bytes) -> bytes:
        nonlocal armed
        if armed:
            armed = False
            return garbage + data
        return data

    started = time.monotonic()
    try:
        with Session(Tampered(change), (), LIMITS) as session:
            armed = True
            for _ in range(3):
                session.run(["1"])
    except SandboxError as problem:
        assert "\n" not in str(problem)
    assert time.monotonic() - started < IN_TIME


def test_a_client_that_is_slow_to_read_gets_every_result_at_once() -> None:
    """What has come by then, the answer about the last twin and a result, is one piece."""

    def unchanged(data: bytes) -> bytes:
        return data

    class Slow(Tampered):
        def receive(self, seconds: float) -> bytes | None:
            time.sleep(0.05)
            return super().receive(seconds)

    with Session(Slow(unchanged), (), replace(LIMITS, seconds=5)) as session:
        for number in range(10):
            started = time.monotonic()
            assert session.run([f"{number}"])[0].value == number
            assert time.monotonic() - started < 3


def test_random_bytes_changed_on_the_way() -> None:
    chance = random.Random(3)
    for _ in range(5):
        damage = chance.randrange(1, 60)

        def change(data: bytes, damage: int = damage) -> bytes:
            if chance.randrange(damage):
                return data
            place = chance.randrange(len(data))
            return data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]

        started = time.monotonic()
        with contextlib.suppress(SandboxError), Session(Tampered(change), (), LIMITS) as session:
            for number in range(5):
                session.run([f"{number}"])
        assert time.monotonic() - started < 45  # a length that was changed is waited for once


def test_closing_while_a_step_runs_elsewhere(patient: Patient) -> None:
    ended: list[object] = []

    def work() -> None:
        try:
            ended.append(patient.run("import time\ntime.sleep(.9)\n5"))
        except SandboxError as problem:
            ended.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.3)
    patient.session.close()
    thread.join(IN_TIME)
    assert not thread.is_alive() and isinstance(ended[0], SandboxError), ended


# ---------------------------------------------------------------------- nothing is left


def left_behind(folder: Path) -> dict[str, int]:
    """Our descriptors, our children, folders of sessions, cgroups."""
    launchers = {str(pid) for pid in descendants(os.getpid())}  # their pids are in the names of the groups
    groups = [
        name
        for _, folders, _ in os.walk("/sys/fs/cgroup")
        for name in folders
        if name.startswith("agentdistill-") and name.split("-")[1] in launchers
    ]
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "processes": len(launchers),
        "threads": threading.active_count(),
        "folders": len(list(folder.iterdir())),
        "cgroups": len(groups),
    }


def nothing_new(before: dict[str, int], folder: Path) -> None:
    until = time.monotonic() + IN_TIME
    # More than before, and not just other: what the warm-up left may have gone meanwhile.
    while more := {name: n for name, n in left_behind(folder).items() if n > before[name]}:
        assert time.monotonic() < until, (before, more)
        gc.collect()
        time.sleep(0.1)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the launcher of this test's sessions, one of its own, makes their folders. Not in tmp_path: the
    landlock jail's user must find the way to it."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o711)
    launcher = _Launcher()
    monkeypatch.setenv("TMPDIR", str(made))
    monkeypatch.setattr("agentdistill.clients.start._launcher", launcher)
    yield made
    made.rmdir()
    if launcher._control is not None and launcher._process is not None:
        launcher._control.close()
        launcher._process.wait(IN_TIME)


@pytest.mark.parametrize("spec", LOCAL)
def test_many_sessions_leave_nothing_behind(spec: str, folder: Path) -> None:
    with start_gateway("--warm", "0") if spec == "gateway" else contextlib.nullcontext() as gateway:
        opened = gateway.url if gateway is not None else spec

        def use(how: int) -> None:
            session = open_backend(opened, limits=LIMITS)
            session.run(["open('f', 'w').write('x')"])
            session.run(["1", "import os\nif os.fork() == 0: __import__('time').sleep(60)"])
            if how == 1:
                session.run(["os._exit(1)"])
            if how == 2:
                with contextlib.suppress(SandboxError):
                    session.run([KILL_ALL])
            session.close()

        use(0)
        time.sleep(1)  # closing is over before the kernel has taken everything away
        gc.collect()
        before = left_behind(folder)
        for number in range(6):
            use(number % 3 if spec != "process" else number % 2)
        nothing_new(before, folder)


def test_sessions_opened_and_closed_in_threads_leave_nothing_behind(folder: Path) -> None:
    def use() -> None:
        session: Sandbox = open_backend("bubblewrap", limits=LIMITS)
        session.run(["1"])
        session.close()

    def wave() -> None:
        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    wave()
    time.sleep(1)
    before = left_behind(folder)
    wave()
    wave()
    nothing_new(before, folder)
