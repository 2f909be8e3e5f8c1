"""How many calls an endpoint is given at once: as many as it answers in time, found by trying.

Guaranteed: never more calls in flight than the limit, which stays between 1 and `ceiling`; the limit grows
with every call that is answered in time, at first by one a call (it doubles in the time of one answer), after
the first refusal by one in the time of one answer; it is halved when calls are turned away or come too late,
once for all calls that were in flight together; a Retry-After holds back all calls. Not guaranteed: fairness
between waiting calls. No library in good care does this for threads (urllib3 and tenacity neither), hence own
code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

START = 16
"""Calls in flight before anything is known of an endpoint."""


@dataclass
class Call:
    """One call in flight. `refused` is set by whoever learns that the endpoint turned it away or took
    too long."""

    begun: float
    refused: bool = False
    answered_in_time: bool = False


class InFlightLimiter:
    """The calls in flight to one endpoint. Safe for threads."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = max(1, ceiling)
        self._limit = float(min(START, self.ceiling))
        self._in_flight = 0
        self._paused_until = 0.0
        self._cut_at = float("-inf")
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        return int(self._limit)

    @contextmanager
    def call(self) -> Iterator[Call]:
        """Waits for room, holds it while the block runs, and learns from what the block sets on the Call."""
        with self._changed:
            while (pause := self._paused_until - time.monotonic()) > 0 or self._in_flight >= self.limit:
                self._changed.wait(pause if pause > 0 else None)
            self._in_flight += 1
        call = Call(time.monotonic())
        try:
            yield call
        finally:
            with self._changed:
                self._learn(call)
                self._in_flight -= 1
                self._changed.notify(max(1, self.limit - self._in_flight))

    def pause(self, seconds: float) -> None:
        """No call begins for that long. A shorter pause does not end a longer one."""
        with self._changed:
            self._paused_until = max(self._paused_until, time.monotonic() + seconds)

    def _learn(self, call: Call) -> None:
        if call.refused and call.begun > self._cut_at:
            # The limit may have grown far beyond what was in use: half of what was too much counts.
            self._limit = max(1.0, min(self.limit, self._in_flight) / 2)
            self._cut_at = time.monotonic()
        elif call.answered_in_time:
            never_cut = self._cut_at == float("-inf")
            self._limit = min(float(self.ceiling), self._limit + (1.0 if never_cut else 1.0 / self._limit))
