"""The Grader: one verdict for each answer, whatever it is.

Guaranteed: `grade` comes back within the time limit and a few seconds, even for answers like 10**10**8, which
no signal interrupts: comparisons that need computer algebra run in processes that are killed when they
overrun (`comparer.py`). That, a comparison that dies on an answer, and an answer nobody can parse are
verdicts (wrong), not errors. A program is judged by the task's tests in a sandbox session of its own
(`code.py`). GradingError means that no process can be started at all. Safe to call from several threads.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from agentdistill.errors import UsageError
from agentdistill.grading.code import grade_code
from agentdistill.grading.comparer import Comparer
from agentdistill.grading.math import grade_plainly
from agentdistill.grading.qa import Verdict, aliases, grade_choice, grade_qa
from agentdistill.types import Sandbox, Score, Task, TaskKind, Trajectory

_MAX_CHARS = 10_000
_MAX_PROGRAM_CHARS = 200_000


class AnswerGrader(Protocol):
    """Anything that judges answers. Safe to call from several threads."""

    def grade(self, answer: str | None, task: Task) -> Verdict:
        """(correct, method, detail) of an answer to a task; None is no answer."""
        ...


class Grader:
    """Grades tasks by their kind; processes are only started when an answer needs one.

    `open_session` opens the fresh sandbox session that a program is tested in; without it `code` tasks are
    refused with a UsageError.
    """

    def __init__(
        self, seconds: float = 5.0, workers: int = 1, *, open_session: Callable[[], Sandbox] | None = None
    ) -> None:
        if seconds <= 0 or workers < 1:
            raise UsageError("a grader needs a time limit above zero and at least one worker")
        self._seconds = seconds
        self._workers = workers
        self._open_session = open_session
        # Slots, not processes: None stands for one that has not been started.
        self._slots: queue.LifoQueue[Comparer | None] = queue.LifoQueue()
        for _ in range(workers):
            self._slots.put(None)

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes. The grader can be used again; it starts new ones."""
        for _ in range(self._workers):
            comparer = self._slots.get()
            if comparer is not None:
                comparer.kill()
        for _ in range(self._workers):
            self._slots.put(None)

    def score(self, trajectory: Trajectory) -> Score:
        return Score(trajectory.id, *self.grade(trajectory.answer, trajectory.task))

    def grade(self, answer: str | None, task: Task) -> Verdict:
        """(correct, method, detail) of an answer to a task."""
        longest = _MAX_PROGRAM_CHARS if task.kind is TaskKind.CODE else _MAX_CHARS
        if answer is not None and len(answer) > longest:
            return False, "too_long", f"an answer of {len(answer):,} characters"
        match task.kind:
            case TaskKind.MATH:
                return grade_plainly(answer, task.answer) or self._compare(answer or "", task.answer)
            case TaskKind.QA:
                return grade_qa(answer, task.answer, aliases(task))
            case TaskKind.CHOICE:
                return grade_choice(answer, task.answer)
            case TaskKind.CODE:
                if self._open_session is None:
                    raise UsageError(
                        f"task {task.id!r} is of kind 'code', whose tests need a sandbox",
                        "give the grader one (`Grader(open_session=...)`)",
                    )
                return grade_code(answer, task, self._open_session)

    def _compare(self, answer: str, gold: str) -> Verdict:
        comparer = self._slots.get()
        try:
            if comparer is None:
                comparer = Comparer()
            verdict = comparer.compare(answer, gold, self._seconds)
            if not comparer.alive:
                comparer = None
            return verdict
        except BaseException:  # Ctrl-C too: what the process says next would be about this answer
            if comparer is not None and comparer.alive:
                comparer.kill()
            comparer = None
            raise
        finally:
            self._slots.put(comparer)


def grade_math(answer: str | None, gold: str, *, seconds: float = 5.0) -> Verdict:
    """(correct, method, detail) of one answer. For many, keep a Grader: its processes stay up."""
    with Grader(seconds) as grader:
        return grader.grade(answer, Task(id="", question="", answer=gold))
