"""Jails for the gateway: started through launch.py, some of them ahead of time, each ended for certain.

Guaranteed: a jail that `start` returns has said hello; `end` returns when the jail is gone and its folder
is being removed, or raises nothing and has it killed; when this process dies, however it dies, launch.py
hears of it and ends every jail. Folders that a killed launch.py left behind are removed at the next start.
Not guaranteed: that a jail taken from the pool lives on; it is looked at when it is taken, not later.
"""

import asyncio
import collections
import contextlib
import dataclasses
import fcntl
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
START_SECONDS = 30.0
END_SECONDS = 5.0
CHUNK = 1 << 16
MAX_WORDS = 4_000
FOLDERS = "agentdistill-gateway-"
PROTOCOL = 1
MAX_PRELOAD = 16
MODULE = re.compile(r"[A-Za-z_]\w{0,60}(\.[A-Za-z_]\w{0,60}){0,5}\Z", re.ASCII)
MAX_OPENING = 1 << 14


class JailError(Exception):
    """A jail cannot be started; the text is one line, mostly the jail's own."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a client may choose for its jail. Equal ones can be started ahead of time."""

    limits: tuple = ()  # pairs of name and number
    preload: tuple = ()


class Refused(Exception):
    """The opening message asks for what the gateway doesn't give."""

    def __init__(self, message, remedy):
        super().__init__(message)
        self.remedy = remedy


def read_opening(text, maxima):
    """A session's opening message as Asked. Refused if it asks for what the gateway doesn't give."""
    if text is None or len(text) > MAX_OPENING:
        raise Refused("the first message must be a short JSON text", "use a client of this version")
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise Refused("the first message is no JSON object", "use a client of this version")
    if asked.get("protocol") != PROTOCOL:
        theirs = repr(asked.get("protocol"))[:20]
        raise Refused(
            f"the gateway speaks protocol {PROTOCOL}, the client {theirs}",
            "install the same version of agentdistill on both sides",
        )
    limits, preload = asked.get("limits"), asked.get("preload", [])
    if not isinstance(limits, dict) or set(limits) != set(maxima):
        raise Refused("limits: exactly these are wanted: " + ", ".join(maxima), "")
    for name, value in limits.items():
        if type(value) not in (int, float) or (name != "seconds" and type(value) is not int):
            raise Refused(f"limits: {name} is no number", "")
        if not 0 < value <= maxima[name]:
            raise Refused(
                f"limits: {name} is {value}, the gateway allows at most {maxima[name]}",
                "ask for less, or raise the gateway's maximum (gateway.py --help)",
            )
    if not isinstance(preload, list) or len(preload) > MAX_PRELOAD:
        raise Refused(f"preload: a list of at most {MAX_PRELOAD} modules is wanted", "")
    for name in preload:
        if not isinstance(name, str) or not MODULE.match(name):
            raise Refused("preload: not the name of a module", "")
    return Asked(tuple(sorted(limits.items())), tuple(preload))


class Jail:
    def __init__(self, number, stream, words):
        self.number = number
        self.stream = stream
        self.words = words  # what comes out of its stderr; ends when the jail has
        self.hello = b""

    def alive(self):
        """Whether its end of the stream is open. Not by reading: what it said before may be waiting there."""
        poll = select.poll()
        poll.register(self.stream, select.POLLRDHUP)
        return not poll.poll(0)


class Jails:
    """Starts and ends jails of one kind. `close` ends them all."""

    def __init__(self, kind, extras):
        self.kind = kind
        self.extras = extras
        self.launcher = None
        self.control = None
        self.last = 0
        # Python starts on the processor: more at a time would make every one of them late.
        self.starting = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        self.folder, self.lock = own_folder()

    async def start(self, asked):
        async with self.starting:
            loop = asyncio.get_running_loop()
            self.last += 1
            stream, theirs = socket.socketpair()
            words, their_words = socket.socketpair()
            for sock in (stream, words):
                sock.setblocking(False)
            jail = Jail(self.last, stream, words)
            request = {"op": "start", "id": jail.number, "jail": self.kind, "limits": dict(asked.limits)}
            request.update(self.extras, preload=list(asked.preload))
            try:
                with theirs, their_words:
                    await self.tell(request, [theirs.fileno(), their_words.fileno()])
                async with asyncio.timeout(START_SECONDS):
                    jail.hello = await loop.sock_recv(stream, CHUNK)
            except TimeoutError:
                raise JailError(f"no word from it in {START_SECONDS:g} s. {await self.end(jail)}") from None
            except ConnectionError:
                pass  # as if it had ended: it says why below
            except BaseException:
                stream.close()
                words.close()
                raise
            if not jail.hello:
                raise JailError(await self.end(jail) or "it ended at once")
            return jail

    async def end(self, jail):
        """End a jail; returns the last line of its stderr."""
        jail.stream.close()
        said = bytearray()
        with contextlib.closing(jail.words):
            if not await until_the_end(jail.words, said):
                await self.tell({"op": "kill", "id": jail.number}, [])
                if not await until_the_end(jail.words, said):
                    log(f"jail {jail.number} does not end after SIGKILL")
        lines = bytes(said).decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else ""

    async def tell(self, request, fds):
        """Hand a request to launch.py; a new one is started if the last has died."""
        packet = json.dumps(request).encode()
        while True:
            if self.launcher is None or self.launcher.poll() is not None:
                self.launch()
            try:
                socket.send_fds(self.control, [packet], fds)
                return
            except BlockingIOError:
                await asyncio.sleep(0.005)
            except ConnectionError:
                self.launcher.kill()
                self.launcher.wait()

    def launch(self):
        if self.control is not None:
            self.control.close()
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setblocking(False)
        command = [sys.executable, "-I", os.path.join(HERE, "launch.py")]
        with theirs:
            self.launcher = subprocess.Popen(
                command, stdin=theirs.fileno(), env={**os.environ, "TMPDIR": self.folder}
            )

    async def close(self):
        if self.launcher is not None:
            self.control.close()  # launch.py ends every jail, then itself
            try:
                await asyncio.to_thread(self.launcher.wait, END_SECONDS)
            except subprocess.TimeoutExpired:
                self.launcher.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self.lock)


async def until_the_end(sock, said):
    """Read into `said` until the other end is closed; False if that takes too long."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(END_SECONDS):
            while data := await loop.sock_recv(sock, CHUNK):
                said += data
                del said[:-MAX_WORDS]
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


class Pool:
    """Jails started ahead: for the usual limits, or for those that were asked for twice in a row."""

    def __init__(self, jails, size, usual):
        self.jails = jails
        self.size = size
        self.usual = self.previous = usual
        self.ready = collections.deque()
        self.filling = None
        self.ending = set()

    async def take(self, asked):
        if asked == self.previous and asked != self.usual:
            self.usual = asked
            while self.ready:
                self.drop(self.ready.popleft())
        self.previous = asked
        found = None
        while asked == self.usual and self.ready and found is None:
            jail = self.ready.popleft()
            if jail.alive():
                found = jail
            else:
                self.drop(jail)
        self.fill()
        return found or await self.jails.start(asked)

    def fill(self):
        if self.size and (self.filling is None or self.filling.done()):
            self.filling = asyncio.create_task(self.refill())

    async def refill(self):
        while len(self.ready) < self.size:
            asked = self.usual
            try:
                jail = await self.jails.start(asked)
            except JailError as problem:
                log(f"a jail could not be started ahead: {problem}")
                return  # the next lease tries again
            if asked == self.usual:
                self.ready.append(jail)
            else:
                self.drop(jail)

    def drop(self, jail):
        task = asyncio.create_task(self.jails.end(jail))
        self.ending.add(task)
        task.add_done_callback(self.ending.discard)

    async def close(self):
        if self.filling is not None:
            self.filling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.filling
        while self.ready:
            self.drop(self.ready.popleft())
        await asyncio.gather(*self.ending)


def own_folder():
    """A folder for the folders of our sessions and the lock that says it is in use; old ones are removed."""
    parent = tempfile.gettempdir()
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        if name.startswith(FOLDERS) and os.path.isdir(path) and os.lstat(path).st_uid == os.geteuid():
            with contextlib.suppress(OSError):
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lock)
    folder = tempfile.mkdtemp(prefix=FOLDERS)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.chmod(folder, 0o711)  # noqa: S103  sessions have user ids of their own and must get through
    return folder, lock


def log(line):
    print(line, file=sys.stderr, flush=True)  # noqa: T201
