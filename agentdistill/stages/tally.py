"""What a call of generate has done so far, as counts and as the few words beside the bar."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from agentdistill.errors import AgentDistillError
from agentdistill.grading import Grader
from agentdistill.types import Trajectory, Usage


class LiveAccuracy:
    """Grades attempts as they end, in a thread of its own: for the eye only, `grade` gives the verdicts.

    Guaranteed: an answer that is slow to grade holds nothing up; what cannot be graded is counted apart. Use
    as a context manager; what has not been graded at its end is left.
    """

    def __init__(self) -> None:
        self._grader = Grader()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="live-accuracy")
        self._lock = threading.Lock()
        self._graded = self._correct = self._ungraded = 0

    def add(self, trajectory: Trajectory) -> None:
        self._thread.submit(self._grade, trajectory)

    def words(self) -> str:
        """`accuracy 61 % of 40`, or nothing yet."""
        with self._lock:
            found = f"accuracy {self._correct / self._graded:.0%} of {self._graded}" if self._graded else ""
            missing = f"{self._ungraded} not graded" if self._ungraded else ""
        return ", ".join(filter(None, (found, missing)))

    def __enter__(self) -> LiveAccuracy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._grader.close()

    def _grade(self, trajectory: Trajectory) -> None:
        try:
            correct = self._grader.score(trajectory).correct
        except AgentDistillError:  # `grade` will meet it again, and say why
            with self._lock:
                self._ungraded += 1
            return
        with self._lock:
            self._graded += 1
            self._correct += correct


class Tally:
    """Counts of one call. Used by the thread that runs the pool."""

    def __init__(self, asked: int, skipped: int) -> None:
        self.asked = asked
        self.skipped = skipped
        self.finished = 0
        self.parked = 0
        self.failures: Counter[str] = Counter()
        """Failed tries by the class of their error."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def remaining(self) -> int:
        return self.asked - self.skipped - self.finished - self.parked

    def words(self, running: int, usage: Usage, accuracy: str) -> str:
        """What stands beside the bar. Tokens a second are those written in this call, by its seconds."""
        failed = ", ".join(f"{name} {count}" for name, count in sorted(self.failures.items()))
        parts = [
            f"{running} in flight" if running else "",
            accuracy,
            f"{usage.tokens_out / max(self.seconds, 0.001):.0f} tokens/s",
            f"${usage.usd:.4f}" if usage.usd is not None else "cost unknown",
            f"{self.skipped} were there" if self.skipped else "",
            f"failed tries: {failed}" if failed else "",
            f"{self.parked} parked" if self.parked else "",
        ]
        return ", ".join(part for part in parts if part)
