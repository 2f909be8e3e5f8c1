"""Runs attempts over tasks side by side, storing each as it ends: the loop under generate and evaluate.

Guaranteed: attempts finished earlier are skipped; one that fails on infrastructure is tried up to TRIES
times, then parked in failures.jsonl and reported; when nothing but failures happens the run stops instead of
burning through the tasks. As many run side by side as asked for, or as the model says is of use, whichever is
less, from moment to moment. An attempt that a busy endpoint has turned away waits before it is tried again;
others go on meanwhile. Beyond the budget nothing is started, and what is in flight is finished. Ctrl-C starts
nothing new, keeps what is in flight and raises KeyboardInterrupt; a second one stops at once. Only the
calling thread writes.
"""

from __future__ import annotations

import heapq
import itertools
import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from agentdistill.errors import InfrastructureError, ModelBusyError
from agentdistill.stages.progress import Progress
from agentdistill.stages.spending import Account, Meter
from agentdistill.stages.tally import Tally
from agentdistill.types import Task, Usage

TRIES = 3
"""Tries of one attempt in one call (DESIGN: after three failures an attempt is parked and reported)."""
HOPELESS = 8
"""Attempts parked without one that has finished, after which a call with more in flight than that gives
up."""
BUSY_SECONDS = 10.0
"""What an attempt waits after a busy endpoint's refusal, times its tries, where the endpoint named no time.
The model has already waited through its own retries."""
BUSY_LONGEST = 600.0
"""The longest such wait, whatever the endpoint names."""
TICK = 0.5
"""How often, in seconds, the pool tells how far it is, and looks up though nothing has ended: the model's
limit may have grown."""


class Made(Protocol):
    """What a job makes: a Trajectory, or another record that knows what it has cost."""

    @property
    def usage(self) -> Usage: ...


_M = TypeVar("_M", bound=Made)
_C = TypeVar("_C", bound=Made, contravariant=True)


class Store(Protocol[_C]):
    """Where it goes, and the keys of what is there already: a RunWriter, for one."""

    finished: set[str]

    def append(self, *made: _C) -> None: ...

    def append_failure(
        self, key: str, task: Task, error: BaseException, tries: int, usage: Usage | None = None
    ) -> None: ...


class Accuracy(Protocol[_C]):
    """Told of what was made, and asked for a few words on it: a LiveAccuracy."""

    def add(self, made: _C) -> None: ...

    def words(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt to make."""

    task: Task
    sample: int
    key: str


@dataclass(frozen=True, slots=True)
class PoolResult:
    """What a call did: attempts finished now, skipped because they were there, and parked.

    `remaining` are those it did not come to because of the budget. `usage` is this call's, failed tries
    included, `run_usage` the RUN's; their `seconds` are summed over attempts. `failures` are failed tries by
    the class of their error.
    """

    finished: int
    skipped: int
    parked: int
    remaining: int
    seconds: float
    usage: Usage
    run_usage: Usage
    failures: dict[str, int]


@dataclass(order=True, slots=True)
class _Waiting:
    """An attempt that is due at a moment (of time.monotonic), and its try."""

    due: float
    number: int
    job: Job = field(compare=False)
    tries: int = field(compare=False)


def run_jobs(
    jobs: Iterable[Job],
    attempt: Callable[[Job, Meter], _M],
    run: Store[_M],
    *,
    concurrency: int,
    progress: Progress,
    stage: str,
    account: Account | None = None,
    in_flight_limit: Callable[[], int | None] = lambda: None,
    accuracy: Accuracy[_M] | None = None,
) -> PoolResult:
    """Make all attempts that the RUN does not hold yet.

    Raises the last InfrastructureError when no attempt of this call succeeded and the first ones were all
    parked, RunDirectoryError when the RUN cannot be written, UsageError when a budget cannot be kept,
    KeyboardInterrupt on Ctrl-C.
    """
    listed = list(jobs)
    todo = [job for job in listed if job.key not in run.finished]
    tally = Tally(len(listed), len(listed) - len(todo))
    account = account or Account()
    pool = _Pool(todo, attempt, run, concurrency, progress, account, in_flight_limit, tally, accuracy)
    progress.begin(stage, len(listed))
    stopping, restore = _stop_on_ctrl_c(progress)
    try:
        pool.tell()
        pool.run(stopping, stage)
        pool.tell()
        if stopping.is_set():
            raise KeyboardInterrupt
    finally:
        restore()
        progress.end()
    return PoolResult(
        finished=tally.finished,
        skipped=tally.skipped,
        parked=tally.parked,
        remaining=tally.remaining,
        seconds=round(tally.seconds, 3),
        usage=account.call,
        run_usage=account.run,
        failures=dict(tally.failures),
    )


class _Pool(Generic[_M]):
    """The state of one call: what waits, what runs, what has ended."""

    def __init__(
        self,
        todo: Iterable[Job],
        attempt: Callable[[Job, Meter], _M],
        run: Store[_M],
        concurrency: int,
        progress: Progress,
        account: Account,
        in_flight_limit: Callable[[], int | None],
        tally: Tally,
        accuracy: Accuracy[_M] | None,
    ) -> None:
        self.waiting = deque((job, 1) for job in todo)
        self.later: list[_Waiting] = []
        self.running: dict[Future[_M], tuple[Job, int, Meter]] = {}
        self.ended: queue.SimpleQueue[Future[_M]] = queue.SimpleQueue()
        self.attempt = attempt
        self.writer = run
        self.concurrency = concurrency
        self.progress = progress
        self.account = account
        self.in_flight_limit = in_flight_limit
        self.tally = tally
        self.accuracy = accuracy
        self.numbers = itertools.count()
        self.told = 0.0

    def run(self, stopping: threading.Event, stage: str) -> None:
        threads = ThreadPoolExecutor(self.concurrency, thread_name_prefix=stage)
        try:
            while not stopping.is_set() or self.running:
                if not stopping.is_set():
                    self._start(threads)
                if not self.running and (not self.later or self.waiting or stopping.is_set()):
                    return  # all done, or the budget lets nothing start
                self._store(self._ended())
                if time.monotonic() - self.told >= TICK:
                    self.tell()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, threads: ThreadPoolExecutor) -> None:
        """Start what may run now."""
        now = time.monotonic()
        while self.later and self.later[0].due <= now:
            ready = heapq.heappop(self.later)
            self.waiting.appendleft((ready.job, ready.tries))
        limit = min(self.concurrency, self.in_flight_limit() or self.concurrency)
        while self.waiting and len(self.running) < limit and self.account.affords_another():
            job, tries = self.waiting.popleft()
            meter = self.account.open()
            future = threads.submit(self.attempt, job, meter)
            self.running[future] = (job, tries, meter)
            future.add_done_callback(self.ended.put)

    def _ended(self) -> list[Future[_M]]:
        """What has ended, in order; waits for it, but no longer than a TICK."""
        ended: list[Future[_M]] = []
        try:
            ended.append(self.ended.get(timeout=TICK))
            while True:
                ended.append(self.ended.get_nowait())
        except queue.Empty:
            return ended

    def _store(self, ended: list[Future[_M]]) -> None:
        """Store what has finished, all of it before a failure can end the call."""
        done = [(future, *self.running.pop(future)) for future in ended]
        made = [future.result() for future, *_ in done if future.exception() is None]
        if made:
            self.writer.append(*made)
        for future, job, tries, meter in done:
            error = future.exception()
            if error is None:
                found = future.result()
                self.tally.finished += 1
                if self.accuracy is not None:
                    self.accuracy.add(found)
                self.account.settle(meter, found.usage, finished=True)
            elif isinstance(error, InfrastructureError):
                self._failed(job, tries, meter, error)
            else:
                raise error

    def _failed(self, job: Job, tries: int, meter: Meter, error: InfrastructureError) -> None:
        usage = meter.usage()
        self.writer.append_failure(job.key, job.task, error, tries, usage)
        self.account.settle(meter, usage, finished=False)
        self.tally.failures[type(error).__name__] += 1
        if tries < TRIES:
            # At once where nothing is busy: a broken jail shows soon.
            wait = _busy_seconds(error, tries) if isinstance(error, ModelBusyError) else 0.0
            due = time.monotonic() + wait
            heapq.heappush(self.later, _Waiting(due, next(self.numbers), job, tries + 1))
            return
        self.tally.parked += 1
        self.progress.message(f"parked {job.task.id} after {tries} tries: {error}")
        hopeless = max(2, min(self.concurrency, HOPELESS))
        if not self.tally.finished and (self.tally.parked >= hopeless or not self.tally.remaining):
            raise error

    def tell(self) -> None:
        self.told = time.monotonic()
        tally = self.tally
        accuracy = self.accuracy.words() if self.accuracy else ""
        words = tally.words(len(self.running), self.account.now(), accuracy)
        self.progress.update(tally.skipped + tally.finished + tally.parked, words)


def _busy_seconds(error: ModelBusyError, tries: int) -> float:
    asked = BUSY_SECONDS * tries if error.retry_after is None else error.retry_after
    return min(asked, BUSY_LONGEST)


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
