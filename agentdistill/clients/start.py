"""Start `sandbox/launch.py` with a stream to it. Shared by the backends that run on this machine.

Guaranteed: the process is started from one thread that lives as long as ours does, because the kernel's
"die with the parent" means the parent *thread*; the jail dies when we do, by that signal or by the end of
its stream, whichever comes first.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import IO

from agentdistill.clients.session import Session
from agentdistill.errors import SandboxError
from agentdistill.services import service_folder
from agentdistill.types import Limits, SandboxTool

END_SECONDS = 5.0
_Job = tuple[Future[subprocess.Popen[bytes]], Sequence[str], socket.socket]


class _Launcher:
    """A thread that starts processes and never ends. A fork of us has no threads: it makes its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner = 0
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()

    def start(self, command: Sequence[str], stream: socket.socket) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._owner != os.getpid():
                self._owner = os.getpid()
                self._jobs = queue.SimpleQueue()
                threading.Thread(target=self._work, args=(self._jobs,), name="jails", daemon=True).start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((future, command, stream))
        return future.result()

    @staticmethod
    def _work(jobs: queue.SimpleQueue[_Job]) -> None:
        while True:
            future, command, stream = jobs.get()
            try:
                process = subprocess.Popen(
                    command, stdin=stream.fileno(), stdout=stream.fileno(), stderr=subprocess.PIPE
                )
                future.set_result(process)
            except BaseException as error:
                future.set_exception(error)


_launcher = _Launcher()


def start(
    jail: str,
    tools: Sequence[SandboxTool],
    limits: Limits,
    arguments: Sequence[str] = (),
    cleanup: Callable[[], None] = lambda: None,
) -> Session:
    """A session in a new jail. SandboxError, with the jail's own words, if it does not start."""
    program = service_folder("sandbox") / "launch.py"
    command = [sys.executable, "-I", str(program), "--jail", jail, "--limits", json.dumps(asdict(limits))]
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = _launcher.start([*command, *arguments], theirs)
    except OSError as error:
        ours.close()
        cleanup()
        raise SandboxError(f"the jail cannot be started: {error}") from error

    def end() -> str:
        words = _finish(process)
        cleanup()
        return words

    return Session(ours, tools, limits, end)


def _finish(process: subprocess.Popen[bytes]) -> str:
    """Wait for a jail whose stream is closed; kill it if it does not end. Returns its last words."""
    with process.stderr or io.BytesIO() as stderr:
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return _words(stderr)


def _words(stderr: IO[bytes]) -> str:
    os.set_blocking(stderr.fileno(), False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        data = os.read(stderr.fileno(), 4000)
    lines = data.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:500] if lines else ""
