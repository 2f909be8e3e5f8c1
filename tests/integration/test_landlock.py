"""What is special to the landlock jail: nothing hides the host, so everything must be refused one by one.

The jail runs inside an outer bubblewrap with a read-only host, its own pids and no network, so that a hole
harms nothing: once as root with the four capabilities of a hardened container, once as an ordinary user (a
user namespace with one id). Targets stand in a scratch folder beside the session's: files anybody may write,
sockets anybody may use, processes of the same user. They must be as they were when all is over.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from landlock_programs import ATTACKS, BOMB_DRIVER, BOMBS, DRIVER, EVERYDAY, OLDER, ORPHANS, PREAMBLE
from reach import reachable

from agentdistill.clients import bubblewrap, landlock
from agentdistill.services import service_folder

SCRATCH = "/mnt"
SANDBOX = service_folder("sandbox")
SOURCES = SANDBOX.parent

pytestmark = pytest.mark.skipif(
    landlock.abi() == 0 or bubblewrap.bwrap() is None, reason="Landlock and bubblewrap are needed"
)

OUTER = [
    *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--perms", "1777", "--tmpfs", SCRATCH),
    *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent", "--new-session"),
    *("--setenv", "TMPDIR", SCRATCH, "--setenv", "HOME", SCRATCH, "--chdir", SCRATCH),
]
CAPABILITIES = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL", "CAP_CHOWN"]
ROOT = ["--cap-drop", "ALL", *(word for name in CAPABILITIES for word in ("--cap-add", name))]
USER = ["--unshare-user", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
WHO = {"root": ROOT, "user": USER}
BECOME = "import os\nos.setgroups([]), os.setgid(54321), os.setuid(54321)\n"


def outside(who: list[str], program: str, given: object = None) -> Any:
    """Run a program of ours in the outer bubblewrap; what it prints last is JSON.

    If we are root, an ordinary user is another id: in a user namespace it would still be root to the kernel,
    which holds no limit on the number of processes against that.
    """
    if who is USER and os.geteuid() == 0:
        who = [*ROOT, *reachable(sys.base_prefix, sys.prefix, str(SOURCES))]
        program = BECOME + program
    command = [str(bubblewrap.bwrap()), *OUTER, *who, sys.executable, "-B", "-c", program]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run(
        command, input=json.dumps(given), capture_output=True, text=True, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def needs(who: str) -> None:
    if who == "root" and os.geteuid() != 0:
        pytest.skip("needs root")


# ---------------------------------------------------------------------- one attack after the other


@pytest.fixture(scope="module", params=["root", "user"])
def attacked(request: pytest.FixtureRequest) -> Any:
    needs(request.param)
    return outside(WHO[request.param], DRIVER, [PREAMBLE, ATTACKS])


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_refused(attacked: Any, name: str) -> None:
    outcome = attacked["results"][name]
    assert list(outcome) == ATTACKS[name] and "ESCAPED" not in outcome.values(), outcome


def test_the_host_is_as_it_was(attacked: Any) -> None:
    assert attacked["same"] and attacked["running"] == [True, True] and attacked["heard"] == []
    assert attacked["left"] == ["datagrams", "fifo", "folder", "secret", "target"]


# ---------------------------------------------------------------------- what only numbers hold


@pytest.mark.parametrize("who", WHO)
def test_bombs_are_stopped(who: str) -> None:
    """Each but one is a memory-like error, well before its deadline, and none leaves anything behind."""
    needs(who)
    results = outside(WHO[who], BOMB_DRIVER, BOMBS)
    assert results.pop("idle") and results.pop("clean") and results.pop("afterwards") == "works", results
    kind, value, seconds, few = results.pop("forks")  # as many as it may have are not too many: the deadline
    assert kind in ("memory", "timeout") and value == 5 and few and seconds < 6, results
    for name, (kind, value, seconds, few) in results.items():
        assert kind == "memory" and value == 5 and few and seconds < 4, (name, results)


@pytest.mark.parametrize("who", WHO)
def test_nothing_outlives_a_killed_supervisor(who: str) -> None:
    """Not a process without a parent, not a chain of forks that is never there when it is looked at."""
    needs(who)
    assert outside(WHO[who], ORPHANS) == [1, [[], []]]


# ---------------------------------------------------------------------- who it runs as, and older kernels


def test_root_that_cannot_become_somebody_else_is_refused() -> None:
    needs("root")
    program = """
import json
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.errors import SandboxError
try:
    open_sandbox("landlock")
except SandboxError as error:
    print(json.dumps([error.message, error.remedy]))
"""
    message, remedy = outside(["--cap-drop", "ALL", "--cap-add", "CAP_KILL"], program)
    assert "CAP_CHOWN, CAP_SETGID, CAP_SETUID" in message and "ordinary user" in remedy


def test_an_older_kernel_leaves_no_more_open() -> None:
    """The same attacks with the rules of each ABI from 1 on: what Landlock lacks there the filter denies."""
    results, text, alive = outside(USER, OLDER, str(SANDBOX))
    assert text == "as it was" and alive
    assert set(results) >= {"1"}
    for version, found in results.items():
        assert found.pop("own group") == found.pop("own file") == "done", (version, found)
        assert found.pop("thread") == ("done" if int(version) >= 6 else "EPERM"), (version, found)
        assert set(found.values()) <= {"EACCES", "EPERM"}, (version, found)


# ---------------------------------------------------------------------- what still works


def test_the_everyday_library_works_where_it_can() -> None:
    """As the README says: copies without mode and time, pairs of streams, threads, forks; no copy2."""
    program = f"""
import json
from agentdistill.clients.sandbox import open_sandbox
with open_sandbox("landlock") as session:
    [execution] = session.run([{EVERYDAY!r}])
print(json.dumps([execution.value, execution.error]))
"""
    assert outside(USER, program) == [["async", "from a fork", [1], "1", ["a", "b"]], None]
