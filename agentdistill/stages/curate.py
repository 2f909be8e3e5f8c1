"""Graded RUNs in, training rows out (METHOD 1.3), with a count for every reason of rejection.

    DATA/rows.jsonl    one conversation a line: id, task, run, messages (a TRL/HF `messages` column as it is)
    DATA/data.json     where the rows came from, what was rejected and why, the student's prompts

Guaranteed: a row is an attempt whose answer is correct, that gave it itself and had no parsing error; the
teacher's long prompt is replaced by the student's. Execution errors are kept: the student learns to repair.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from agentdistill.agent.build import system_prompt
from agentdistill.agent.tools import SearchTool
from agentdistill.errors import RunDirectoryError, UsageError
from agentdistill.prompts import Prompts
from agentdistill.runs import read_run_json, read_scores, read_trajectories, write_atomic
from agentdistill.types import ErrorKind, Json, Message, Score, StopReason, Trajectory


class Rejection(StrEnum):
    """Why an attempt is no training row."""

    UNGRADED = "not graded"
    WRONG = "wrong answer"
    MAX_STEPS = "ended by the step limit"
    PARSE_ERROR = "a step could not be parsed"
    DUPLICATE = "same conversation as another row"


@dataclass(frozen=True, slots=True)
class CurateSummary:
    """Rows kept, and attempts rejected by reason."""

    out: str
    kept: int
    rejected: dict[str, int]
    runs: tuple[str, ...]


def curate(runs: Sequence[Path], out: Path, prompts: Prompts) -> CurateSummary:
    """Write the training rows of graded RUNs. Raises RunDirectoryError when a RUN has no scores."""
    if not runs:
        raise UsageError("no RUN to curate")
    rows: list[Json] = []
    rejected: Counter[str] = Counter()
    seen: set[str] = set()
    sources = []
    for run in runs:
        record = read_run_json(run)
        scores = read_scores(run)
        # The student is told of the search it will have, as the teacher was.
        tools = [SearchTool()] if record["shape"].get("retriever") else []
        sources.append({"run": run.name, "shape": record["shape"], "versions": record["versions"]})
        for trajectory in read_trajectories(run):
            reason = rejection(trajectory, scores.get(trajectory.id))
            if reason is None:
                row = {
                    "id": trajectory.id,
                    "task": trajectory.task.id,
                    "run": run.name,
                    "messages": student_messages(trajectory, prompts, tools),
                }
                said = json.dumps(row["messages"])
                reason = Rejection.DUPLICATE if said in seen else None
                seen.add(said)
            if reason is None:
                rows.append(row)
            else:
                rejected[reason.value] += 1
    data = {"rows": len(rows), "rejected": dict(rejected), "runs": sources, "prompts": prompts.text}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {out}: {error.strerror}") from error
    write_atomic(out / "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_atomic(out / "data.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return CurateSummary(str(out), len(rows), dict(rejected), tuple(str(run) for run in runs))


def rejection(trajectory: Trajectory, score: Score | None) -> Rejection | None:
    """Why this attempt is no row, or None if it is one. The first reason that applies counts."""
    if score is None:
        return Rejection.UNGRADED
    if trajectory.stop_reason is StopReason.MAX_STEPS:
        return Rejection.MAX_STEPS
    if not score.correct:
        return Rejection.WRONG
    if any(step.error_kind is ErrorKind.PARSE for step in trajectory.steps):
        return Rejection.PARSE_ERROR
    return None


def student_messages(trajectory: Trajectory, prompts: Prompts, tools: Sequence[Any] = ()) -> list[Message]:
    """The conversation as the student will meet it: its own system prompt and its own answer hint."""
    opening = [
        Message(role="system", content=system_prompt(prompts, tools)),
        Message(role="user", content=f"New task:\n{prompts.question(trajectory.task)}"),
    ]
    return opening + list(trajectory.messages[2:])


def read_data(data: Path) -> tuple[list[dict[str, Any]], str]:
    """Rows of a DATA folder and the student's prompts. Raises RunDirectoryError on any other folder."""
    try:
        record = json.loads((data / "data.json").read_text(encoding="utf-8"))
        lines = (data / "rows.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines], str(record["prompts"])
    except FileNotFoundError as error:
        raise RunDirectoryError(
            f"{data} holds no training rows", "make them with `agentdistill curate`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{data} cannot be read: {error}") from error
