"""The docker backend on a real engine with the built image: walls, limits, leftovers. `-m docker`.

The engine and the image are required, not wished for: without them these tests fail. `.ci/docker-engine`
starts an engine, `agentdistill services build` makes the image.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentdistill.clients import docker, image
from agentdistill.clients import engine as engines
from agentdistill.clients.sandbox import doctor, open_sandbox
from agentdistill.errors import SandboxError
from agentdistill.types import Limits, Sandbox

pytestmark = pytest.mark.docker

Container = dict[str, Any]


@pytest.fixture(scope="module")
def engine() -> Iterator[engines.Engine]:
    with engines.connect() as connected:
        yield connected


@pytest.fixture
def opened(engine: engines.Engine) -> Iterator[Callable[..., tuple[Sandbox, Container]]]:
    """Open a session; also returns what the engine says of its container."""
    sessions: list[Sandbox] = []

    def open_one(limits: Limits | None = None, spec: str = "docker") -> tuple[Sandbox, Container]:
        before = {container["Id"] for container in ours(engine)}
        sessions.append(open_sandbox(spec, limits=limits or Limits()))
        [found] = [one for one in ours(engine) if one["Id"] not in before]
        return sessions[-1], engine.inspect_container(found["Id"])

    yield open_one
    for session in sessions:
        session.close()


def ours(engine: engines.Engine, owner: str = "") -> list[Container]:
    label = f"{engines.OWNER}={owner or engines.owner()}"
    found: list[Container] = engine.containers(all=True, filters={"label": label})
    return found


def value(session: Sandbox, code: str) -> Any:
    [execution] = session.run([code])
    assert execution.error is None, execution.error
    return execution.value


def until(done: Callable[[], bool], seconds: float = 15) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


# ---------------------------------------------------------------------- walls and limits


def test_the_container_is_made_with_every_limit(opened: Callable[..., tuple[Sandbox, Container]]) -> None:
    limits = Limits(memory_mb=300, folder_mb=8, processes=10, cores=1)
    _, container = opened(limits)
    host, config = container["HostConfig"], container["Config"]
    assert host["NetworkMode"] == "none" and host["IpcMode"] == "none"
    assert host["ReadonlyRootfs"] is True and host["AutoRemove"] is True and host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"] and not host["CapAdd"] and not host["Binds"] and not host["Devices"]
    assert host["Memory"] == host["MemorySwap"] == (2 * 300 + 4 * 8 + 256) << 20
    assert host["PidsLimit"] == 58 and host["NanoCpus"] == 1_000_000_000
    assert host["LogConfig"]["Type"] == "none"
    assert "no-new-privileges" in host["SecurityOpt"]
    [profile] = [text for text in host["SecurityOpt"] if text.startswith("seccomp=")]
    assert json.loads(profile.removeprefix("seccomp=")) == json.loads(docker.seccomp_profile())
    assert config["Labels"]["agentdistill"] == "session"
    assert config["Labels"]["agentdistill.owner"] == engines.owner()
    assert int(config["User"].split(":")[0]) > 20_000


def test_the_limits_hold_inside(opened: Callable[..., tuple[Sandbox, Container]]) -> None:
    session, _ = opened(Limits(memory_mb=300, folder_mb=8))
    status = value(
        session, "dict(l.rstrip().split(':\\t') for l in open('/proc/self/status') if ':\\t' in l)"
    )
    assert {status[name].strip() for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2" and status["Seccomp_filters"] == "2"
    assert value(session, "import os\ns = os.statvfs('.')\ns.f_blocks * s.f_frsize, s.f_files") == (
        32 << 20,
        docker.MAX_FILES,
    )
    assert value(session, "[line.split(':')[0].strip() for line in open('/proc/net/dev')][2:]") == ["lo"]
    assert value(session, "os.path.exists('/dev/shm'), os.listdir('/dev/pts'), os.listdir('/sys')") == (
        False,
        [],
        [],
    )
    for path in ("/x", "/tmp/x", "/packages/x", "/sandbox/x", "/dev/x", "/bin/x", "/proc/sys/x"):
        [execution] = session.run([f"open({path!r}, 'w')"])
        assert execution.error and execution.error.splitlines()[-1].startswith(
            ("OSError: [Errno 30]", "PermissionError:", "FileNotFoundError:")
        ), execution.error


def test_there_is_no_program_in_the_image_but_python(
    opened: Callable[..., tuple[Sandbox, Container]],
) -> None:
    session, _ = opened()
    code = """
import os, stat
found = []
for top, folders, names in os.walk('/'):
    folders[:] = [name for name in folders if os.path.join(top, name) not in ('/proc', '/sys', '/dev')]
    for name in names:
        path = os.path.join(top, name)
        mode = os.lstat(path).st_mode
        if stat.S_ISREG(mode) and (mode & 0o6000 or mode & 0o111 and open(path, 'rb').read(4) == b'\\x7fELF'
                                   and '.so' not in name):
            found.append(name)
found
"""
    assert [name.rstrip(".0123456789") for name in value(session, code)] == ["python"]


def test_the_engines_filter_alone_denies_what_ours_denies(engine: engines.Engine) -> None:
    """In a container like a session's, before any interpreter has put on a filter of its own."""
    probe = """
import ctypes, errno, os, sys
sys.path.insert(0, '/sandbox')
import confine
libc = ctypes.CDLL(None, use_errno=True)
column = confine.ARCHITECTURES[os.uname().machine][0]
for name, numbers in confine.CALLS.items():
    if numbers[column] is None:
        continue
    done = libc.syscall(numbers[column], *[ctypes.c_long(-1)] * 6)
    if done != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
        print('passes:', name, done, errno.errorcode.get(ctypes.get_errno()))
for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
    done = libc.syscall(confine.CLONE[column], ctypes.c_long(flag | 17), 0, 0, 0, 0)
    if done == 0:
        os._exit(0)
    if done != -1 or ctypes.get_errno() != errno.EPERM:
        print('passes: clone', hex(flag))
done = libc.syscall(confine.CLONE3[column], 0, 0)
print('clone3', errno.errorcode[ctypes.get_errno()])
print('seen')
"""
    facts = engines.facts(engine)
    config = docker.container_config(image.image_id(engine), Limits(), (), "", facts)
    config["Cmd"] = ["/bin/python", "-I", "-c", probe]
    config["HostConfig"].update(AutoRemove=False, LogConfig={"Type": "json-file"})
    container = engine.create_container_from_config(config)["Id"]
    try:
        engine.start(container)
        assert engine.wait(container)["StatusCode"] == 0
        assert engine.logs(container).decode().splitlines() == ["clone3 ENOSYS", "seen"]
    finally:
        engine.remove_container(container, force=True)


def test_two_sessions_share_nothing(opened: Callable[..., tuple[Sandbox, Container]]) -> None:
    (one, first), (other, second) = opened(), opened()
    assert first["Config"]["User"] != second["Config"]["User"]
    value(one, "x = 1\nopen('mine', 'w').write('secret')")
    value(other, "import os\nx = 2")
    assert value(other, "x, os.listdir('.')") == (2, [])
    assert value(other, "any('mine' in names for _, _, names in os.walk('/session'))") is False
    one.close()
    assert value(other, "x") == 2


def test_a_step_that_takes_too_much_memory_costs_only_itself(
    opened: Callable[..., tuple[Sandbox, Container]],
) -> None:
    session, _ = opened(Limits(memory_mb=200, processes=20))
    value(session, "x = 1")
    code = """
import os, time
for _ in range(12):
    if os.fork() == 0:
        data = bytearray(150 << 20)
        time.sleep(60)
time.sleep(60)
"""
    [execution] = session.run([code])
    assert execution.error
    assert value(session, "x") == 1


def test_runsc_runs_a_session_too(opened: Callable[..., tuple[Sandbox, Container]]) -> None:
    session, container = opened(spec="docker:runsc")
    assert container["HostConfig"]["Runtime"] == "runsc"
    [execution] = session.run(["open('/tmp/x', 'w')"])
    refused = execution.error and "Permission denied" in execution.error
    assert refused, "gVisor makes a writable /tmp where none is mounted"
    assert value(session, "import os\nx = 20\nos.uname().release.split('.')[0]") == "4", "gVisor's own kernel"
    for _ in range(6):  # every step leaves a twin, and gVisor has many threads for each
        value(session, "import numpy, sympy")
    assert [execution.value for execution in session.run(["x + 1", "x + 2"])] == [21, 22]
    session.keep(1)
    assert value(session, "x") == 20


# ---------------------------------------------------------------------- what is left behind


def test_a_closed_session_leaves_no_container(
    engine: engines.Engine, opened: Callable[..., tuple[Sandbox, Container]]
) -> None:
    session, container = opened()
    session.close()
    assert until(lambda: container["Id"] not in {one["Id"] for one in ours(engine)}, 5)


def test_a_session_that_does_not_end_by_itself_is_killed(
    engine: engines.Engine, opened: Callable[..., tuple[Sandbox, Container]]
) -> None:
    session, container = opened()
    engine.pause(container["Id"])
    started = time.monotonic()
    session.close()
    assert time.monotonic() - started < 10
    assert until(lambda: not ours(engine), 5)


CLIENT = """
import sys, time
from agentdistill.clients import engine
from agentdistill.clients.sandbox import open_sandbox
session = open_sandbox("docker")
session.run(["while_busy = 1"])
print(engine.owner(), flush=True)
session.run(["import time; time.sleep(600)"])
"""


def test_the_container_of_a_killed_client_ends_by_itself(engine: engines.Engine) -> None:
    with subprocess.Popen([sys.executable, "-c", CLIENT], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        owner = client.stdout.readline().strip()
        assert len(ours(engine, owner)) == 1
        client.send_signal(signal.SIGKILL)
        client.wait()
        assert until(lambda: not ours(engine, owner)), "nobody reaps it here"


def test_the_reaper_takes_the_containers_of_the_dead_and_no_others(engine: engines.Engine) -> None:
    here, pid, started = engines.owner().rsplit(" ", 2)
    owners = {
        "another start": f"{here} {pid} {int(started) + 1}",
        "no such process": f"{here} {2**22 + 1} 5",
        "alive": engines.owner(),
        "elsewhere": f"another-boot:pid:[1] {pid} 5",
        "unreadable": "",
    }
    facts = engines.facts(engine)
    made = {}
    try:
        for name, owner in owners.items():
            config = docker.container_config(image.image_id(engine), Limits(), (), "", facts)
            config["Labels"][engines.OWNER] = owner
            made[name] = engine.create_container_from_config(config)["Id"]
        assert engines.reap(engine) == 2
        left = {one["Id"] for one in engine.containers(all=True)}
        assert {name for name in made if made[name] in left} == {"alive", "elsewhere", "unreadable"}
    finally:
        for container in made.values():
            engines.remove(engine, container)


def test_a_container_that_nobody_can_vouch_for_goes_when_it_is_old_and_does_not_run() -> None:
    container = {"Labels": {}, "State": "created", "Created": time.time() - engines.FORGOTTEN - 60}
    assert engines._abandoned(container)
    assert not engines._abandoned({**container, "State": "running"})
    assert not engines._abandoned({**container, "Created": time.time()})


def test_the_next_session_of_a_process_clears_away_what_others_left(engine: engines.Engine) -> None:
    here, pid, _ = engines.owner().rsplit(" ", 2)
    config = docker.container_config(image.image_id(engine), Limits(), (), "", engines.facts(engine))
    config["Labels"][engines.OWNER] = f"{here} {pid} 5"
    left = engine.create_container_from_config(config)["Id"]
    docker._reaped.clear()
    open_sandbox("docker").close()
    assert left not in {one["Id"] for one in engine.containers(all=True)}


# ---------------------------------------------------------------------- what goes wrong


def test_a_missing_and_a_stale_image_are_refused(
    engine: engines.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = dataclasses.replace(image.SANDBOX, tag="agentdistill-none:latest")
    with pytest.raises(SandboxError, match=r"no image agentdistill-none.*services build"):
        image.image_id(engine, absent)
    monkeypatch.setattr(image, "content_hash", lambda recipe: "another")
    with pytest.raises(SandboxError, match=r"built from other programs.*services build"):
        open_sandbox("docker")
    rows = {name: (works, detail) for name, works, detail, _ in doctor()}
    assert rows["docker"][0] is False and "other programs" in rows["docker"][1]


def test_an_unknown_runtime_is_named() -> None:
    with pytest.raises(SandboxError, match=r"no runtime 'no-such'.*it has .*runc"):
        open_sandbox("docker:no-such")


def test_a_container_that_cannot_start_is_removed_and_says_why(
    engine: engines.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = docker.container_config
    monkeypatch.setattr(docker, "container_config", lambda *a: {**config(*a), "Cmd": ["/no-such-program"]})
    with pytest.raises(SandboxError, match="no-such-program"):
        open_sandbox("docker")
    assert until(lambda: not ours(engine), 5)


def test_what_the_supervisor_says_at_its_end_is_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    config = docker.container_config
    command = ["/bin/python", "-c", "import sys; sys.exit('these are my last words')"]
    monkeypatch.setattr(docker, "container_config", lambda *a: {**config(*a), "Cmd": command})
    with pytest.raises(SandboxError, match="these are my last words"):
        open_sandbox("docker")


def test_a_base_that_cannot_be_had_or_has_no_python_is_named(engine: engines.Engine) -> None:
    with pytest.raises(SandboxError, match=r"agentdistill-no-such-base:1 cannot be had.*air-gapped"):
        image.build_image("agentdistill-no-such-base:1")
    with pytest.raises(SandboxError, match=r"has no python3 that runs.*Python 3.11 or later"):
        image.build_image(image.SANDBOX.tag)  # it has Python, by another name


def test_the_doctor_runs_a_session(engine: engines.Engine) -> None:
    [row] = [row for row in doctor() if row[0] == "docker"]
    assert row[1] is True, row
    assert "numpy" in row[2]
    assert os.getpid() in docker._reaped
