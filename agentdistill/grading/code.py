"""Programs, judged by running the task's tests in a sandbox session of their own.

A `code` task has `meta["tests"]`, a list of Python statements (or one text); its `answer` is a program that
passes them. The answer of an attempt is the program's text, fenced as Markdown or not. Guaranteed: no program
meets what another has left behind; one that raises, fails a test, never ends, outgrows its memory or kills
its interpreter is a verdict. A broken sandbox raises SandboxError. Not guaranteed: that a program does not
cheat. It runs in the same interpreter as its tests, and one that redefines what they use can pass them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from agentdistill.errors import UsageError
from agentdistill.grading.qa import Verdict
from agentdistill.types import ErrorKind, Execution, Sandbox, Task

_FENCED = re.compile(r"(?s)^\s*```[\w+-]*[ \t]*\n(.*?)\n?```\s*$")


def grade_code(answer: str | None, task: Task, open_session: Callable[[], Sandbox]) -> Verdict:
    """The verdict on a program. `method` is "tests", or "error" or "timeout" for one that got no further."""
    tests = _tests(task)
    if answer is None or not answer.strip():
        return False, "none", "no answer"
    fenced = _FENCED.match(answer)
    session = open_session()
    try:
        if failed := _failure(session, fenced[1] if fenced else answer):
            return False, failed[0], f"the program: {failed[1]}"
        for number, test in enumerate(tests, 1):
            if failed := _failure(session, test):
                wrong = failed[1].startswith("AssertionError")
                method = "tests" if wrong else failed[0]
                return False, method, f"test {number} of {len(tests)}: {failed[1]}"
    finally:
        session.close()
    return True, "tests", f"{len(tests)} passed"


def _tests(task: Task) -> list[str]:
    tests = task.meta.get("tests")
    tests = [tests] if isinstance(tests, str) else tests
    if not isinstance(tests, (list, tuple)) or not tests or not all(isinstance(test, str) for test in tests):
        raise UsageError(
            f"task {task.id!r} has no tests to run", 'a code task needs meta {"tests": ["assert ...", ...]}'
        )
    return list(tests)


def _failure(session: Sandbox, code: str) -> tuple[str, str] | None:
    """(method, detail) if the code did not run to its end."""
    [done] = session.run([code])
    if done.error is None:
        return None
    method = "timeout" if done.timed_out or done.error_kind is ErrorKind.TIMEOUT else "error"
    return method, _last_line(done)


def _last_line(done: Execution) -> str:
    lines = [line.strip() for line in (done.error or "").splitlines() if line.strip()]
    return lines[-1][:200] if lines else str(done.error_kind or "it failed")
