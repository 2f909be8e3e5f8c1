"""What every export is made from: one conversation, flat columns beside it, and the attempt if it is known.

Guaranteed: the columns are the same for all samples of one source and hold text, numbers, booleans or null
only, so that readers that infer a table's types (`datasets`, pandas) can. Text is what UTF-8 can hold: half a
surrogate pair becomes "?", as in the RUN itself. Nothing else is changed, control characters included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentdistill.types import Json, Message, Score, Trajectory

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation to export. `attempt` is None for a curated row, which keeps its conversation only.

    `columns["correct"]` is the verdict, None where there is none yet. `version` is that of the agentdistill
    that made the attempt.
    """

    messages: tuple[Message, ...]
    columns: Mapping[str, Json]
    attempt: Trajectory | None = None
    version: str = "unknown"


def from_attempt(attempt: Trajectory, score: Score | None, run: str, version: str) -> Sample:
    """A finished attempt of a RUN and its verdict, if it has one. Raises ValueError for a conversation that
    is none."""
    task, usage = attempt.task, attempt.usage
    columns = {
        "id": attempt.id,
        "task": task.id,
        "run": run,
        "sample": attempt.sample,
        "question": task.question,
        "gold": task.answer,
        "kind": task.kind.value,
        "source": task.source,
        "split": task.split,
        "answer": attempt.answer,
        "correct": score.correct if score else None,
        "graded_by": score.method if score else None,
        "stop_reason": attempt.stop_reason.value,
        "model": attempt.model,
        "seed": attempt.seed,
        "prompt_hash": attempt.prompt_hash,
        "first_thought": attempt.first_thought.status.value,
        "steps": len(attempt.steps),
        "tokens_in": usage.tokens_in,
        "tokens_out": usage.tokens_out,
        "seconds": usage.seconds,
        "usd": usage.usd,
    }
    return Sample(_messages(attempt.messages), storable(columns), attempt, version)


def from_row(row: Mapping[str, Any], version: str) -> Sample:
    """A curated row: correct, or it would not be one. Raises KeyError, TypeError or ValueError on
    another shape."""
    columns = {"id": row["id"], "task": row["task"], "run": row["run"], "correct": True}
    return Sample(_messages(row["messages"]), storable(columns), None, version)


def storable(value: Json) -> Json:
    """A JSON value whose every text UTF-8 can hold."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {storable(key): storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value]
    return value


def _messages(messages: Any) -> tuple[Message, ...]:
    found = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(f"a message of role {role!r}, or whose content is no text")
        found.append(Message(role=role, content=storable(content)))
    return tuple(found)
