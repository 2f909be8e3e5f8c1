"""Teacher trajectories: tasks in, RUN out. Resumes by itself: give the same command again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentdistill.clients.sandbox import SandboxPool, resolve
from agentdistill.grading import Grader
from agentdistill.models.base import BaseModel
from agentdistill.runs import RunWriter, attempt_id
from agentdistill.stages.attempt import AttemptSettings, run_attempt
from agentdistill.stages.pool import Job, PoolResult, run_jobs
from agentdistill.stages.progress import Progress, Silent
from agentdistill.types import Json, Task, Trajectory

MAX_WARM = 4  # jails waiting; a model takes longer for a step than a jail for its start


def generate(
    tasks: Sequence[Task],
    out: Path,
    model: BaseModel,
    settings: AttemptSettings,
    *,
    samples: int = 1,
    concurrency: int = 4,
    asked: dict[str, Json] | None = None,
    progress: Progress | None = None,
    stage: str = "generate",
) -> PoolResult:
    """`samples` attempts at every task by an agent of `model`, stored in the RUN `out`.

    Raises RunMismatchError when `out` was made with other settings, SandboxError when no jail can be made,
    and what `run_jobs` raises.
    """
    sandbox = resolve(settings.sandbox)  # no jail, no run: said before the first task
    shape = {"model": model.fingerprint(), **settings.shape()}
    told = {"sandbox": sandbox, "samples": samples, "concurrency": concurrency, **(asked or {})}
    jobs = [Job(task, sample, attempt_id(task, sample, shape)) for sample in range(samples) for task in tasks]
    with (
        RunWriter(out, stage=stage, shape=shape, asked=told) as run,
        Grader() as grader,
        SandboxPool(sandbox, limits=settings.limits, size=min(concurrency, MAX_WARM)) as sandboxes,
    ):

        def attempt(job: Job) -> Trajectory:
            return run_attempt(job.task, job.sample, job.key, model, settings, grader, sandboxes.open)

        return run_jobs(
            jobs, attempt, run, concurrency=concurrency, progress=progress or Silent(), stage=stage
        )
