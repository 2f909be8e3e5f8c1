"""The loop under generate and eval: resume, retries, parking, stopping."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentdistill.errors import ModelBusyError, SandboxError
from agentdistill.runs import RunWriter, attempt_id, read_failures, read_trajectories
from agentdistill.stages.pool import TRIES, Job, PoolResult, run_jobs
from agentdistill.stages.progress import Silent
from agentdistill.stages.spending import Account, Budget, Meter
from agentdistill.types import Completion, StopReason, Task, Trajectory

SHAPE = {"model": "m"}


def jobs(n: int) -> list[Job]:
    tasks = [Task(f"t{i}", f"question {i}", "1") for i in range(n)]
    return [Job(task, 0, attempt_id(task, 0, SHAPE)) for task in tasks]


def done(job: Job, meter: Meter | None = None) -> Trajectory:
    return Trajectory(job.key, job.task, (), (), "1", StopReason.FINAL_ANSWER, "m")


def run(folder: Path, todo: list[Job], attempt: object, concurrency: int = 2, **more: Any) -> PoolResult:
    with RunWriter(folder, stage="generate", shape=SHAPE, asked={}) as writer:
        return run_jobs(
            todo,
            attempt,  # type: ignore[arg-type]
            writer,
            concurrency=concurrency,
            progress=Silent(),
            stage="generate",
            **more,
        )


def test_finished_attempts_are_skipped(tmp_path: Path) -> None:
    made: list[str] = []

    def attempt(job: Job, meter: Meter) -> Trajectory:
        made.append(job.task.id)
        return done(job)

    run(tmp_path, jobs(3), attempt)
    found = run(tmp_path, jobs(5), attempt)
    assert (found.finished, found.skipped, found.parked) == (2, 3, 0)
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
    assert (found.finished, found.parked) == (3, 1)
    assert tries["t1"] == TRIES
    assert tries["t2"] == 2
    assert {t.task.id for t in read_trajectories(tmp_path)} == {"t0", "t2", "t3"}
    assert Counter(row["task"] for row in read_failures(tmp_path)) == {"t1": TRIES, "t2": 1}
    # A parked attempt was never counted as finished: the next call tries it again.
    assert run(tmp_path, jobs(4), done).finished == 1


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
    assert run(tmp_path, jobs(20), done).skipped == len(kept)


def test_attempts_in_flight_follow_the_models_limit(tmp_path: Path) -> None:
    limit, running, most = 1, 0, {1: 0, 3: 0}
    lock = threading.Lock()

    def attempt(job: Job, meter: Meter) -> Trajectory:
        nonlocal running, limit
        with lock:
            running += 1
            most[limit] = max(most[limit], running)
        time.sleep(0.02)
        with lock:
            running -= 1
            if job.task.id == "t4":
                limit = 3
        return done(job)

    run(tmp_path, jobs(20), attempt, 8, in_flight_limit=lambda: limit)
    assert most == {1: 1, 3: 3}


def test_an_attempt_that_was_turned_away_waits_and_the_others_go_on(tmp_path: Path) -> None:
    begun: dict[str, list[float]] = {}

    def attempt(job: Job, meter: Meter) -> Trajectory:
        begun.setdefault(job.task.id, []).append(time.monotonic())
        if job.task.id == "t0" and len(begun["t0"]) < 3:
            raise ModelBusyError("busy", retry_after=0.6)
        return done(job)

    found = run(tmp_path, jobs(10), attempt, 1)
    assert (found.finished, found.parked, found.failures) == (10, 0, {"ModelBusyError": 2})
    first, second, third = begun["t0"]
    assert second - first >= 0.6 and third - second >= 0.6
    assert max(times[0] for name, times in begun.items() if name != "t0") < second


def spending(job: Job, meter: Meter) -> Trajectory:
    meter.count([Completion("", tokens_in=90, tokens_out=10)])
    made = done(job)
    return Trajectory(**{**{name: getattr(made, name) for name in made.__slots__}, "usage": meter.usage()})


def test_a_budget_stops_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    found = run(tmp_path, jobs(20), spending, 4, account=Account(None, Budget(tokens=750)))
    assert (found.finished, found.remaining) == (7, 13)
    assert found.run_usage.tokens_in + found.run_usage.tokens_out == 700
    with RunWriter(tmp_path, stage="generate", shape=SHAPE, asked={}) as writer:
        stored = writer.usages
    again = Account(None, Budget(tokens=1250), stored)
    found = run(tmp_path, jobs(20), spending, 4, account=again)
    assert (found.finished, found.skipped, found.remaining) == (5, 7, 8)
    assert found.usage.tokens_in == 450 and found.run_usage.tokens_in == 1080


def test_what_failed_tries_cost_is_written_down(tmp_path: Path) -> None:
    def attempt(job: Job, meter: Meter) -> Trajectory:
        meter.count([Completion("", tokens_in=7, tokens_out=3)])
        if job.task.id == "t0":
            raise SandboxError("lost")
        return done(job)

    found = run(tmp_path, jobs(2), attempt)
    assert [row["usage"].tokens_in for row in read_failures(tmp_path)] == [7, 7, 7]
    assert found.usage.tokens_in == 21  # `done` says that its attempt cost nothing


def test_what_ended_together_with_a_bug_is_stored(tmp_path: Path) -> None:
    together = threading.Barrier(2)

    def attempt(job: Job, meter: Meter) -> Trajectory:
        together.wait(10)
        if job.task.id == "t1":
            time.sleep(0.2)
            raise ZeroDivisionError("a bug")
        return done(job)

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, jobs(2), attempt)
    assert [t.task.id for t in read_trajectories(tmp_path)] == ["t0"]
