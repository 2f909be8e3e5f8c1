"""A filter behind TASKS: `@FIELD=VALUE`, several with commas (`math:train@level=2-3,type=Algebra`).

A VALUE that is a range of whole numbers (`2-3`) is compared with the last whole number in the field, so that
"Level 2" and 2 are both in it; so is a single one (`level=5`) where the field holds a number. Any other value
must be equal to the field, case aside. A task without the field is not let through.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentdistill.errors import TaskFileError
from agentdistill.types import Task

_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions on a task's meta, all of which must hold. `text` is the filter as it was written."""

    conditions: tuple[tuple[str, str], ...] = ()
    text: str = ""

    def lets_through(self, task: Task) -> bool:
        return all(
            field in task.meta and _holds(str(task.meta[field]), wanted) for field, wanted in self.conditions
        )


def split_filter(text: str) -> tuple[str, Filter]:
    """TASKS without its filter, and the filter. Raises TaskFileError for one that cannot be read."""
    name, mark, conditions = text.partition("@")
    if not mark:
        return text, Filter()
    pairs = []
    for condition in conditions.split(","):
        field, equals, value = (part.strip() for part in condition.partition("="))
        if not (field and equals and value):
            raise TaskFileError(
                f"{text}: {condition!r} is no filter", "write @FIELD=VALUE, such as @level=1-2"
            )
        pairs.append((field, value))
    return name, Filter(tuple(pairs), f"@{conditions}")


def _holds(found: str, wanted: str) -> bool:
    numbers = re.findall(r"\d{1,9}", found)
    match = _RANGE.fullmatch(wanted)
    if match and numbers:
        low, high = int(match[1]), int(match[2] or match[1])
        return low <= int(numbers[-1]) <= high
    return found.strip().casefold() == wanted.casefold()
