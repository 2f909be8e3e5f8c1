"""What chat asks of a session beside the Sandbox protocol: `merge` and `stop`, on every local backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from sandboxes import real_spec

from agentdistill.clients.sandbox import open_sandbox
from agentdistill.clients.session import MAX_TWINS, Session
from agentdistill.types import ErrorKind, Limits


@pytest.fixture(params=["bubblewrap", "landlock", "gateway", "process"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    with open_sandbox(real_spec(request.param), limits=Limits(seconds=30)) as opened:
        yield opened


def value(session: Session) -> object:
    return session.run(["x"])[0].value


def test_merged_steps_are_undone_together(session: Session) -> None:
    for number in range(4):
        session.run([f"x = {number}"])
    session.merge(3)
    session.undo(1)
    assert value(session) == 0


def test_merging_none_or_one_changes_nothing(session: Session) -> None:
    session.run(["x = 1"])
    session.run(["x = 2"])
    session.merge(0)
    session.merge(1)
    session.undo(1)
    assert value(session) == 1


def test_merging_more_than_is_held_keeps_the_last_state(session: Session) -> None:
    for number in range(MAX_TWINS + 4):
        session.run([f"x = {number}"])
    session.merge(MAX_TWINS + 4)
    assert value(session) == MAX_TWINS + 3
    with pytest.raises(ValueError, match="cannot be undone"):
        session.undo(2)


def test_merged_turns_are_held_as_many_as_there_are_states(session: Session) -> None:
    for turn in range(MAX_TWINS - 2):
        for _ in range(3):
            session.run([f"x = {turn}"])
        session.merge(3)
    session.undo(MAX_TWINS - 3)
    assert value(session) == 0


@pytest.mark.parametrize("count", [1, 3])
def test_code_is_stopped_from_another_thread(session: Session, count: int) -> None:
    session.run(["x = 1"])
    done = threading.Event()

    def stop() -> None:
        while not done.wait(0.1):
            session.stop()

    stopping = threading.Timer(0.5, stop)
    stopping.start()
    begun = time.monotonic()
    found = session.run([f"x = {number}\nwhile True: pass" for number in range(count)])
    done.set()
    stopping.join()
    assert time.monotonic() - begun < 15
    assert {one.error_kind for one in found} == {ErrorKind.DIED}
    assert value(session) == 1


def test_stopping_nothing_is_nothing(session: Session) -> None:
    session.run(["x = 1"])
    session.stop()
    assert value(session) == 1
    session.close()
    session.stop()
