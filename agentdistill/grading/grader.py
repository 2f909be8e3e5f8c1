"""The Grader: one verdict for each trajectory, whatever its answer is.

Guaranteed: `score` comes back within the time limit and a few seconds, even for answers like 10**10**8,
which no signal interrupts: comparisons that need computer algebra run in worker processes, and a worker that
overruns is killed and replaced. That, a worker that dies on an answer, and an answer nobody can parse are
verdicts (wrong), not errors. GradingError means that no worker can be started at all. Safe to call from
several threads.
"""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from agentdistill.errors import GradingError, UsageError
from agentdistill.grading.math import grade_plainly
from agentdistill.grading.qa import Verdict, grade_choice, grade_qa
from agentdistill.types import Json, Score, Task, TaskKind, Trajectory

_MAX_CHARS = 10_000
_START_SECONDS = 120.0  # importing sympy on a cold, busy machine
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG", "LC_ALL", "TMPDIR")


class Grader:
    """Grades `math`, `qa` and `choice` tasks; processes are only started when an answer needs one."""

    def __init__(self, seconds: float = 5.0, workers: int = 1) -> None:
        if seconds <= 0 or workers < 1:
            raise UsageError("a grader needs a time limit above zero and at least one worker")
        self._seconds = seconds
        self._workers = workers
        # Slots, not processes: None stands for one that has not been started.
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._slots.put(None)

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. The grader can be used again; it starts new ones."""
        for _ in range(self._workers):
            worker = self._slots.get()
            if worker is not None:
                worker.kill()
        for _ in range(self._workers):
            self._slots.put(None)

    def score(self, trajectory: Trajectory) -> Score:
        return Score(trajectory.id, *self.grade(trajectory.answer, trajectory.task))

    def score_many(
        self, trajectories: Iterable[Trajectory], progress: Callable[[Score], None] | None = None
    ) -> Iterator[Score]:
        """Scores in the order of the trajectories, read no further ahead than the workers need."""
        with ThreadPoolExecutor(self._workers) as pool:
            pending: deque[Future[Score]] = deque()
            try:
                for trajectory in trajectories:
                    pending.append(pool.submit(self.score, trajectory))
                    if len(pending) >= 4 * self._workers:
                        yield _report(pending.popleft().result(), progress)
                while pending:
                    yield _report(pending.popleft().result(), progress)
            finally:
                for future in pending:
                    future.cancel()

    def grade(self, answer: str | None, task: Task) -> Verdict:
        """(correct, method, detail) of an answer to a task."""
        if answer is not None and len(answer) > _MAX_CHARS:
            return False, "too_long", f"an answer of {len(answer):,} characters"
        match task.kind:
            case TaskKind.MATH:
                return grade_plainly(answer, task.answer) or self._compare(answer or "", task.answer)
            case TaskKind.QA:
                return grade_qa(answer, task.answer, _aliases(task))
            case TaskKind.CHOICE:
                return grade_choice(answer, task.answer)
        raise UsageError(
            f"task {task.id!r} is of kind {task.kind.value!r}, which cannot be graded yet",
            "leave such tasks out, or grade them with a grader of your own",
        )

    def _compare(self, answer: str, gold: str) -> Verdict:
        worker = self._slots.get()
        try:
            if worker is None:
                worker = _Worker()
            verdict = worker.compare(answer, gold, self._seconds)
            if not worker.alive:
                worker = None
            return verdict
        except BaseException:  # Ctrl-C too: what the worker says next would be about this answer
            if worker is not None:
                worker.kill()
            worker = None
            raise
        finally:
            self._slots.put(worker)


def grade_math(answer: str | None, gold: str, *, seconds: float = 5.0) -> Verdict:
    """(correct, method, detail) of one answer. For many, keep a Grader: its workers stay up."""
    with Grader(seconds) as grader:
        return grader.grade(answer, Task(id="", question="", answer=gold))


class _Worker:
    """A `_worker.py` process. Raises GradingError if it does not come up."""

    def __init__(self) -> None:
        self.alive = True
        self._unread = b""
        try:
            # -P: no file of the current folder is imported; -B: no byte code is written.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-B", "-m", "agentdistill.grading._worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={key: os.environ[key] for key in _KEPT if key in os.environ},
                bufsize=0,
            )
        except OSError as error:
            raise GradingError(f"cannot start a grading process: {error.strerror or error}") from error
        try:
            ready = self._reply(_START_SECONDS)
        except BaseException:
            self.kill()
            raise
        if ready is None:
            code = self.kill()
            raise GradingError(
                f"the grading process did not start (exit code {code})",
                f"run `{sys.executable} -m agentdistill.grading._worker` to see why",
            )

    def compare(self, answer: str, gold: str, seconds: float) -> Verdict:
        job = json.dumps({"answer": answer, "gold": gold, "seconds": seconds}).encode() + b"\n"
        started = time.monotonic()
        try:
            assert self._process.stdin is not None  # noqa: S101  it is a pipe
            self._process.stdin.write(job)
            reply = self._reply(seconds)
        except BrokenPipeError:
            reply = None
        if reply is not None:
            return reply["correct"], reply["method"], reply["detail"]
        self.kill()
        if time.monotonic() - started >= seconds:
            return False, "timeout", f"comparing took longer than {seconds:g} s"
        return False, "died", "comparing ended the grading process"

    def kill(self) -> int:
        self.alive = False
        self._process.kill()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        return code

    def _reply(self, seconds: float) -> dict[str, Json] | None:
        """The next line, or None when time is up or the process is gone."""
        deadline = time.monotonic() + seconds
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
                return None
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        reply: dict[str, Json] = json.loads(line)
        return reply


def _report(score: Score, progress: Callable[[Score], None] | None) -> Score:
    if progress is not None:
        progress(score)
    return score


def _aliases(task: Task) -> list[str]:
    aliases = task.meta.get("aliases", ())
    return (
        [alias for alias in aliases if isinstance(alias, str)] if isinstance(aliases, (list, tuple)) else []
    )
