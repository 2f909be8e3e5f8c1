"""Where hostile programs fight: one backend, a host to be harmed, and another user's session beside it.

A `Program` has one property that it attacks. `Arena.play` runs it in a session with a 1 s limit and judges
from the host's side. It raises

    Escape     the host's secret came out, something of the host changed, or the property doesn't hold
    Hang       a step lasted longer than its limit and SLACK, or the session didn't answer afterwards
    Harmed     the bystander, another user's session in the same backend, lost its state or didn't answer
    Lost       the program's own session is gone, though nothing entitled it to be

Not guaranteed: that a program which holds its tongue has found nothing. Programs say `ESCAPED` themselves
when something worked that must not; what they may find lies about in `Host`, and is looked for in all they
say.
"""

from __future__ import annotations

import math
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sandboxes import open_backend, real_spec

from agentdistill.clients.sandbox import SandboxPool
from agentdistill.errors import SandboxError
from agentdistill.types import Execution, Limits, Sandbox, SandboxTool

LIMITS = Limits(seconds=1, memory_mb=512, folder_mb=8, processes=16, output_chars=2000)
SLACK = 2.5  # seconds; the machine is shared
SYMPY = ("sympy",)
_SECRETS = re.compile(r"SECRET-[0-9a-f]{16}")


class Escape(AssertionError):
    """Something got out, was seen or was changed; or the attacked property doesn't hold."""


class Hang(AssertionError):
    """Longer than the limit."""


class Harmed(AssertionError):
    """Another user's session."""


class Lost(AssertionError):
    """The attacker's own session."""


class Host:
    """What there is to steal and to break outside. The secrets are SECRET- and a random number."""

    def __init__(self) -> None:
        self.secret = f"SECRET-{secrets.token_hex(8)}"
        self._stack = ExitStack()
        os.environ["HOSTILE_CANARY"] = self.secret
        self._stack.callback(os.environ.pop, "HOSTILE_CANARY", None)
        self.folders = [self._furnish(Path(parent)) for parent in self._parents()]
        folder = self.folders[0]
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(3600)", self.secret], stdin=subprocess.DEVNULL
        )
        self._stack.callback(self._end_process)
        self.tcp = self._listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        self.stream = self._listen(socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "stream"))
        self.datagram = self._listen(socket.AF_UNIX, socket.SOCK_DGRAM, str(folder / "datagram"))
        self.abstract = self._listen(socket.AF_UNIX, socket.SOCK_DGRAM, f"\0hostile-{os.getpid()}")
        for name in ("stream", "datagram"):
            (folder / name).chmod(0o777)
        self._before = self._looks()

    def told(self) -> dict[str, object]:
        """What programs know, as the variable `host`: where the treasures are, not what they are."""
        return {
            "folders": [str(folder) for folder in self.folders],
            "folder": str(self.folders[0]),
            "secret": str(self.folders[0] / "secret.txt"),
            "open": str(self.folders[0] / "open.txt"),
            "drop": str(self.folders[0] / "drop"),
            "pid": self.process.pid,
            "client": os.getpid(),
            "port": self.tcp.getsockname()[1],
            "stream": self.stream.getsockname(),
            "datagram": self.datagram.getsockname(),
            "abstract": os.fsdecode(self.abstract.getsockname()),
            "checkout": str(Path(__file__).resolve()),
        }

    def check(self) -> None:
        """Escape if anything of the host has changed."""
        if self.process.poll() is not None:
            raise Escape("a process of the host was killed")
        state = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state != "S":
            raise Escape(f"a process of the host is in state {state}")
        for sock in (self.tcp, self.stream, self.datagram, self.abstract):
            try:
                if sock.type == socket.SOCK_DGRAM:
                    sock.recv(100)
                else:
                    sock.accept()[0].close()
            except BlockingIOError:
                continue
            raise Escape(f"something came in at {sock.getsockname()}")
        now = self._looks()
        if now != self._before:
            changed = {key for key in {*now, *self._before} if now.get(key) != self._before.get(key)}
            self._before = now
            raise Escape(f"changed on the host: {sorted(changed)}")

    def close(self) -> None:
        self._stack.close()

    def _parents(self) -> list[str]:
        wanted = [tempfile.gettempdir(), "/var/tmp", "/dev/shm", str(Path.home())]
        return [parent for parent in dict.fromkeys(wanted) if os.access(parent, os.W_OK | os.X_OK)]

    def _furnish(self, parent: Path) -> Path:
        """A folder with a secret to read, a file to write, a folder to drop things into. Permissions keep
        nobody out: what does must be the jail."""
        folder = Path(tempfile.mkdtemp(prefix="hostile-", dir=parent))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        (folder / "secret.txt").write_text(self.secret)
        (folder / self.secret).mkdir()
        (folder / "canary_module.py").write_text(f"print({self.secret!r})")
        (folder / "open.txt").write_text("untouched")
        (folder / "open.txt").chmod(0o666)
        (folder / "drop").mkdir()
        (folder / "drop").chmod(0o777)
        return folder

    def _end_process(self) -> None:
        self.process.kill()
        self.process.wait()

    def _listen(self, family: int, kind: int, address: object) -> socket.socket:
        sock = socket.socket(family, kind)
        self._stack.callback(sock.close)
        sock.bind(address)  # type: ignore[arg-type]
        if kind == socket.SOCK_STREAM:
            sock.listen()
        sock.setblocking(False)
        return sock

    def _looks(self) -> dict[str, object]:
        found: dict[str, object] = {
            "priority": os.getpriority(os.PRIO_PROCESS, self.process.pid),
            "scheduler": os.sched_getscheduler(self.process.pid),
            "cores": frozenset(os.sched_getaffinity(self.process.pid)),
            "limits": Path(f"/proc/{self.process.pid}/limits").read_text(),
        }
        for folder in self.folders:
            for path in (folder, *folder.rglob("*")):
                status = path.lstat()
                looks = (status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, status.st_nlink)
                found[str(path)] = (*looks, tuple(os.listxattr(path, follow_symlinks=False)))
        return found


class Attack:
    """One program at work in one session."""

    def __init__(self, session: Sandbox, host: Host, limits: Limits, called: list[object]) -> None:
        self.session = session
        self.host = host
        self.limits = limits
        self.called = called  # what the tool `echo` was called with
        self.steps = 0
        self.said: list[Execution] = []

    def run(self, *codes: str) -> list[Execution]:
        """One step, of several candidates if there are several codes; nothing may come out or hang."""
        started = time.monotonic()
        executions = self.session.run([textwrap.dedent(code) for code in codes])
        waves = math.ceil(len(codes) / self.limits.cores)
        self._in_time(started, waves * self.limits.seconds, "a step")
        for execution in executions:
            said = f"{execution.logs}\n{execution.value!r}"
            if "ESCAPED" in said:  # a traceback quotes the program's own lines
                raise Escape(said[-1500:])
            if _SECRETS.search(f"{said}\n{execution.error}"):
                raise Escape(f"a secret of the host came out: {said[-1500:]}\n{execution.error}")
        self.said += executions
        self.steps += len(codes) == 1
        return executions

    def one(self, code: str) -> Execution:
        return self.run(code)[0]

    def value(self, code: str) -> object:
        return self.one(code).value

    def keep(self, index: int) -> None:
        self.session.keep(index)
        self.steps += 1

    def alive(self, state_may_be_gone: bool) -> None:
        """The session answers in time, and its state is there unless the program may have cost it."""
        started = time.monotonic()
        [execution] = self.session.run(["canary"])
        if execution.value != "alive" and state_may_be_gone:
            [execution] = self.session.run(["'alive'"])
            for _ in range(2):  # its interpreter is turned, or its memory is full: going back must help
                if execution.value != "alive":
                    self._go_back(self.steps + 2)
                    [execution] = self.session.run(["'alive'"])
        self._in_time(started, 0, "the step after the attack")
        if execution.value != "alive":
            raise Lost(f"afterwards: {execution}")

    def _go_back(self, steps: int) -> None:
        for back in range(steps, 0, -1):
            with suppress(ValueError):  # not so many are held
                self.session.undo(back)
                return

    def _in_time(self, started: float, limit: float, what: str) -> None:
        taken = time.monotonic() - started
        if taken > limit + SLACK:
            raise Hang(f"{what} took {taken:.1f} s")


Check = Callable[[Attack], None]


@dataclass(frozen=True)
class Program:
    """`play` attacks and asserts what is particular to it; what holds for all is looked at by the arena."""

    name: str
    play: Check
    limits: Limits = LIMITS
    shared: bool = False  # refused at once: may share a session with others, a start costs more than it does
    may_lose_state: bool = False  # it harms its own session; that must go on, but not as it was
    preload: tuple[str, ...] = ()


class Arena:
    """`spec` as --sandbox takes it. The bystander is asked after every program."""

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.host = Host()
        self.last: Attack | None = None
        self._called: list[object] = []
        self._bystander: Sandbox | None = None
        self._bystanders_folder: object = None
        self._shared: Sandbox | None = None
        self._pool = SandboxPool(
            real_spec(spec), limits=LIMITS
        )  # jails start while programs wait to be stopped

    def play(self, program: Program) -> None:
        self._meet_bystander()
        session = self._session(program)
        attack = self.last = Attack(session, self.host, program.limits, self._called)
        self._called.clear()
        try:
            session.run(["canary = 'alive'"])
            try:
                program.play(attack)
            except (Escape, Hang):
                raise
            except AssertionError as problem:
                raise Escape(f"the property doesn't hold: {problem}") from problem
            attack.alive(program.may_lose_state)
        except SandboxError as problem:
            self._drop(session)
            self.host.check()
            raise Lost(str(problem)) from problem
        except BaseException:
            self._drop(session)
            raise
        finally:
            if not program.shared:
                self._drop(session)
            self._ask_bystander()
        self.host.check()

    def close(self) -> None:
        for session in (self._shared, self._bystander):
            if session is not None:
                session.close()
        self._pool.close()
        self.host.close()

    def _session(self, program: Program) -> Sandbox:
        if program.shared and self._shared is not None:
            return self._shared
        echo = SandboxTool("echo", self._echo, ("x",))
        if program.limits is LIMITS and not program.preload:
            session: Sandbox = self._pool.open([echo])
        else:
            session = open_backend(self.spec, tools=[echo], limits=program.limits, preload=program.preload)
        session.put("host", {**self.host.told(), "bystander": self._bystanders_folder})
        if program.shared:
            self._shared = session
        return session

    def _echo(self, x: object) -> object:
        self._called.append(x)
        return x

    def _drop(self, session: Sandbox) -> None:
        session.close()
        if session is self._shared:
            self._shared = None

    def _meet_bystander(self) -> None:
        if self._bystander is None:
            session = open_backend(self.spec, limits=replace(LIMITS, seconds=5))
            secret = self.host.secret  # also a treasure: of another user
            code = (
                f"mine = {secret!r}\nwith open('mine', 'w') as file: file.write(mine)\nimport os\nos.getcwd()"
            )
            [execution] = session.run([code])
            self._bystander, self._bystanders_folder = session, execution.value

    def _ask_bystander(self) -> None:
        assert self._bystander is not None
        started = time.monotonic()
        try:
            [execution] = self._bystander.run(["(mine, open('mine').read(), sum(range(1000)))"])
            if execution.value != (self.host.secret, self.host.secret, 499500):
                raise Harmed(f"the other session answers {execution}")
        except (Harmed, SandboxError) as problem:
            self._bystander.close()
            self._bystander = None
            raise Harmed(str(problem)) from problem
        if time.monotonic() - started > SLACK:
            raise Harmed(f"the other session took {time.monotonic() - started:.1f} s to answer")


# ---------------------------------------------------------------------- the short way to write programs


def held(code: str, name: str = "", **settings: object) -> Program:
    """Whatever it does, nothing happens: what every program is judged by is all there is to see."""
    return _program(name, code, lambda attack, execution: None, settings)


def refused(code: str, name: str = "", **settings: object) -> Program:
    """It must run into an error, or print one with `refused`, and not be stopped by its deadline."""

    def check(attack: Attack, execution: Execution) -> None:
        assert "refused" in execution.logs or execution.error, execution
        assert not execution.timed_out, execution

    return _program(name, code, check, settings)


def stopped(code: str, name: str = "", **settings: object) -> Program:
    """It never ends, and is stopped in time."""

    def check(attack: Attack, execution: Execution) -> None:
        assert execution.timed_out, execution
        assert execution.seconds < attack.limits.seconds + SLACK, execution.seconds

    return _program(name, code, check, settings)


def ends(code: str, *kinds: str | None, name: str = "", **settings: object) -> Program:
    """The step ends with one of these kinds of error (None: with none)."""

    def check(attack: Attack, execution: Execution) -> None:
        assert execution.error_kind in kinds, execution

    return _program(name, code, check, settings)


def gives(code: str, value: object, name: str = "", **settings: object) -> Program:
    def check(attack: Attack, execution: Execution) -> None:
        assert execution.value == value, execution

    return _program(name, code, check, settings)


def _program(
    name: str, code: str, check: Callable[[Attack, Execution], None], settings: dict[str, object]
) -> Program:
    code = textwrap.dedent(code).strip()

    def play(attack: Attack) -> None:
        check(attack, attack.one(code))

    return Program(name or code.replace("\n", "; ")[:70], play, **settings)  # type: ignore[arg-type]


def played(name: str, **settings: object) -> Callable[[Check], Program]:
    """For programs of several steps: a function that plays them and asserts."""

    def make(play: Check) -> Program:
        return Program(name, play, **settings)  # type: ignore[arg-type]

    return make
