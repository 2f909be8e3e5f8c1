"""Start jails on this machine: our half of `sandbox/launch.py`, one launcher for this process.

Guaranteed: a jail ends when its stream is closed or when this process ends, whichever comes first, and its
folder is removed; a launcher that has died is replaced by the next start. A fork of this process gets a
launcher of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict

from agentdistill.errors import SandboxError
from agentdistill.services import service_folder
from agentdistill.types import Limits

END_SECONDS = 5.0
MAX_WORDS = 4_000


class _Launcher:
    """The process that forks the jails, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def send(self, request: bytes, fds: Sequence[int] = ()) -> None:
        """OSError if no launcher can be started. A dead one is replaced, once."""
        with self._lock:
            if self._control is not None and self._owner == os.getpid():
                with contextlib.suppress(OSError):
                    socket.send_fds(self._control, [request], fds)
                    return
            socket.send_fds(self._start(), [request], fds)

    def close(self) -> None:
        """End the launcher, and what sessions nobody has closed; a fork's copy is not its to end."""
        with self._lock:
            if self._control is not None:
                self._control.close()
            if self._process is not None and self._owner == os.getpid():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_SECONDS)
            self._control = self._process = None

    def _start(self) -> socket.socket:
        if self._control is not None:
            self._control.close()
        if self._process is not None and self._owner == os.getpid():
            self._process.poll()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = service_folder("sandbox") / "launch.py"
        with theirs:
            self._process = subprocess.Popen([sys.executable, "-I", str(program)], stdin=theirs.fileno())
        self._control, self._owner = ours, os.getpid()
        return ours


_launcher = _Launcher()
atexit.register(_launcher.close)
_numbers = itertools.count(1)


class JailStream:
    """The stream of a new local jail. The end of its stderr is the end of the last process in it.

    SandboxError if there is no launcher. A jail's own troubles come later: its stream ends, `close` says why.
    """

    def __init__(self, jail: str, limits: Limits, preload: Sequence[str], **extras: str) -> None:
        self._number = next(_numbers)
        self._words: str | None = None
        request = {"op": "start", "id": self._number, "jail": jail, "limits": asdict(limits)}
        data = json.dumps({**request, "preload": list(preload), **extras}).encode()
        self._socket, theirs = socket.socketpair()
        self._poll = select.poll()  # select() can't watch descriptors over 1023
        self._poll.register(self._socket, select.POLLIN)
        self._stderr, stderr = os.pipe()
        try:
            _launcher.send(data, [theirs.fileno(), stderr])
        except OSError as error:
            self._socket.close()
            os.close(self._stderr)
            raise SandboxError(f"the launcher of jails cannot be started: {error}") from error
        finally:
            theirs.close()
            os.close(stderr)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, seconds: float) -> bytes | None:
        if self._words is not None:
            return b""
        if not self._poll.poll(seconds * 1000):
            return None
        return self._socket.recv(1 << 18)

    def close(self) -> str:
        if self._words is None:
            self._words = ""
            self._socket.close()
            self._words = self._end()
            os.close(self._stderr)
        return self._words

    def _end(self) -> str:
        """Read stderr to its end; kill the jail if that doesn't come. Returns the last line."""
        data, killed = b"", False
        poll = select.poll()
        poll.register(self._stderr, select.POLLIN)
        until = time.monotonic() + END_SECONDS
        while True:
            left = until - time.monotonic()
            if left <= 0:
                if killed:
                    break
                killed, until = True, time.monotonic() + END_SECONDS
                with contextlib.suppress(OSError):
                    _launcher.send(json.dumps({"op": "kill", "id": self._number}).encode())
                continue
            if poll.poll(left * 1000):
                piece = os.read(self._stderr, MAX_WORDS)
                if not piece:
                    break
                data = (data + piece)[-MAX_WORDS:]
        lines = data.decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:500] if lines else ""
