"""Runs attempts over tasks side by side, storing each as it ends: the loop under generate and evaluate.

Guaranteed: attempts finished earlier are skipped; one that fails on infrastructure is tried up to TRIES
times, then parked in failures.jsonl and reported; when nothing but failures happens the run stops instead
of burning through the tasks. Ctrl-C starts nothing new, keeps what is in flight and raises
KeyboardInterrupt; a second one stops at once. Only the calling thread writes.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from agentdistill.errors import InfrastructureError
from agentdistill.runs import RunWriter
from agentdistill.stages.progress import Progress
from agentdistill.types import Task, Trajectory

TRIES = 3
"""Tries of one attempt in one call (DESIGN: after three failures an attempt is parked and reported)."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt to make."""

    task: Task
    sample: int
    key: str


@dataclass(frozen=True, slots=True)
class PoolResult:
    """What a call did: attempts finished now, skipped because they were there, and parked."""

    finished: int
    skipped: int
    parked: int
    seconds: float


def run_jobs(
    jobs: Iterable[Job],
    attempt: Callable[[Job], Trajectory],
    run: RunWriter,
    *,
    concurrency: int,
    progress: Progress,
    stage: str,
) -> PoolResult:
    """Make all attempts that the RUN does not hold yet.

    Raises the last InfrastructureError when no attempt of this call succeeded and the first ones were all
    parked, RunDirectoryError when the RUN cannot be written, KeyboardInterrupt on Ctrl-C.
    """
    listed = list(jobs)
    waiting = deque((job, 1) for job in listed if job.key not in run.finished)
    skipped = len(listed) - len(waiting)
    finished = parked = 0
    started = time.monotonic()
    running: dict[Future[Trajectory], tuple[Job, int]] = {}
    progress.begin(stage, len(listed))
    progress.update(skipped, "resumed" if skipped else "")
    stopping, restore = _stop_on_ctrl_c(progress)
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix=stage)

    def store(future: Future[Trajectory]) -> None:
        nonlocal finished, parked
        job, tries = running.pop(future)
        try:
            trajectory = future.result()
        except InfrastructureError as error:
            run.append_failure(job.key, job.task, error, tries)
            if tries < TRIES:
                waiting.appendleft((job, tries + 1))  # at once: a broken jail shows soon
                return
            parked += 1
            progress.message(f"parked {job.task.id} after {tries} tries: {error}")
            if (not finished and parked >= max(2, concurrency)) or (parked == len(listed) - skipped):
                raise
        else:
            run.append(trajectory)
            finished += 1
        progress.update(skipped + finished + parked, f"{parked} parked" if parked else "")

    try:
        while running or (waiting and not stopping.is_set()):
            while waiting and len(running) < concurrency and not stopping.is_set():
                job, tries = waiting.popleft()
                running[pool.submit(attempt, job)] = (job, tries)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                store(future)
        if stopping.is_set():
            raise KeyboardInterrupt
    finally:
        restore()
        pool.shutdown(wait=False, cancel_futures=True)
        progress.end()
    return PoolResult(finished, skipped, parked, time.monotonic() - started)


def _stop_on_ctrl_c(progress: Progress) -> tuple[threading.Event, Callable[[], None]]:
    """An event that the first Ctrl-C sets, and what puts the old handler back.

    A flag and no exception, because KeyboardInterrupt between a write and its bookkeeping would lose a
    finished attempt. Outside the main thread no handler can be set: there Ctrl-C is the caller's affair.
    """
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        return stopping, lambda: None
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: object) -> None:
        if stopping.is_set():
            os._exit(130)  # the second Ctrl-C: at once; what is stored is stored
        stopping.set()
        progress.message("stopping: attempts in flight are finished first (Ctrl-C again: at once)")

    signal.signal(signal.SIGINT, stop)

    def restore() -> None:
        signal.signal(signal.SIGINT, before)

    return stopping, restore
