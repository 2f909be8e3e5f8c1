"""Hostile programs against the bubblewrap jail, each for one property.

A program runs with a 1 s deadline in a session of its own. Whatever it does, the session must answer
afterwards, within time, and no host state may have been seen or changed. Code that tries something and is
refused prints `refused: ...`; a program that gets through prints `ESCAPED`.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentdistill.clients.sandbox import open_sandbox
from agentdistill.errors import SandboxError
from agentdistill.types import ErrorKind, Execution, Limits, Opaque, Sandbox, SandboxTool

LIMITS = Limits(seconds=1, memory_mb=512, folder_mb=8, processes=16, output_chars=2000)
SLACK = 2.5  # seconds a step may last beyond its deadline before it counts as a hang; the machine is shared


@pytest.fixture
def session() -> Iterator[Sandbox]:
    opened = open_sandbox("bubblewrap", limits=LIMITS, tools=[SandboxTool("echo", lambda x: x, ("x",))])
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Sandbox]:
    """One session for the programs that are refused at once: a start costs more than they do."""
    opened = open_sandbox("bubblewrap", limits=LIMITS)
    yield opened
    opened.close()


def attack(session: Sandbox, code: str) -> Execution:
    """Run it after a harmless step, and see that the session and its state are there afterwards."""
    [before] = session.run(["canary = 'alive'\ncanary"])
    assert before.value == "alive"
    started = time.monotonic()
    [execution] = session.run([textwrap.dedent(code)])
    assert time.monotonic() - started < LIMITS.seconds + SLACK
    assert "ESCAPED" not in execution.logs, execution.logs
    started = time.monotonic()
    [after] = session.run(["canary"])
    assert after.value == "alive", after
    assert time.monotonic() - started < SLACK
    return execution


def refused(session: Sandbox, code: str) -> Execution:
    """The code must run into an OSError, or print one, and get no further."""
    execution = attack(session, code)
    assert "refused" in execution.logs or execution.error, execution
    assert not execution.timed_out
    return execution


SYSCALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def syscall(name, number, *args):
    result = libc.syscall(number, *args)
    code = ctypes.get_errno()
    print("ESCAPED" if result >= 0 else f"refused: {name}: {os.strerror(code)}")
"""
x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="syscall numbers of x86_64")


# ---------------------------------------------------------------------- the host's files


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/etc/hostname", "/root", "/home", "/var", "/usr/bin", "/sys", "/proc", "/run", "/tmp"],
)
def test_host_paths_are_not_there(shared: Sandbox, path: str) -> None:
    execution = attack(shared, f"import os\nos.path.exists({path!r})")
    assert execution.value is False


def test_the_checkout_and_site_packages_are_not_there(session: Sandbox) -> None:
    names = [str(Path(__file__).resolve()), sys.prefix + "/bin", str(Path.home())]
    execution = attack(session, f"import os\n[os.path.exists(p) for p in {names!r}]")
    assert execution.value == [False, False, False]
    assert attack(session, "import importlib.util as u\nu.find_spec('pytest'), u.find_spec('pip')").value == (
        None,
        None,
    )


def test_only_known_names_are_at_the_top(session: Sandbox) -> None:
    execution = attack(session, "import os\nset(os.listdir('/'))")
    allowed = {
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
    assert execution.value <= allowed
    assert attack(session, "import os\nos.listdir('/etc')").value == ["ld.so.cache"]


def test_the_private_folder_is_shut(session: Sandbox) -> None:
    code = """
    import os
    for attempt in (lambda: os.listdir('/private'), lambda: os.listdir('/private/proc'),
                    lambda: os.open('/private', os.O_PATH) and os.open('/private/proc', os.O_PATH),
                    lambda: os.chmod('/private', 0o755), lambda: os.chdir('/private')):
        try:
            attempt(); print('ESCAPED')
        except OSError as e:
            print('refused', e)
    """
    refused(session, code)


@pytest.mark.parametrize(
    "path", ["/x", "/dev/x", "/dev/shm/x", "/python/x", "/packages/x", "/sandbox/x", "/private/x"]
)
def test_nothing_outside_the_folder_is_writable(shared: Sandbox, path: str) -> None:
    refused(shared, f"open({path!r}, 'w').write('x')\nprint('ESCAPED')")


def test_the_programs_cannot_be_changed(session: Sandbox) -> None:
    refused(session, "open('/sandbox/worker.py', 'a').write('x')\nprint('ESCAPED')")


def test_symbolic_links_lead_nowhere(session: Sandbox) -> None:
    refused(session, "import os\nos.symlink('/etc/passwd', 'p')\nprint('ESCAPED', open('p').read())")


def test_a_symbolic_link_in_the_folder_is_not_followed_by_the_supervisors_copy(session: Sandbox) -> None:
    attack(session, "import os\nos.symlink('/private/proc', 'p')\nos.symlink('.', 'loop')\nos.mkfifo('pipe')")
    results = session.run(["import os\nsorted(os.listdir())"] * 2)
    assert results[0].value == ["loop", "p"]  # links as links, and no pipe


def test_hard_links_out_are_refused(session: Sandbox) -> None:
    refused(session, "import os\nos.link('/sandbox/worker.py', 'w')\nprint('ESCAPED')")


def test_device_nodes_cannot_be_made(session: Sandbox) -> None:
    refused(
        session, "import os, stat\nos.mknod('d', stat.S_IFBLK | 0o600, os.makedev(254, 0))\nprint('ESCAPED')"
    )


def test_only_harmless_devices_are_there(session: Sandbox) -> None:
    execution = attack(session, "import os\nset(os.listdir('/dev'))")
    assert execution.value == {"null", "zero", "full", "random", "urandom"}


# ---------------------------------------------------------------------- leaks


def test_the_environment_is_clean(session: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "12345")
    with_secret = open_sandbox("bubblewrap", limits=LIMITS)
    try:
        execution = attack(with_secret, "import os\ndict(os.environ)")
    finally:
        with_secret.close()
    allowed = {"PATH", "LANG", "HOME", "TMPDIR", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "LD_LIBRARY_PATH"}
    assert set(execution.value) <= allowed


def test_the_real_environment_block_is_clean_too(session: Sandbox) -> None:
    code = """
    import ctypes
    block = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), 'environ')
    found, i = [], 0
    while block[i]:
        found.append(block[i].split(b'=')[0].decode()); i += 1
    found
    """
    assert "SECRET_TOKEN" not in attack(session, code).value


def test_no_descriptor_is_inherited(session: Sandbox) -> None:
    code = """
    import os, stat
    kinds = {}
    for fd in range(256):
        try: mode = os.fstat(fd).st_mode
        except OSError: continue
        kinds[fd] = 'socket' if stat.S_ISSOCK(mode) else 'file' if stat.S_ISREG(mode) else 'device'
    kinds
    """
    kinds = attack(session, code).value
    assert {fd: kind for fd, kind in kinds.items() if fd < 3} == {0: "device", 1: "file", 2: "file"}
    assert [kind for fd, kind in kinds.items() if fd >= 3] == ["socket"]  # its own channel


def test_the_user_is_nobody_and_has_no_capability(session: Sandbox) -> None:
    code = """
    import ctypes, os
    libc = ctypes.CDLL(None)
    caps = (ctypes.c_uint32 * 6)(*[9] * 6)
    libc.capget((ctypes.c_uint32 * 2)(0x20080522, 0), caps)
    os.getuid(), os.geteuid(), list(caps)
    """
    uid, euid, caps = attack(session, code).value
    assert uid == euid != 0 and caps == [0] * 6


@pytest.mark.parametrize("call", ["setuid(0)", "setgid(0)", "seteuid(0)", "setgroups([0])", "setreuid(0, 0)"])
def test_root_cannot_be_had(shared: Sandbox, call: str) -> None:
    refused(shared, f"import os\nos.{call}\nprint('ESCAPED')")


# ---------------------------------------------------------------------- network


@pytest.mark.parametrize(
    "family", ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK", "AF_PACKET", "AF_ALG", "AF_VSOCK"]
)
def test_no_socket_of_any_family(shared: Sandbox, family: str) -> None:
    code = f"""
    import socket
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        try:
            socket.socket(socket.{family}, kind); print("ESCAPED")
        except PermissionError as e:
            print("refused", e)
    """
    assert attack(shared, code).logs.count("refused") == 4


def test_urls_cannot_be_opened(session: Sandbox) -> None:
    refused(
        session,
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:80', timeout=.5)\nprint('ESCAPED')",
    )


# ---------------------------------------------------------------------- system calls


@x86
@pytest.mark.parametrize(
    ("name", "number", "args"),
    [
        ("ptrace", 101, "16, os.getppid(), 0, 0"),
        ("process_vm_readv", 310, "os.getppid(), 0, 0, 0, 0, 0"),
        ("pidfd_open", 434, "os.getppid(), 0"),
        ("pidfd_getfd", 438, "3, 0, 0"),
        ("mount", 165, "0, 0, 0, 0, 0"),
        ("umount2", 166, "b'/private', 2"),
        ("fsopen", 430, "b'proc', 0"),
        ("open_tree", 428, "-100, b'/', 1"),
        ("move_mount", 429, "-100, b'/', -100, b'/x', 0"),
        ("pivot_root", 155, "b'.', b'.'"),
        ("chroot", 161, "b'.'"),
        ("unshare", 272, "0x10000000"),
        ("setns", 308, "0, 0"),
        ("clone with CLONE_NEWUSER", 56, "0x10000011, 0, 0, 0, 0"),
        ("clone3", 435, "0, 0"),
        ("bpf", 321, "0, 0, 0"),
        ("keyctl", 250, "0, -3, 0, 0, 0"),
        ("add_key", 248, "b'user', b'k', b'v', 1, -3"),
        ("io_uring_setup", 425, "1, 0"),
        ("userfaultfd", 323, "1"),
        ("perf_event_open", 298, "0, 0, -1, -1, 0"),
        ("memfd_create", 319, "b'x', 0"),
        ("shmget", 29, "0, 4096, 0o1600"),
        ("mq_open", 240, "b'q', 0o102, 0o600, 0"),
        ("open_by_handle_at", 304, "0, 0, 0"),
        ("personality", 135, "0"),
        ("kexec_load", 246, "0, 0, 0, 0"),
        ("init_module", 175, "0, 0, b''"),
        ("reboot", 169, "0, 0, 0, 0"),
        ("syslog", 103, "3, 0, 0"),
        ("fcntl F_SETOWN", 72, "0, 8, 2"),
        ("ioctl TIOCSTI", 16, "0, 0x5412, b'x'"),
        ("prlimit of the supervisor", 302, "2, 0, 0, 0"),
    ],
)
def test_system_calls_are_denied(shared: Sandbox, name: str, number: int, args: str) -> None:
    [execution] = shared.run([f"{SYSCALL}syscall({name!r}, {number}, {args})"])
    expected = "Function not implemented" if name == "clone3" else "Operation not permitted"
    assert execution.logs == f"refused: {name}: {expected}\n"


@x86
def test_other_abis_are_killed(session: Sandbox) -> None:
    execution = attack(session, f"{SYSCALL}syscall('x32 getpid', 0x40000000 + 39)")
    assert execution.error_kind is ErrorKind.DIED


# ---------------------------------------------------------------------- other processes


@pytest.mark.parametrize("pid", ["1", "2", "3", "-1", "-2", "-3", "os.getppid()"])
@pytest.mark.parametrize("number", [9, 19])
def test_the_supervisor_and_the_first_interpreter_cannot_be_signalled(
    shared: Sandbox, pid: str, number: int
) -> None:
    refused(shared, f"import os\nos.kill({pid}, {number})\nprint('ESCAPED')")


def test_killing_every_other_pid_loses_nothing_that_was_not_its_own(session: Sandbox) -> None:
    code = """
    import os
    for pid in range(4, 400):
        if pid != os.getpid():
            try: os.kill(pid, 9)
            except OSError: pass
    """
    [execution] = session.run([textwrap.dedent(code)])
    assert execution.error is None
    [after] = session.run(["1 + 1"])
    assert after.value == 2


def test_a_fork_bomb_is_held_and_swept(session: Sandbox) -> None:
    execution = attack(session, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")
    assert execution.timed_out


def test_a_quiet_fork_bomb_is_swept_at_the_end_of_its_step(session: Sandbox) -> None:
    code = """
    import os, time
    for _ in range(10):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0: time.sleep(60)
            os._exit(0)
    """
    attack(session, code)
    code = """
    import os
    alive = []
    for pid in range(4, 200):
        try: os.kill(pid, 0)
        except OSError: continue
        alive.append(pid)
    len(alive)
    """
    assert attack(session, code).value < 12  # this one, and its twins


def test_a_thread_bomb_is_held(session: Sandbox) -> None:
    code = """
    import threading, time
    made = 0
    try:
        while True:
            threading.Thread(target=time.sleep, args=(9,), daemon=True).start(); made += 1
    except RuntimeError as e:
        print('refused', made, e)
    """
    execution = refused(session, code)
    assert int(execution.logs.split()[1]) < 200


def test_a_child_that_comes_through_gives_no_second_result(session: Sandbox) -> None:
    execution = attack(
        session, "import os, time\npid = os.fork()\nif pid: time.sleep(.2)\nos.getpid() if pid else 'ESCAPED'"
    )
    assert isinstance(execution.value, int)


# ---------------------------------------------------------------------- bombs


def test_memory_in_one_piece(session: Sandbox) -> None:
    assert attack(session, "x = bytearray(4 << 30)").error_kind is ErrorKind.MEMORY


def test_memory_bit_by_bit(session: Sandbox) -> None:
    execution = attack(session, "x = []\nwhile True: x.append(bytearray(1 << 20))")
    assert execution.error_kind in (ErrorKind.MEMORY, ErrorKind.TIMEOUT)


def test_a_file_too_large(session: Sandbox) -> None:
    refused(
        session,
        "f = open('big', 'wb')\nfor _ in range(9): f.write(bytes(1 << 20))\nf.close()\nprint('ESCAPED')",
    )


def test_many_files_too_large_together(session: Sandbox) -> None:
    code = (
        "for i in range(1000):\n    with open(f'f{i}', 'wb') as f: f.write(bytes(1 << 20))\nprint('ESCAPED')"
    )
    refused(session, code)


def test_a_sparse_giant(session: Sandbox) -> None:
    refused(session, "f = open('s', 'wb')\nf.truncate(1 << 40)\nprint('ESCAPED')")


def test_descriptors_run_out(session: Sandbox) -> None:
    refused(session, "import os\nfds = []\nwhile True: fds.append(os.dup(0))")


def test_endless_prints_are_cut(session: Sandbox) -> None:
    execution = attack(session, "while True: print('x' * 1000)")
    assert execution.timed_out and len(execution.logs) < LIMITS.output_chars + 100


def test_endless_raw_output_is_cut(session: Sandbox) -> None:
    execution = attack(session, "import os\nwhile True: os.write(2, b'y' * 4096)")
    assert len(execution.logs) < LIMITS.output_chars + 100 and "cut]" in execution.logs


def test_a_giant_value_becomes_text(session: Sandbox) -> None:
    value = attack(session, "'x' * 50_000_000").value
    assert isinstance(value, Opaque) and len(value.repr) < 5000


def test_a_giant_exception_text_is_cut(session: Sandbox) -> None:
    assert len(attack(session, "raise ValueError('x' * 10_000_000)").error or "") < 3000


def test_deep_recursion(session: Sandbox) -> None:
    execution = attack(session, "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()")
    assert execution.error_kind in (ErrorKind.DIED, ErrorKind.EXCEPTION, ErrorKind.MEMORY, ErrorKind.TIMEOUT)


def test_a_deeply_nested_value(session: Sandbox) -> None:
    attack(session, "x = []\nfor _ in range(100_000): x = [x]\nx")


def test_a_value_that_contains_itself(session: Sandbox) -> None:
    attack(session, "x = []\nx.append(x)\nx")


def test_giant_integers(session: Sandbox) -> None:
    assert isinstance(attack(session, "1 << 10_000_000").value, Opaque)


# ---------------------------------------------------------------------- loops and signals


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "10**10**8",
        "sum(range(10**12))",
        "'a' * 30 == __import__('re').match('(a+)+$', 'a' * 40 + 'b')",
        "while True:\n    try: raise ValueError\n    except BaseException: pass",
        "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "import time\ntime.sleep(60)",
        "import os\nos.read(os.pipe()[0], 1)",
        "import threading\nthreading.Event().wait()",
        "class A:\n    def __del__(self):\n        while True: pass\nA()\nNone",
    ],
)
def test_loops_are_stopped_in_time(session: Sandbox, code: str) -> None:
    execution = attack(session, code)
    assert execution.timed_out and execution.seconds < LIMITS.seconds + 0.5


# ---------------------------------------------------------------------- hostile objects


@pytest.mark.parametrize(
    "body", ["while True: pass", "raise SystemExit", "return 5", "import os; os._exit(1)"]
)
def test_a_hostile_repr(shared: Sandbox, body: str) -> None:
    attack(shared, f"class A:\n    def __repr__(self): {body}\nA()")


@pytest.mark.parametrize(
    "name", ["__eq__", "__hash__", "__iter__", "__len__", "__str__", "__class__", "__bool__"]
)
def test_hostile_methods_of_returned_objects(shared: Sandbox, name: str) -> None:
    code = f"""
    class A(dict):
        @property
        def __class__(self): raise SystemExit
    class B(list):
        def {name}(self, *a): raise SystemExit
    class C(int):
        def {name}(self, *a): raise SystemExit
    [B([1]), C(2), A(), {{'k': B()}}]
    """
    attack(shared, code)


def test_pickles_are_never_read_on_our_side(session: Sandbox) -> None:
    code = "class A:\n    def __reduce__(self): return (print, ('ESCAPED',))\nA()"
    assert isinstance(attack(session, code).value, Opaque)


def test_an_exception_whose_text_cannot_be_read(session: Sandbox) -> None:
    code = "class E(Exception):\n    def __str__(self): raise SystemExit\nraise E"
    assert attack(session, code).error_kind is ErrorKind.EXCEPTION


# ---------------------------------------------------------------------- the protocol


FORGE = """
import gc, json, os, socket, struct
own = next(o for o in gc.get_objects() if type(o).__name__ == 'Channel' and o.sock.fileno() >= 0)
def send(body, kind=1):
    own.sock.sendall(struct.pack('>IB', len(body), kind) + body)
"""


def test_a_forged_result_speaks_for_this_step_only(session: Sandbox) -> None:
    code = (
        FORGE
        + """
import sys
frame = sys._getframe()
while frame and 'message' not in frame.f_locals: frame = frame.f_back
for run in [frame.f_locals['message']['run'] if frame else '', *range(50)]:
    send(json.dumps({'op': 'result', 'run': run, 'logs': 'forged', 'cut': 0, 'value': 'forged',
                     'final': True, 'error': None, 'kind': None}).encode())
"""
    )
    [own] = session.run([code])
    assert own.value == "forged"  # about itself it can lie
    for number in range(3):
        [execution] = session.run([f"{number}"])
        assert execution.value == number and not execution.is_final


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'{"op": "hello"}', b'{"op": "died", "id": 1}', b"\xff\xfe",
        b"[" * 100_000,
        b'{"op": "call"}', b'{"op": "call", "id": 1, "name": [], "args": {}, "kwargs": 3}',
        b'{"op": "result", "run": 1e999}', b'{"op": "call", "id": NaN}',
        b'{"op": "' + b"x" * 3_000_000 + b'"}',
    ],
)  # fmt: skip
def test_nonsense_costs_the_step_only(session: Sandbox, body: bytes) -> None:
    session.run(["canary = 1"])
    code = (
        FORGE
        + f"send({body[:200]!r} + {body[200:201]!r} * {max(0, len(body) - 200)})\nimport time\ntime.sleep(.3)"
    )
    session.run([code])
    [after] = session.run(["canary"])
    assert after.value == 1


def test_a_frame_without_end_is_stopped(session: Sandbox) -> None:
    attack(
        session,
        FORGE
        + "own.sock.sendall(struct.pack('>IB', 0xffffffff, 1))\nwhile True: own.sock.sendall(bytes(65536))",
    )


def test_a_flood_of_messages_is_stopped(session: Sandbox) -> None:
    body = '{"op": "call", "id": 1, "name": "echo", "args": [], "kwargs": {}}'
    attack(session, FORGE + f"while True: send({body.encode()!r})")


def test_a_child_cannot_speak_for_its_parent(session: Sandbox) -> None:
    code = (
        FORGE
        + """
if os.fork() == 0:
    for run in range(50):
        send(json.dumps({'op': 'result', 'run': run, 'logs': 'ESCAPED', 'cut': 0, 'value': 'ESCAPED',
                         'final': True, 'error': None, 'kind': None}).encode())
    os._exit(0)
os.wait()
'parent'
"""
    )
    execution = attack(session, code)
    assert execution.value == "parent"


def test_closing_the_channel_is_death(session: Sandbox) -> None:
    assert attack(session, FORGE + "own.sock.close()\nwhile True: pass").error_kind is ErrorKind.DIED


def test_a_broken_fork_costs_the_state_but_not_the_session(session: Sandbox) -> None:
    session.run(["import os\nos.fork = lambda: 1\nos.waitpid = lambda *a: None\nx = 1"])
    [execution] = session.run(["os._exit(1)"])
    assert execution.error_kind is ErrorKind.DIED
    [after] = session.run(["1 + 1"])
    assert after.value == 2


@pytest.mark.parametrize(
    "call",
    [
        "echo(echo)",
        "echo(x=[[]] * 1000)",
        "echo('\\udc80')",
        "echo({1: {2: {3}}})",
        "echo(**{'x' * 10**6: 1})",
        "echo(10**3000)",
        "echo(b'\\0' * 1000)",
        "echo('__import__(\"os\").system(\"true\")')",
    ],
)  # fmt: skip
def test_tools_called_with_hostile_arguments(session: Sandbox, call: str) -> None:
    attack(session, f"str({call})[:50]")


def test_colliding_hashes_do_not_stop_us(session: Sandbox) -> None:
    attack(session, "m = 2**61 - 1\n{i * m for i in range(1500)}")


# ---------------------------------------------------------------------- siblings and other sessions


def test_a_losing_candidates_threads_and_children_are_gone(session: Sandbox) -> None:
    code = (
        "import os, time\nif os.fork() == 0:\n    time.sleep(.3)\n    open('../late', 'w')\n    os._exit(0)"
    )
    session.run([code, "1"])
    session.keep(1)
    time.sleep(0.5)
    [execution] = session.run(["import os\nos.path.exists('../late')"])
    assert execution.value is False


def test_another_session_is_not_harmed() -> None:
    first, second = (open_sandbox("bubblewrap", limits=LIMITS) for _ in range(2))
    try:
        second.run(["x = 'mine'"])
        first.run(["import os\nopen('note', 'w').write('x')\nos.kill(0, 9)"])
        first.run(["while True:\n    try: os.fork()\n    except OSError: pass"])
        [execution] = second.run(
            ["import os, threading\nthreading.Thread(target=print).start()\nx, os.path.exists('note')"]
        )
        assert execution.value == ("mine", False)
    finally:
        first.close()
        second.close()


def test_the_jail_dies_with_us() -> None:
    code = """
import sys, time
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.types import Limits
session = open_sandbox("bubblewrap", limits=Limits(seconds=60))
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
    until = time.monotonic() + 3
    while alive := [pid for pid in family if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, alive
        time.sleep(0.05)


def shoot(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def descendants(root: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, todo = [], [root]
    while todo:
        parent = todo.pop()
        children = [pid for pid, of in parents.items() if of == parent]
        found += children
        todo += children
    return found


# ---------------------------------------------------------------------- limits of a whole family, faults


def test_children_share_the_memory_limit(session: Sandbox) -> None:
    code = """
    import os, time
    for _ in range(12):
        if os.fork() == 0:
            x = bytearray(b'x') * (200 << 20)
            time.sleep(60)
    time.sleep(60)
    """
    execution = attack(session, code)
    assert execution.error_kind in (ErrorKind.MEMORY, ErrorKind.TIMEOUT)


def test_many_empty_files_are_stopped() -> None:
    many = open_sandbox("bubblewrap", limits=replace(LIMITS, seconds=10))
    try:
        execution = attack(many, "i = 0\nwhile True:\n    open(f'f{i}', 'w').close()\n    i += 1")
        assert execution.error_kind is ErrorKind.MEMORY
    finally:
        many.close()


def test_a_lost_supervisor_is_our_error_and_not_the_codes() -> None:
    for backend in ("bubblewrap", "process"):
        before = set(descendants(os.getpid()))
        session = open_sandbox(backend, limits=LIMITS)
        session.run(["x = 1"])
        for pid in sorted(set(descendants(os.getpid())) - before):
            shoot(pid)
        with pytest.raises(SandboxError):
            session.run(["1 + 1"])
        with pytest.raises(SandboxError):
            session.run(["1 + 1"])
        session.close()


def test_interpreters_killed_at_random_moments() -> None:
    """From outside, while steps run: each is data, and the session goes on."""
    before = set(descendants(os.getpid()))
    session = open_sandbox("bubblewrap", limits=LIMITS)
    chance = random.Random(1)
    try:
        family = sorted(set(descendants(os.getpid())) - before)
        spare = family[:4]  # bwrap, its init, the supervisor, the first interpreter
        session.run(["x = 0"])
        for number in range(25):
            others = [pid for pid in descendants(family[0]) if pid not in spare]
            victim = chance.choice(others)
            timer = threading.Timer(chance.random() / 50, shoot, (victim,))
            timer.start()
            [execution] = session.run(["sum(range(100_000))"])
            assert execution.value == sum(range(100_000)) or execution.error_kind is ErrorKind.DIED
            timer.join()
            assert session.run([f"{number}"])[0].error_kind in (None, ErrorKind.DIED)
    finally:
        session.close()


def test_a_tree_of_folders_too_deep_to_copy(session: Sandbox) -> None:
    code = """
    import os
    for _ in range(3000):
        os.mkdir('d'); os.chdir('d')
    """
    attack(session, code)
    [first, _] = session.run(["1", "2"])
    assert first.error is not None and "folder" in first.error


def test_a_full_folder_costs_older_states_and_says_so(session: Sandbox) -> None:
    code = "import os\nfor i in range(3):\n    with open(f'f{i}', 'wb') as f: f.write(os.urandom(7 << 20))"
    session.run(["x = 1"])
    session.run([code])
    session.run(["x = 2"])
    [execution] = session.run(["os._exit(1)"])
    [after] = session.run(["x"])
    assert after.value == 2 or "state was lost" in (execution.error or "")
