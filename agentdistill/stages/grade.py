"""Verdicts for a RUN: trajectories in; scores.jsonl (replaced as a whole) and summary.json out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentdistill.evaluation.majority import majority
from agentdistill.evaluation.stats import Proportion, proportion
from agentdistill.grading import Grader
from agentdistill.runs import read_failures, read_trajectories, write_atomic, write_scores
from agentdistill.stages.progress import Progress, Silent
from agentdistill.stages.spending import total
from agentdistill.types import Score, StopReason, Trajectory, Usage, to_json


@dataclass(frozen=True, slots=True)
class GradeSummary:
    """What a graded RUN amounts to. Means are per attempt; seconds are wall seconds of an attempt.

    `total` is what the RUN has cost in all, tries that failed included. `majority` counts tasks, by the
    answer that most of a task's samples gave; None where every task has one sample.
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
    total: Usage
    majority: Proportion | None = None
    scores: tuple[Score, ...] = field(repr=False, default=())


def grade(out: Path, *, progress: Progress | None = None) -> GradeSummary:
    """Score every finished attempt of a RUN. Raises RunDirectoryError or GradingError."""
    progress = progress or Silent()
    trajectories = list(read_trajectories(out))
    progress.begin("grade", len(trajectories))
    scores = []
    with Grader() as grader:
        for number, trajectory in enumerate(trajectories, 1):
            scores.append(grader.score(trajectory))
            progress.update(number)
    progress.end()
    write_scores(out, scores)
    finished = {trajectory.id for trajectory in trajectories}
    failures = read_failures(out)
    failed = len({row["id"] for row in failures} - finished)
    summary = summarise(str(out), trajectories, scores, failed, [row["usage"] for row in failures])
    record = to_json(summary)
    del record["scores"]
    write_atomic(out / "summary.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return summary


def summarise(
    name: str,
    trajectories: list[Trajectory],
    scores: list[Score],
    failed: int = 0,
    failed_usages: Sequence[Usage] = (),
) -> GradeSummary:
    """Figures over attempts and their verdicts, given in one order."""
    n = len(trajectories)
    by_source: dict[str, list[bool]] = {}
    for trajectory, score in zip(trajectories, scores, strict=True):
        by_source.setdefault(trajectory.task.source or "tasks", []).append(score.correct)
    errors = Counter(
        str(step.error_kind) for trajectory in trajectories for step in trajectory.steps if step.error_kind
    )
    stopped = Counter(str(trajectory.stop_reason) for trajectory in trajectories)

    def mean(values: list[float]) -> float:
        return round(sum(values) / n, 2) if n else 0.0

    return GradeSummary(
        run=name,
        all=proportion([score.correct for score in scores]),
        by_source={source: proportion(marks) for source, marks in sorted(by_source.items())},
        stopped={str(reason): stopped.get(str(reason), 0) for reason in StopReason},
        step_errors=dict(errors),
        steps=mean([len(trajectory.steps) for trajectory in trajectories]),
        tokens_in=mean([trajectory.usage.tokens_in for trajectory in trajectories]),
        tokens_out=mean([trajectory.usage.tokens_out for trajectory in trajectories]),
        seconds=mean([trajectory.usage.seconds for trajectory in trajectories]),
        failed=failed,
        majority=_majority(trajectories, scores),
        total=total([*(trajectory.usage for trajectory in trajectories), *failed_usages]),
        scores=tuple(scores),
    )


def _majority(trajectories: list[Trajectory], scores: list[Score]) -> Proportion | None:
    verdicts = majority(trajectories, scores)
    return proportion([score.correct for score in verdicts]) if len(verdicts) < len(scores) else None
