"""Teacher trajectories: tasks in, RUN out. Resumes by itself: give the same command again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agentdistill.clients.sandbox import SandboxPool, resolve
from agentdistill.errors import UsageError
from agentdistill.grading import Grader
from agentdistill.models.base import BaseModel
from agentdistill.runs import RunWriter, attempt_id, read_failures, read_trajectories
from agentdistill.stages.attempt import AttemptSettings, run_attempt
from agentdistill.stages.baseline import ChainOfThought, answer_by_thinking
from agentdistill.stages.pool import Job, PoolResult, run_jobs
from agentdistill.stages.progress import Progress, Silent
from agentdistill.stages.spending import Account, Budget, Meter, Price
from agentdistill.stages.tally import LiveAccuracy
from agentdistill.stages.thoughts import FirstThoughts
from agentdistill.types import FirstThought, Json, Task, Trajectory

MAX_WARM = 4  # jails waiting; a model takes longer for a step than a jail for its start


def generate(
    tasks: Sequence[Task],
    out: Path,
    model: BaseModel,
    settings: AttemptSettings,
    *,
    samples: int = 1,
    concurrency: int = 4,
    price: Price | None = None,
    budget: Budget | None = None,
    asked: dict[str, Json] | None = None,
    progress: Progress | None = None,
    stage: str = "generate",
) -> PoolResult:
    """`samples` attempts at every task by an agent of `model`, stored in the RUN `out`.

    Raises UsageError when the samples would all be the same or a budget cannot be kept, RunMismatchError when
    `out` was made with other settings, SandboxError when no jail can be made, and what `run_jobs` raises.
    """
    _check_samples(samples, settings.sampling.temperature)
    sandbox = resolve(settings.sandbox)  # no jail, no run: said before the first task
    with (
        Grader() as grader,
        SandboxPool(sandbox, limits=settings.limits, size=min(concurrency, MAX_WARM)) as sandboxes,
    ):
        thoughts = FirstThoughts(settings, grader, _drawn_before(out, tasks) if samples > 1 else {})

        def attempt(job: Job, meter: Meter) -> Trajectory:
            return run_attempt(
                job.task, job.sample, job.key, model, settings, thoughts, sandboxes.open, meter
            )

        return store_attempts(
            tasks,
            out,
            model,
            settings.shape(),
            attempt,
            samples=samples,
            concurrency=concurrency,
            price=price,
            budget=budget,
            asked={"sandbox": sandbox, **(asked or {})},
            progress=progress,
            stage=stage,
        )


def store_attempts(
    tasks: Sequence[Task],
    out: Path,
    model: BaseModel,
    shape: Mapping[str, Json],
    attempt: Callable[[Job, Meter], Trajectory],
    *,
    samples: int,
    concurrency: int,
    price: Price | None,
    budget: Budget | None,
    asked: dict[str, Json],
    progress: Progress | None,
    stage: str,
) -> PoolResult:
    """`samples` attempts of any kind at every task, stored in the RUN `out`. `shape` is all that shapes them,
    but the model. Raises as `generate` does."""
    Account(price, budget, model_id=model.model_id)  # a wrong budget is said before a folder is made
    shape = {"model": model.fingerprint(), **shape}
    told = {"samples": samples, "concurrency": concurrency, **asked}
    jobs = [Job(task, sample, attempt_id(task, sample, shape)) for sample in range(samples) for task in tasks]
    with RunWriter(out, stage=stage, shape=shape, asked=told) as run, LiveAccuracy() as accuracy:
        account = Account(
            price, budget, run.usages, (row["usage"] for row in read_failures(out)), model.model_id
        )
        return run_jobs(
            jobs,
            attempt,
            run,
            concurrency=concurrency,
            progress=progress or Silent(),
            stage=stage,
            account=account,
            in_flight_limit=lambda: model.in_flight_limit,
            accuracy=accuracy,
        )


def think(
    tasks: Sequence[Task],
    out: Path,
    model: BaseModel,
    settings: ChainOfThought,
    *,
    samples: int = 1,
    concurrency: int = 4,
    price: Price | None = None,
    budget: Budget | None = None,
    asked: dict[str, Json] | None = None,
    progress: Progress | None = None,
    stage: str = "generate",
) -> PoolResult:
    """As `generate`, by plain chains of thought instead of an agent: the baselines (`stages/baseline.py`)."""
    _check_samples(samples, settings.sampling.temperature)

    def attempt(job: Job, meter: Meter) -> Trajectory:
        return answer_by_thinking(job.task, job.sample, job.key, model, settings, meter)

    return store_attempts(
        tasks,
        out,
        model,
        settings.shape(),
        attempt,
        samples=samples,
        concurrency=concurrency,
        price=price,
        budget=budget,
        asked=asked or {},
        progress=progress,
        stage=stage,
    )


def _check_samples(samples: int, temperature: float) -> None:
    if samples > 1 and temperature == 0:
        raise UsageError(
            f"{samples} samples at temperature 0 would be {samples} times the same attempt",
            "give a temperature, say --temperature 0.7",
        )


def _drawn_before(out: Path, tasks: Sequence[Task]) -> dict[str, FirstThought]:
    """The first thoughts of these tasks that stored attempts hold."""
    if not (out / "run.json").exists():
        return {}
    questions = {task.id: task.question for task in tasks}
    return {
        stored.task.id: replace(stored.first_thought, prefill="")
        for stored in read_trajectories(out)
        if questions.get(stored.task.id) == stored.task.question
    }
