"""Calls in flight: how the limit grows, when it is cut, and what waits."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from agentdistill.models.limiter import START, InFlightLimiter


def answered(limiter: InFlightLimiter, calls: int) -> None:
    for _ in range(calls):
        with limiter.call() as call:
            call.answered_in_time = True


def refuse_together(limiter: InFlightLimiter, calls: int) -> None:
    """`calls` in flight at once, all of them turned away."""
    with ExitStack() as stack:
        for _ in range(calls):
            stack.enter_context(limiter.call()).refused = True


def test_it_doubles_in_the_time_of_one_answer_until_something_is_refused() -> None:
    limiter = InFlightLimiter(1000)
    assert limiter.limit == START
    answered(limiter, START)
    assert limiter.limit == 2 * START


def test_it_never_grows_beyond_the_ceiling() -> None:
    limiter = InFlightLimiter(20)
    answered(limiter, 100)
    assert limiter.limit == 20
    assert InFlightLimiter(3).limit == 3


def test_a_burst_of_refusals_halves_it_once_and_a_second_burst_once_more() -> None:
    limiter = InFlightLimiter(64)
    answered(limiter, 48)
    refuse_together(limiter, 64)
    assert limiter.limit == 32
    refuse_together(limiter, 32)
    assert limiter.limit == 16


def test_half_of_what_was_in_flight_counts_where_the_limit_was_not_reached() -> None:
    limiter = InFlightLimiter(256)
    answered(limiter, 240)
    refuse_together(limiter, 40)
    assert limiter.limit == 20


def test_it_never_falls_below_one() -> None:
    limiter = InFlightLimiter(4)
    for _ in range(10):
        refuse_together(limiter, 1)
    assert limiter.limit == 1


def test_after_a_refusal_it_grows_by_one_in_the_time_of_one_answer() -> None:
    limiter = InFlightLimiter(64)
    answered(limiter, 48)
    refuse_together(limiter, 64)
    answered(limiter, 32)
    assert limiter.limit in (32, 33)
    answered(limiter, 33)
    assert limiter.limit in (33, 34)


def test_a_call_that_is_neither_answered_in_time_nor_refused_says_nothing() -> None:
    limiter = InFlightLimiter(64)
    with pytest.raises(ZeroDivisionError), limiter.call():
        raise ZeroDivisionError
    assert limiter.limit == START


def test_no_more_calls_than_the_limit_are_in_flight_and_all_get_their_turn() -> None:
    limiter = InFlightLimiter(3)
    in_flight = most = done = 0
    lock = threading.Lock()

    def call() -> None:
        nonlocal in_flight, most, done
        with limiter.call():
            with lock:
                in_flight += 1
                most = max(most, in_flight)
            time.sleep(0.005)
            with lock:
                in_flight -= 1
                done += 1

    threads = [threading.Thread(target=call) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (done, most) == (24, 3)


def test_a_pause_holds_back_all_calls_that_have_not_begun() -> None:
    limiter = InFlightLimiter(8)
    limiter.pause(0.3)
    limiter.pause(0.01)
    began = time.monotonic()
    threads = [threading.Thread(target=answered, args=(limiter, 1)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert 0.29 <= time.monotonic() - began < 5
