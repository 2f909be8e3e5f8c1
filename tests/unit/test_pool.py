"""The loop under generate and eval: resume, retries, parking, stopping."""

from collections import Counter
from pathlib import Path

import pytest

from agentdistill.errors import SandboxError
from agentdistill.runs import RunWriter, attempt_id, read_failures, read_trajectories
from agentdistill.stages.pool import TRIES, Job, run_jobs
from agentdistill.stages.progress import Silent
from agentdistill.stages.spending import Meter
from agentdistill.types import StopReason, Task, Trajectory

SHAPE = {"model": "m"}


def jobs(n: int) -> list[Job]:
    tasks = [Task(f"t{i}", f"question {i}", "1") for i in range(n)]
    return [Job(task, 0, attempt_id(task, 0, SHAPE)) for task in tasks]


def done(job: Job, meter: Meter | None = None) -> Trajectory:
    return Trajectory(job.key, job.task, (), (), "1", StopReason.FINAL_ANSWER, "m")


def run(folder: Path, todo: list[Job], attempt: object, concurrency: int = 2) -> object:
    with RunWriter(folder, stage="generate", shape=SHAPE, asked={}) as writer:
        return run_jobs(
            todo,
            attempt,  # type: ignore[arg-type]
            writer,
            concurrency=concurrency,
            progress=Silent(),
            stage="generate",
        )


def test_finished_attempts_are_skipped(tmp_path: Path) -> None:
    made: list[str] = []

    def attempt(job: Job, meter: Meter) -> Trajectory:
        made.append(job.task.id)
        return done(job)

    run(tmp_path, jobs(3), attempt)
    found = run(tmp_path, jobs(5), attempt)
    assert (found.finished, found.skipped, found.parked) == (2, 3, 0)  # type: ignore[attr-defined]
    assert sorted(made) == ["t0", "t1", "t2", "t3", "t4"]
    assert len(list(read_trajectories(tmp_path))) == 5


def test_a_flaky_attempt_is_tried_again_and_a_broken_one_parked(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()

    def attempt(job: Job, meter: Meter) -> Trajectory:
        tries[job.task.id] += 1
        if job.task.id == "t1" or (job.task.id == "t2" and tries["t2"] == 1):
            raise SandboxError("lost")
        return done(job)

    found = run(tmp_path, jobs(4), attempt)
    assert (found.finished, found.parked) == (3, 1)  # type: ignore[attr-defined]
    assert tries["t1"] == TRIES
    assert tries["t2"] == 2
    assert {t.task.id for t in read_trajectories(tmp_path)} == {"t0", "t2", "t3"}
    assert Counter(row["task"] for row in read_failures(tmp_path)) == {"t1": TRIES, "t2": 1}
    # A parked attempt was never counted as finished: the next call tries it again.
    assert run(tmp_path, jobs(4), done).finished == 1  # type: ignore[attr-defined]


def test_a_run_in_which_nothing_works_stops(tmp_path: Path) -> None:
    tried: set[str] = set()

    def attempt(job: Job, meter: Meter) -> Trajectory:
        tried.add(job.task.id)
        raise SandboxError("no jail")

    with pytest.raises(SandboxError, match="no jail"):
        run(tmp_path, jobs(50), attempt)
    assert len(tried) < 50


def test_ctrl_c_keeps_what_is_in_flight(tmp_path: Path) -> None:
    import os
    import signal
    import threading

    both = threading.Barrier(2)

    def attempt(job: Job, meter: Meter) -> Trajectory:
        if job.task.id in ("t0", "t1"):
            both.wait(10)  # both are in flight when the signal comes
            if job.task.id == "t0":
                os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.3)
        return done(job)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, jobs(20), attempt)
    kept = {t.task.id for t in read_trajectories(tmp_path)}
    assert kept >= {"t0", "t1"}
    assert len(kept) < 20
    assert run(tmp_path, jobs(20), done).skipped == len(kept)  # type: ignore[attr-defined]
