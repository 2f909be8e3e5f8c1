"""Answer-level self-consistency: the answer that most of a task's samples gave (METHOD 1.5).

The control for self-consistent steps: it spends the same samples on whole attempts. Answers are the same as
the grader reads them: numbers by value, option letters, phrases without case, articles and punctuation.
Samples without an answer have no vote, ties go to the answer that the earliest sample gave.

Guaranteed: no gold answer is looked at to group or choose. Not guaranteed: that answers which the grader
would only find equal by computer algebra (sqrt(8) and 2*sqrt(2)) are counted together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from agentdistill.grading.math import number, strip
from agentdistill.grading.qa import normalise, option
from agentdistill.types import Score, TaskKind, Trajectory


def majority(trajectories: Sequence[Trajectory], scores: Sequence[Score]) -> list[Score]:
    """One verdict a task: that of the first sample which gave the majority's answer, or of the first of all
    where none has answered. Trajectories and scores are given in one order; tasks come as they first appear.
    """
    by_task: dict[str, list[tuple[Trajectory, Score]]] = {}
    for trajectory, score in zip(trajectories, scores, strict=True):
        by_task.setdefault(trajectory.task.id, []).append((trajectory, score))
    return [_verdict(sorted(samples, key=lambda pair: pair[0].sample)) for samples in by_task.values()]


def _verdict(samples: Sequence[tuple[Trajectory, Score]]) -> Score:
    keys = [answer_key(trajectory.answer, trajectory.task.kind) for trajectory, _ in samples]
    counts = Counter(key for key in keys if key is not None)
    if not counts:
        return samples[0][1]
    best = max(counts.values())
    return next(
        score
        for key, (_, score) in zip(keys, samples, strict=True)
        if key is not None and counts[key] == best
    )


def answer_key(answer: str | None, kind: TaskKind) -> Hashable | None:
    """Equal for equal answers to a task of this kind; None for no answer."""
    if answer is None or not answer.strip():
        return None
    if kind is TaskKind.MATH:
        text = strip(answer)
        value = number(text)
        return " ".join(text.split()) if value is None else value
    if kind is TaskKind.CHOICE:
        return option(answer) or normalise(answer)
    return normalise(answer) if kind is TaskKind.QA else answer
