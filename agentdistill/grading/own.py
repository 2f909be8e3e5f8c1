"""A grader of one's own: a function of answer and task, in a Python file."""

from __future__ import annotations

from collections.abc import Callable

from agentdistill.errors import GradingError
from agentdistill.grading.qa import Verdict
from agentdistill.types import Task


class OwnGrader:
    """Judges every answer by `function(answer, task)`, which returns True or False, or a pair of that and a
    reason. It is called from several threads. What it raises is a GradingError that names the task: a
    mistake in it must not look like a wrong answer."""

    def __init__(self, function: Callable[[str | None, Task], object], name: str) -> None:
        self._function = function
        self._name = name

    def grade(self, answer: str | None, task: Task) -> Verdict:
        try:
            found = self._function(answer, task)
        except Exception as error:
            raise GradingError(
                f"the grader {self._name} raised {type(error).__name__} on task {task.id!r}: {error}"
            ) from error
        correct, reason = found if isinstance(found, tuple) and len(found) == 2 else (found, "")
        if not isinstance(correct, bool):
            raise GradingError(
                f"the grader {self._name} returned {str(found)[:40]!r} for task {task.id!r}",
                "it must return True or False, or a pair of that and a reason",
            )
        return correct, self._name, str(reason)
