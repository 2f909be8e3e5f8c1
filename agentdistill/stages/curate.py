"""Graded RUNs in, training rows out (METHOD 1.3), with a count for every reason of rejection.

    DATA/rows.jsonl    one conversation a line: id, task, run, messages (a TRL/HF `messages` column as it is)
    DATA/pairs.jsonl   rows, each beside a wrong attempt at its task, for REDI (`stages/pairs.py`)
    DATA/data.json     where the rows came from, what was rejected and why, the student's prompts

Guaranteed: a row is an attempt whose answer is correct, that gave it itself and had no parsing error; the
teacher's long prompt is replaced by the student's; every attempt is either a row or counted under one reason;
the same RUNs give the same rows. Execution errors are kept: the student learns to repair. An attempt in which
some step did not see all observations (Step.dropped) is no row: the RUN stores its conversation in full, and
the student would learn to do again what stands above.

A RUN of chains of thought (`eval --mode cot` or `cot-rag` with the teacher) gives the rows of CoT
distillation, or of CoT distillation with retrieval: the baselines of METHOD 1.5, from the same teacher and
tasks.

Not guaranteed: that a correct answer was found in a correct way.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from agentdistill.agent.build import chain_of_thought_prompt, system_prompt
from agentdistill.agent.knowledge import RecallTool
from agentdistill.agent.tools import SearchTool
from agentdistill.errors import RunDirectoryError, UsageError
from agentdistill.prompts import Prompts
from agentdistill.runs import read_run_json, read_scores, read_trajectories, write_atomic
from agentdistill.stages.knowledge_rows import KnowledgeRows
from agentdistill.stages.pairs import pair_up, write_pairs
from agentdistill.tasks.contamination import HeldOut, Overlap
from agentdistill.tasks.load import TaskSet, load_tasks
from agentdistill.training.code_shape import code_shape
from agentdistill.types import ErrorKind, Json, Message, Score, StopReason, Trajectory, to_json


class Rejection(StrEnum):
    """Why an attempt is no training row. The first reason that applies counts, in this order."""

    CONTAMINATED = "its question overlaps with a test question"
    UNGRADED = "not graded"
    MAX_STEPS = "ended by the step limit"
    CONTEXT = "ended by the context's length"
    WRONG = "wrong answer"
    PARSE_ERROR = "a step could not be parsed"
    UNSEEN = "a step did not see all observations"
    DUPLICATE = "same conversation as another row"
    SAME_CODE = "same code as another row of its task"
    PER_TASK = "its task has enough rows"


@dataclass(frozen=True, slots=True)
class CurateSummary:
    """Attempts read, rows kept, and attempts rejected by reason: `attempts` is the sum of the others.

    `overlaps` has one entry for each task left out because of a test question. `skipped` names the rows of
    test files that could not be read. `variants` counts rows by what they teach, where a knowledge base
    made several of an attempt.
    """

    out: str
    attempts: int
    kept: int
    rejected: dict[str, int]
    runs: tuple[str, ...]
    overlaps: tuple[Overlap, ...] = ()
    skipped: tuple[str, ...] = ()
    variants: dict[str, int] = field(default_factory=dict)


def curate(
    runs: Sequence[Path],
    out: Path,
    prompts: Prompts,
    *,
    tests: Sequence[Path] = (),
    per_task: int | None = None,
    skip_bad_rows: bool = False,
    knowledge: KnowledgeRows | None = None,
) -> CurateSummary:
    """Write the training rows of graded RUNs to `out`.

    Tasks that overlap with a question of the `tests` files are left out (`tasks/contamination.py` has the
    rule). Of several correct attempts at one task those with the same code shape are one row, at most
    `per_task` rows; RUNs in the order given, samples by their index, come first. With `knowledge` an attempt
    that is kept becomes several rows (`stages/knowledge_rows.py`).

    Raises RunDirectoryError when a RUN has no scores, TaskFileError for a test file, UsageError.
    """
    if not runs:
        raise UsageError("no RUN to curate")
    if per_task is not None and per_task < 1:
        raise UsageError(f"{per_task} rows a task: give 1 or more")
    modes = {str(read_run_json(run)["shape"].get("mode", "agent")): run for run in runs}
    if len(modes) > 1:
        named = ", ".join(f"{run.name} by {mode}" for mode, run in sorted(modes.items()))
        raise UsageError(f"one student learns one way to answer, and these are several: {named}")
    if knowledge is not None and set(modes) != {"agent"}:
        raise UsageError(f"{runs[0]} holds chains of thought", "--kb makes rows of agents' attempts")
    files = [load_tasks(path, skip_bad_rows=skip_bad_rows) for path in tests]
    selection = _Selection(prompts, HeldOut(files) if files else None, per_task, knowledge)
    sources = []
    for run in runs:
        record = read_run_json(run)
        before = selection.attempts, selection.kept
        selection.add(run, read_scores(run), record["shape"])
        attempts, kept = selection.attempts - before[0], selection.kept - before[1]
        counts = {"attempts": attempts, "kept": kept}
        sources.append({"run": run.name, **counts, "shape": record["shape"], "versions": record["versions"]})
    overlaps = tuple(found for found in selection.overlaps.values() if found is not None)
    data = {
        "rows": len(selection.rows),
        "mode": next(iter(modes)),
        "rejected": dict(selection.rejected),
        "per_task": per_task,
        "runs": sources,
        "tests": [_test_file(file, overlaps) for file in files],
        "prompts": prompts.text,
    }
    if knowledge is not None:
        data["knowledge"] = knowledge.record()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {out}: {error.strerror}") from error
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in selection.rows]
    write_atomic(out / "rows.jsonl", "".join(lines))
    write_pairs(out, pair_up(selection.right, selection.wrong))
    write_atomic(out / "data.json", json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    return CurateSummary(
        out=str(out),
        attempts=selection.attempts,
        kept=selection.kept,
        rejected=dict(selection.rejected),
        runs=tuple(str(run) for run in runs),
        overlaps=overlaps,
        skipped=tuple(line for file in files for line in file.skipped),
        variants=dict(knowledge.counts) if knowledge is not None else {},
    )


class _Selection:
    """The rows so far, and what decides about the next attempt."""

    def __init__(
        self,
        prompts: Prompts,
        held_out: HeldOut | None,
        per_task: int | None,
        knowledge: KnowledgeRows | None,
    ) -> None:
        self.prompts = prompts
        self.held_out = held_out
        self.per_task = per_task
        self.knowledge = knowledge
        self.kept = 0
        self.rows: list[Json] = []
        self.right: list[Json] = []
        self.wrong: list[Json] = []
        self.rejected: Counter[str] = Counter()
        self.attempts = 0
        # A task is its id and its question: two files may use the same ids.
        self.overlaps: dict[tuple[str, str], Overlap | None] = {}
        self._conversations: set[str] = set()
        self._shapes: dict[tuple[str, str], set[str]] = {}

    def add(self, run: Path, scores: dict[str, Score], shape: Mapping[str, Json]) -> None:
        """Every attempt of a RUN: a row, or counted. By sample index, whatever order they finished in."""
        # The student is told of the tools it will have, as the teacher was.
        tools: list[Any] = [SearchTool()] if shape.get("retriever") else []
        tools += [RecallTool()] if (shape.get("knowledge_base") or {}).get("delivery") == "recall" else []
        thinks = shape.get("mode", "agent") != "agent"
        for trajectory in sorted(read_trajectories(run), key=lambda attempt: attempt.sample):
            self.attempts += 1
            reason = self._overlap(trajectory) or rejection(trajectory, scores.get(trajectory.id))
            if reason in (None, Rejection.WRONG):
                if thinks:
                    messages = thinking_messages(trajectory, self.prompts)
                else:
                    messages = student_messages(trajectory, self.prompts, tools)
                row = {"id": trajectory.id, "task": trajectory.task.id, "run": run.name, "messages": messages}
            if reason is Rejection.WRONG and _is_clean(trajectory):
                self.wrong.append(row)
            if reason is None:
                reason = self._repeats(trajectory, messages)
            if reason is None:
                self.kept += 1
                self.right.append(row)
                names = [tool.name for tool in tools]
                self.rows += self.knowledge.rows(row, trajectory, names) if self.knowledge else [row]
            else:
                self.rejected[reason.value] += 1

    def _overlap(self, trajectory: Trajectory) -> Rejection | None:
        if self.held_out is None:
            return None
        task = trajectory.task
        key = (task.id, task.question)
        if key not in self.overlaps:
            self.overlaps[key] = self.held_out.overlap(task)
        return Rejection.CONTAMINATED if self.overlaps[key] is not None else None

    def _repeats(self, trajectory: Trajectory, messages: list[Message]) -> Rejection | None:
        said = json.dumps(messages)
        if said in self._conversations:
            return Rejection.DUPLICATE
        shapes = self._shapes.setdefault((trajectory.task.id, trajectory.task.question), set())
        codes = [step.code for step in trajectory.steps if step.code is not None]
        # Chains of thought have no code: they are alike where they say the same.
        shape = code_shape(codes) if codes else messages[-1]["content"]
        if shape in shapes:
            return Rejection.SAME_CODE
        if self.per_task is not None and len(shapes) >= self.per_task:
            return Rejection.PER_TASK
        self._conversations.add(said)
        shapes.add(shape)
        return None


def _is_clean(trajectory: Trajectory) -> bool:
    """Whether what is wrong with a wrong attempt is its reasoning, not its form."""
    return not any(step.error_kind is ErrorKind.PARSE or step.dropped for step in trajectory.steps)


def rejection(trajectory: Trajectory, score: Score | None) -> Rejection | None:
    """Why this attempt, looked at by itself, is no row, or None if it is one."""
    if score is None:
        return Rejection.UNGRADED
    if trajectory.stop_reason is StopReason.MAX_STEPS:
        return Rejection.MAX_STEPS
    if trajectory.stop_reason is StopReason.CONTEXT:
        return Rejection.CONTEXT
    if not score.correct:
        return Rejection.WRONG
    if any(step.error_kind is ErrorKind.PARSE for step in trajectory.steps):
        return Rejection.PARSE_ERROR
    if any(step.dropped for step in trajectory.steps):
        return Rejection.UNSEEN
    return None


def student_messages(trajectory: Trajectory, prompts: Prompts, tools: Sequence[Any] = ()) -> list[Message]:
    """The conversation as the student will meet it: its own system prompt and its own answer hint."""
    opening = [
        Message(role="system", content=system_prompt(prompts, tools)),
        Message(role="user", content=f"New task:\n{prompts.question(trajectory.task)}"),
    ]
    return opening + list(trajectory.messages[2:])


def thinking_messages(trajectory: Trajectory, prompts: Prompts) -> list[Message]:
    """A chain of thought as the student will be asked for one: the passages that the teacher was shown, if
    any, before the question with the student's own hint."""
    passages, _, _ = trajectory.messages[1]["content"].rpartition(trajectory.task.question)
    return [
        Message(role="system", content=chain_of_thought_prompt(prompts)),
        Message(role="user", content=passages + prompts.question(trajectory.task)),
        *trajectory.messages[2:],
    ]


def _test_file(file: TaskSet, overlaps: Sequence[Overlap]) -> Json:
    """What data.json says about one test file: which it was, and which tasks it has cost."""
    removed = [to_json(found) for found in overlaps if found.file == file.source]
    name = Path(file.source).name
    return {"file": name, "sha256": file.sha256, "questions": len(file.tasks), "removed": removed}


def read_data(data: Path) -> tuple[list[dict[str, Any]], str]:
    """Rows of a DATA folder and the student's prompts. Raises RunDirectoryError on any other folder."""
    try:
        record = json.loads((data / "data.json").read_text(encoding="utf-8"))
        # Not splitlines(): U+2028 and its like are ordinary characters inside a JSON string.
        lines = (data / "rows.jsonl").read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        if len(rows) != record["rows"]:
            raise ValueError(f"rows.jsonl has {len(rows)} rows, data.json says {record['rows']}")
        return rows, str(record["prompts"])
    except FileNotFoundError as error:
        raise RunDirectoryError(
            f"{data} holds no training rows", "make them with `agentdistill curate`"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{data} cannot be read: {error}") from error
