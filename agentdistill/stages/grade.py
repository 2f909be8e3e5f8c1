"""Verdicts for a RUN: trajectories in; scores.jsonl (replaced as a whole), summary.json and report.html out.

With a judge, RUN/judgements.jsonl keeps what it has said, so that no verdict is paid for twice.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from agentdistill.clients.sandbox import open_sandbox
from agentdistill.evaluation.majority import majority
from agentdistill.evaluation.report import write_report
from agentdistill.evaluation.samples import pass_at_k, rate
from agentdistill.evaluation.stats import Proportion, proportion
from agentdistill.grading import AnswerGrader, Grader
from agentdistill.grading.judge import Agreement, Judge, agreement
from agentdistill.grading.qa import aliases, f1
from agentdistill.runs import read_failures, read_run_json, read_trajectories, write_atomic, write_scores
from agentdistill.stages.pages import run_page
from agentdistill.stages.progress import Progress, Silent
from agentdistill.stages.spending import total
from agentdistill.types import ActionModel, Score, StopReason, TaskKind, Trajectory, Usage, to_json

JUDGEMENTS = "judgements.jsonl"


@dataclass(frozen=True, slots=True)
class GradeSummary:
    """What a graded RUN amounts to. Means are per attempt; seconds are wall seconds of an attempt.

    Intervals are Wilson's with one attempt a task, clustered by task with more. `f1` has the mean F1 (0 to
    1) of each source of phrases; `majority` counts tasks, by the answer that most of a task's attempts gave,
    and is None with one; `pass_at` the chance that one of k attempts is right, for k = 1, 2, 4 ...
    up to the attempts that every task has, and is empty with one; `step_errors` counts steps by the class
    of their error, `tool_calls` has calls per attempt by the tool's name. `usd` is per attempt, None where
    a price is unknown; `total` is what the RUN has cost, tries that failed included.
    """

    run: str
    all: Proportion
    by_source: dict[str, Proportion]
    stopped: dict[str, int]
    step_errors: dict[str, int]
    steps: float
    tokens_in: float
    tokens_out: float
    seconds: float
    failed: int
    tasks: int = 0
    samples: int = 0
    f1: dict[str, float] = field(default_factory=dict)
    majority: Proportion | None = None
    pass_at: dict[int, float] = field(default_factory=dict)
    tool_calls: dict[str, float] = field(default_factory=dict)
    methods: dict[str, int] = field(default_factory=dict)
    usd: float | None = None
    total: Usage = field(default_factory=Usage)
    agreement: Agreement | None = None
    scores: tuple[Score, ...] = field(repr=False, default=())


def grade(
    out: Path,
    *,
    grader: AnswerGrader | None = None,
    judge: ActionModel | None = None,
    sandbox: str = "auto",
    workers: int = 2,
    progress: Progress | None = None,
) -> GradeSummary:
    """Score every finished attempt of a RUN, `workers` side by side.

    By `grader`, by default our own; phrases by the model `judge`, if there is one. Programs are tested in the
    `sandbox`. Raises RunDirectoryError, GradingError, ModelError of the judge, SandboxError, or UsageError
    for a task that cannot be graded; scores.jsonl is then what it was.
    """
    trajectories = list(read_trajectories(out))
    with Grader(workers=workers, open_session=lambda: open_sandbox(sandbox)) as own:
        chosen: AnswerGrader = grader or own
        judging = Judge(judge, chosen, out / JUDGEMENTS) if judge is not None else None
        scores = list(_scored(trajectories, judging or chosen, workers, progress or Silent()))
    write_scores(out, scores)
    finished = {trajectory.id for trajectory in trajectories}
    failures = read_failures(out)
    failed = len({row["id"] for row in failures} - finished)
    summary = summarise(str(out), trajectories, scores, failed, judge=judging.name if judging else "")
    summary = replace(summary, total=total([summary.total, *(row["usage"] for row in failures)]))
    record = to_json(summary)
    del record["scores"]
    write_atomic(out / "summary.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    write_report(out / "report.html", run_page(read_run_json(out), trajectories, scores, summary))
    return summary


def _scored(
    trajectories: Sequence[Trajectory], grader: AnswerGrader, workers: int, progress: Progress
) -> Iterator[Score]:
    """In the order of the trajectories; no more of them under way than the workers need."""
    progress.begin("grade", len(trajectories))
    pending: deque[Future[Score]] = deque()
    done = 0
    with ThreadPoolExecutor(workers, thread_name_prefix="grade") as threads:
        try:
            for trajectory in trajectories:
                pending.append(threads.submit(_score, grader, trajectory))
                if len(pending) > 4 * workers:
                    yield pending.popleft().result()
                    done += 1
                    progress.update(done)
            while pending:
                yield pending.popleft().result()
                done += 1
                progress.update(done)
        finally:
            for future in pending:
                future.cancel()
            progress.end()


def _score(grader: AnswerGrader, trajectory: Trajectory) -> Score:
    return Score(trajectory.id, *grader.grade(trajectory.answer, trajectory.task))


def summarise(
    name: str, trajectories: list[Trajectory], scores: list[Score], failed: int = 0, *, judge: str = ""
) -> GradeSummary:
    """Figures over attempts and their verdicts, given in one order. `judge` names who judged phrases."""
    n = len(trajectories)
    marks = marks_by_task(trajectories, scores)
    fewest = min(map(len, marks.values()), default=0)
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    stopped = Counter(str(trajectory.stop_reason) for trajectory in trajectories)
    costs = [trajectory.usage.usd for trajectory in trajectories]
    known = [cost for cost in costs if cost is not None]
    verdicts = zip(scores, trajectories, strict=True)

    def mean(values: Iterable[float], digits: int = 2) -> float:
        return round(sum(values) / n, digits) if n else 0.0

    return GradeSummary(
        run=name,
        all=rate(marks),
        by_source={
            source: rate(marks_by_task(trajectories, scores, source))
            for source in sorted({_source(trajectory) for trajectory in trajectories})
        },
        stopped={str(reason): stopped.get(str(reason), 0) for reason in StopReason},
        step_errors=dict(Counter(str(step.error_kind) for step in steps if step.error_kind)),
        steps=mean(len(trajectory.steps) for trajectory in trajectories),
        tokens_in=mean(trajectory.usage.tokens_in for trajectory in trajectories),
        tokens_out=mean(trajectory.usage.tokens_out for trajectory in trajectories),
        seconds=mean(trajectory.usage.seconds for trajectory in trajectories),
        failed=failed,
        tasks=len(marks),
        samples=max(map(len, marks.values()), default=0),
        f1=_f1(trajectories),
        majority=_majority(trajectories, scores),
        pass_at={k: round(pass_at_k(marks, k), 4) for k in _powers(fewest)} if fewest > 1 else {},
        tool_calls={
            tool: round(count / n, 2)
            for tool, count in sorted(
                Counter(call.name for step in steps for call in step.tool_calls).items()
            )
        },
        methods=dict(Counter(score.method for score in scores)),
        usd=mean(known, 6) if known and len(known) == n else None,
        total=total(trajectory.usage for trajectory in trajectories),
        agreement=agreement(
            judge,
            (
                ((score.correct, score.method, score.detail), attempt.answer, attempt.task)
                for score, attempt in verdicts
            ),
        ),
        scores=tuple(scores),
    )


def marks_by_task(
    trajectories: Iterable[Trajectory], scores: Iterable[Score], source: str | None = None
) -> dict[str, list[bool]]:
    """Verdicts by task id, of one source or of all."""
    marks: dict[str, list[bool]] = {}
    for trajectory, score in zip(trajectories, scores, strict=True):
        if source is None or _source(trajectory) == source:
            marks.setdefault(trajectory.task.id, []).append(score.correct)
    return marks


def _source(trajectory: Trajectory) -> str:
    return trajectory.task.source or "tasks"


def _powers(most: int) -> list[int]:
    """1, 2, 4 ... and `most` itself."""
    powers = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    return powers if most in powers else [*powers, most]


def _f1(trajectories: Iterable[Trajectory]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for attempt in trajectories:
        task = attempt.task
        if task.kind is TaskKind.QA:
            found.setdefault(_source(attempt), []).append(f1(attempt.answer, task.answer, aliases(task)))
    return {source: round(sum(values) / len(values), 4) for source, values in sorted(found.items())}


def _majority(trajectories: list[Trajectory], scores: list[Score]) -> Proportion | None:
    verdicts = majority(trajectories, scores)
    return proportion([score.correct for score in verdicts]) if len(verdicts) < len(scores) else None
