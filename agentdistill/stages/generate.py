"""Teacher trajectories: tasks in, RUN out. Resumes by itself: give the same command again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentdistill.errors import UsageError
from agentdistill.models.base import BaseModel
from agentdistill.runs import RunWriter, attempt_id, read_failures
from agentdistill.stages.engine import Engine, Local, Settings
from agentdistill.stages.pool import Job, PoolResult, run_jobs
from agentdistill.stages.progress import Progress, Silent
from agentdistill.stages.spending import Account, Budget, Price
from agentdistill.stages.tally import LiveAccuracy
from agentdistill.stages.thoughts import drawn_before
from agentdistill.types import Json, Task


def generate(
    tasks: Sequence[Task],
    out: Path,
    model: BaseModel,
    settings: Settings,
    *,
    samples: int = 1,
    concurrency: int = 4,
    price: Price | None = None,
    budget: Budget | None = None,
    asked: Mapping[str, Json] | None = None,
    progress: Progress | None = None,
    stage: str = "generate",
) -> PoolResult:
    """`samples` attempts by `model` at every task, made in this process and stored in the RUN `out`: by an
    agent, or by plain chains of thought (the baselines of `stages/baseline.py`), as the settings say.

    Raises what `Local` and `store_attempts` raise.
    """
    drawn = drawn_before(out, tasks) if samples > 1 else {}
    with Local(model, settings, concurrency=concurrency, drawn=drawn) as engine:
        return store_attempts(
            tasks,
            out,
            engine,
            samples=samples,
            price=price,
            budget=budget,
            asked=asked,
            progress=progress,
            stage=stage,
        )


def store_attempts(
    tasks: Sequence[Task],
    out: Path,
    engine: Engine,
    *,
    samples: int = 1,
    price: Price | None = None,
    budget: Budget | None = None,
    asked: Mapping[str, Json] | None = None,
    progress: Progress | None = None,
    stage: str = "generate",
) -> PoolResult:
    """`samples` attempts at every task, made by `engine` and stored in the RUN `out`.

    Raises UsageError when the samples would all be the same or a budget cannot be kept, RunMismatchError when
    `out` was made with other settings, and what `run_jobs` raises.
    """
    shape: dict[str, Any] = dict(engine.shape)
    if samples > 1 and shape["sampling"]["temperature"] == 0:
        raise UsageError(
            f"{samples} samples at temperature 0 would be {samples} times the same attempt",
            "give a temperature, say --temperature 0.7",
        )
    Account(price, budget, model_id=engine.model_id)  # a wrong budget is said before a folder is made
    told = {"samples": samples, "concurrency": engine.most_in_flight, **engine.told, **(asked or {})}
    jobs = [Job(task, sample, attempt_id(task, sample, shape)) for sample in range(samples) for task in tasks]
    with RunWriter(out, stage=stage, shape=shape, asked=told) as run, LiveAccuracy() as accuracy:
        account = Account(
            price, budget, run.usages, (row["usage"] for row in read_failures(out)), engine.model_id
        )
        return run_jobs(
            jobs,
            engine.attempt,
            run,
            concurrency=engine.most_in_flight,
            progress=progress or Silent(),
            stage=stage,
            account=account,
            in_flight_limit=engine.in_flight_limit,
            accuracy=accuracy,
        )
