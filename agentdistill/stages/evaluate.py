"""Evaluation is generation without a first thought, then grading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agentdistill.models.base import BaseModel
from agentdistill.stages.attempt import AttemptSettings
from agentdistill.stages.generate import generate
from agentdistill.stages.grade import GradeSummary, grade
from agentdistill.stages.progress import Progress
from agentdistill.stages.spending import Price
from agentdistill.types import Json, Task


def evaluate(
    tasks: Sequence[Task],
    out: Path,
    model: BaseModel,
    settings: AttemptSettings,
    *,
    concurrency: int = 4,
    price: Price | None = None,
    asked: dict[str, Json] | None = None,
    progress: Progress | None = None,
    stage: str = "eval",
) -> GradeSummary:
    """One attempt at every task by an agent of `model`, graded. The student never gets a first thought."""
    settings = replace(settings, first_thought="off", given_thoughts={})
    generate(
        tasks,
        out,
        model,
        settings,
        concurrency=concurrency,
        price=price,
        asked=asked,
        progress=progress,
        stage=stage,
    )
    return grade(out, progress=progress)
