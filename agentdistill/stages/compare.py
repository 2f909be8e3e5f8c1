"""Several graded RUNs beside each other: every one after the first is compared with the first, task by task.

Guaranteed: only tasks of one id and one question are paired; what was not paired is counted and named. With
one attempt a task on both sides the test is McNemar's (exact), the interval Newcombe's; with more, both are
by task (`evaluation/samples.py`). Not guaranteed: that the RUNs were graded by the same rules; a judge, or
a grader of one's own, is named where one of two was graded by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentdistill.errors import RunDirectoryError, UsageError
from agentdistill.evaluation.report import write_report
from agentdistill.evaluation.samples import paired_rates
from agentdistill.evaluation.stats import PairedDifference, Proportion, paired_difference
from agentdistill.runs import read_failures, read_run_json, read_scores, read_trajectories, write_atomic
from agentdistill.stages.grade import GradeSummary, summarise
from agentdistill.stages.pages import comparison_page, markdown
from agentdistill.types import Trajectory

NAMED = 5
"""Tasks that are named where some were not paired."""

Attempts = Mapping[str, Sequence[tuple[Trajectory, bool]]]
"""Attempts with their verdicts, by task id."""


@dataclass(frozen=True)
class GradedRun:
    """A RUN as it is compared."""

    label: str
    model: str
    record: Mapping[str, Any] = field(repr=False)
    attempts: Attempts = field(repr=False)
    summary: GradeSummary = field(repr=False)

    def rows(self) -> dict[str, Proportion]:
        """What was measured: each source, and all where there are several."""
        sources = self.summary.by_source
        return {**sources, "all": self.summary.all} if len(sources) > 1 else sources


@dataclass(frozen=True)
class Pairing:
    """A RUN against the first one: the difference on all paired tasks, and on those of each source.

    `only_first` and `only_second` are tasks that the other RUN has no attempt at, `other_question` those
    whose id stands for two questions; `changed` are the paired tasks with another share of right attempts.
    """

    label: str
    run: GradedRun
    all: PairedDifference
    by_source: dict[str, PairedDifference]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    other_question: tuple[str, ...]
    changed: tuple[str, ...]
    sampled: bool
    graded_differently: str = ""

    def rows(self) -> dict[str, PairedDifference]:
        """What was compared: each source, and all where there are several."""
        return {**self.by_source, "all": self.all} if len(self.by_source) > 1 else self.by_source

    def test(self, found: PairedDifference) -> str:
        """The p-value with the name of its test."""
        return f"{'randomisation test' if self.sampled else 'exact McNemar'} p = {found.p:.2g}"

    def unpaired(self) -> str:
        """What was not paired, in words; empty if nothing is missing."""
        parts = [
            _named(self.only_first, "only in the first run"),
            _named(self.only_second, f"only in {self.run.label}"),
            _named(self.other_question, "with another question under the same id"),
        ]
        said = "; ".join(part for part in parts if part)
        return " ".join(filter(None, [f"Not paired: {said}." if said else "", self.graded_differently]))

    @staticmethod
    def share(attempts: Sequence[tuple[Trajectory, bool]]) -> float:
        """The share of right ones."""
        return sum(correct for _, correct in attempts) / len(attempts)


@dataclass(frozen=True)
class Comparison:
    """RUNs in the order given, and each after the first against the first."""

    runs: tuple[GradedRun, ...]
    pairings: tuple[Pairing, ...]


def compare(
    runs: Sequence[Path], *, html: Path | None = None, markdown_file: Path | None = None
) -> Comparison:
    """Compare graded RUNs; write a page and a Markdown table where they are asked for.

    Raises RunDirectoryError for a RUN that is not graded, or not up to its last attempt; UsageError for fewer
    than two, or two without a task in common.
    """
    if len(runs) < 2:
        raise UsageError("there is nothing to compare with", "give two or more RUN folders")
    labels = _labels(runs)
    read = [_read(run, label) for run, label in zip(runs, labels, strict=True)]
    found = Comparison(tuple(read), tuple(_pair(read[0], other) for other in read[1:]))
    if html is not None:
        write_report(html, comparison_page(found))
    if markdown_file is not None:
        write_atomic(markdown_file, markdown(found))
    return found


def _read(run: Path, label: str) -> GradedRun:
    record = read_run_json(run)
    scores = read_scores(run)
    trajectories = list(read_trajectories(run))
    missing = [trajectory.id for trajectory in trajectories if trajectory.id not in scores]
    if missing:
        raise RunDirectoryError(
            f"{run}: {len(missing)} of {len(trajectories)} attempts are not graded",
            f"agentdistill grade {run}",
        )
    attempts: dict[str, list[tuple[Trajectory, bool]]] = {}
    for trajectory in trajectories:
        attempts.setdefault(trajectory.task.id, []).append((trajectory, scores[trajectory.id].correct))
    failed = len({row["id"] for row in read_failures(run)} - {trajectory.id for trajectory in trajectories})
    summary = summarise(str(run), trajectories, [scores[t.id] for t in trajectories], failed)
    model = trajectories[0].model if trajectories else ""
    return GradedRun(label, model, record, attempts, summary)


def _pair(first: GradedRun, second: GradedRun) -> Pairing:
    shared = [task for task in first.attempts if task in second.attempts]
    other_question = tuple(
        task
        for task in shared
        if first.attempts[task][0][0].task.question != second.attempts[task][0][0].task.question
    )
    paired = [task for task in shared if task not in set(other_question)]
    if not paired:
        raise UsageError(
            f"{first.label} and {second.label} have no task in common",
            "tasks are paired by id and question: were both run on the same TASKS?",
        )
    sampled = any(len(run.attempts[task]) > 1 for run in (first, second) for task in paired)
    by_source: dict[str, list[str]] = {}
    for task in paired:
        by_source.setdefault(first.attempts[task][0][0].task.source or "tasks", []).append(task)
    return Pairing(
        label=f"{second.label} against {first.label}",
        run=second,
        all=_difference(first, second, paired, sampled),
        by_source={source: _difference(first, second, tasks, sampled) for source, tasks in by_source.items()},
        only_first=tuple(task for task in first.attempts if task not in second.attempts),
        only_second=tuple(task for task in second.attempts if task not in first.attempts),
        other_question=other_question,
        changed=tuple(
            task
            for task in paired
            if Pairing.share(first.attempts[task]) != Pairing.share(second.attempts[task])
        ),
        sampled=sampled,
        graded_differently=_graded_differently(first, second),
    )


def _difference(first: GradedRun, second: GradedRun, tasks: Sequence[str], sampled: bool) -> PairedDifference:
    before = {task: [correct for _, correct in first.attempts[task]] for task in tasks}
    after = {task: [correct for _, correct in second.attempts[task]] for task in tasks}
    if sampled:
        return paired_rates(before, after)
    return paired_difference([marks[0] for marks in before.values()], [marks[0] for marks in after.values()])


def _graded_differently(first: GradedRun, second: GradedRun) -> str:
    """Said where one RUN has methods of grading that are not our own rules, and the other hasn't."""
    ours = {"none", "text", "number", "math", "refused", "too_long", "timeout", "died", "memory"}
    ours |= {"exact", "choice", "tests", "error"}
    methods = [set(run.summary.methods) - ours for run in (first, second)]
    if methods[0] == methods[1]:
        return ""
    named = [", ".join(sorted(found)) or "our rules alone" for found in methods]
    return f"Graded differently: {first.label} by {named[0]}, {second.label} by {named[1]}."


def _labels(runs: Sequence[Path]) -> list[str]:
    """Folder names; whole paths where two are alike."""
    names = [run.resolve().name for run in runs]
    return [str(run) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _named(tasks: Sequence[str], where: str) -> str:
    if not tasks:
        return ""
    more = f" and {len(tasks) - NAMED} more" if len(tasks) > NAMED else ""
    return f"{len(tasks)} {where} ({', '.join(tasks[:NAMED])}{more})"
