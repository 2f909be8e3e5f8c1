"""Evaluation is generation without a first thought, or a plain chain of thought, then grading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agentdistill.grading import AnswerGrader
from agentdistill.models.base import BaseModel
from agentdistill.stages.baseline import ChainOfThought
from agentdistill.stages.engine import Settings
from agentdistill.stages.generate import generate
from agentdistill.stages.grade import GradeSummary, grade
from agentdistill.stages.progress import Progress
from agentdistill.stages.spending import Budget, Price
from agentdistill.types import Json, Task


def evaluate(
    tasks: Sequence[Task],
    out: Path,
    model: BaseModel,
    settings: Settings,
    *,
    samples: int = 1,
    concurrency: int = 4,
    price: Price | None = None,
    budget: Budget | None = None,
    grader: AnswerGrader | None = None,
    asked: Mapping[str, Json] | None = None,
    progress: Progress | None = None,
    stage: str = "eval",
) -> GradeSummary:
    """`samples` attempts at every task by `model`, graded: as an agent, or by chains of thought, as the
    settings say. The student never gets a first thought. Raises what `generate` and `grade` raise."""
    sandbox = "auto"
    if not isinstance(settings, ChainOfThought):
        settings = replace(settings, first_thought="off", given_thoughts={})
        sandbox = settings.sandbox
    generate(
        tasks,
        out,
        model,
        settings,
        samples=samples,
        concurrency=concurrency,
        price=price,
        budget=budget,
        asked=asked,
        progress=progress,
        stage=stage,
    )
    return grade(out, grader=grader, sandbox=sandbox, progress=progress)
