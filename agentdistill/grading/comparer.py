"""Comparisons that need computer algebra, each in a process that can be killed.

A `Comparer` is one `_worker.py` process and the fork of it that compares. Guaranteed: `compare` comes back
within its seconds, whatever the answer does; what overruns is killed, and the next fork is there in
milliseconds. A fork that dies on an answer is a verdict. Not guaranteed: anything about two threads that
use one Comparer.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

from agentdistill.errors import GradingError
from agentdistill.grading.qa import Verdict
from agentdistill.types import Json

_START_SECONDS = 120.0  # importing sympy on a cold, busy machine
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR")


class Comparer:
    """Raises GradingError if its process does not come up, or cannot go on."""

    def __init__(self) -> None:
        self.alive = True
        self._unread = b""
        self._job = 0
        try:
            # -P: no file of the current folder is imported; -B: no byte code is written. A group of its own:
            # the process and its fork are killed together, and a Ctrl-C is for us to deal with.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-B", "-m", "agentdistill.grading._worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={key: os.environ[key] for key in _KEPT if key in os.environ},
                bufsize=0,
                process_group=0,
            )
        except OSError as error:
            raise GradingError(f"cannot start a grading process: {error.strerror or error}") from error
        try:
            self._fork = self._wait_for_fork()
        except BaseException:
            self.kill()
            raise

    def compare(self, answer: str, gold: str, seconds: float) -> Verdict:
        """(correct, method, detail) of an answer, as mathematics."""
        self._job += 1
        job = {"job": self._job, "answer": answer, "gold": gold, "seconds": seconds}
        deadline = time.monotonic() + seconds
        try:
            assert self._process.stdin is not None  # noqa: S101  it is a pipe
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            reply = self._reply(deadline)
            # A fork killed before it had read its job leaves it to the next one: not our verdict.
            while reply and "job" in reply and reply["job"] != self._job:
                reply = self._reply(deadline)
        except BrokenPipeError:
            reply = {}
        if reply is None:
            # The fork is ours still: its end would have been a reply.
            with suppress(ProcessLookupError):
                os.kill(self._fork, signal.SIGKILL)
            self._fork = self._wait_for_fork()
            return False, "timeout", f"comparing took longer than {seconds:g} s"
        if "job" in reply:
            return reply["correct"], reply["method"], reply["detail"]
        if "ready" in reply:
            self._fork = int(reply["ready"])
        else:
            self.kill()
        return False, "died", "comparing ended the grading process"

    def kill(self) -> int:
        """End the process and its fork; the exit code of the process."""
        self.alive = False
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _wait_for_fork(self) -> int:
        """The pid of the fork that compares next. What an earlier one has said since is passed over."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            reply = self._reply(deadline)
            if not reply:
                code = self.kill()
                raise GradingError(
                    f"the grading process did not start (exit code {code})",
                    f"run `{sys.executable} -m agentdistill.grading._worker` to see why",
                )
            if "ready" in reply:
                return int(reply["ready"])

    def _reply(self, deadline: float) -> dict[str, Json] | None:
        """The next line; {} when the process is gone, None when time (of time.monotonic) is up."""
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        descriptor = self._process.stdout.fileno()
        poll = select.poll()  # unlike select(), it takes descriptors above 1023
        poll.register(descriptor, select.POLLIN)
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return None
            chunk = os.read(descriptor, 65536)
            if not chunk:
                return {}
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        reply: dict[str, Json] = json.loads(line)
        return reply
