"""What forks carry with them, tools that never answer, preloaded modules, and the warm pool."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from agentdistill.clients.sandbox import SandboxPool, open_sandbox
from agentdistill.errors import SandboxError
from agentdistill.types import ErrorKind, Limits, Sandbox, SandboxTool

LIMITS = Limits(seconds=5, folder_mb=1)
LATE = """
import threading, time
def later():
    global said
    time.sleep(0.2)
    try:
        ask('late')
    except Exception as problem:
        said = str(problem)
threading.Thread(target=later).start()
"""


@pytest.fixture(params=["bubblewrap", "process"])
def session(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    never = threading.Event()
    tools = [SandboxTool("never", lambda: never.wait(20), seconds=0.3)]
    opened = open_sandbox(request.param, limits=LIMITS, tools=tools)
    yield opened
    never.set()
    opened.close()


def test_a_file_without_a_name_is_copied_for_every_candidate(session: Sandbox) -> None:
    session.run(["import tempfile\nf = tempfile.TemporaryFile('w+')\n_ = f.write('start')\nf.flush()"])
    results = session.run([f"_ = f.write({name!r})\nf.seek(0)\nf.read()" for name in ("A", "BB")])
    assert [result.value for result in results] == ["startA", "startBB"]
    session.keep(1)
    assert session.run(["f.seek(0)\nf.read()"])[0].value == "startBB"
    session.undo(2)
    assert session.run(["f.seek(0)\nf.read()"])[0].value == "start"


def test_an_open_file_that_cannot_be_copied_fails_the_candidate_clearly(session: Sandbox) -> None:
    session.run(["import os\nfd = os.open('w', os.O_WRONLY | os.O_CREAT)\nos.unlink('w')"])
    for result in session.run(["ran = True", "ran = True"]):
        assert result.error_kind is ErrorKind.EXCEPTION
        assert "an open file could not be copied" in (result.error or "") and "close it" in result.error
    session.run(["os.close(fd)"])
    assert [result.error for result in session.run(["ran", "2"])][1] is None


def test_a_tool_that_never_answers_is_not_waited_for_forever(session: Sandbox) -> None:
    started = time.monotonic()
    [result] = session.run(["try:\n    never()\nexcept Exception as problem:\n    print(problem)\n1 + 1"])
    assert result.logs == "TimeoutError: never did not answer within 0.3 s\n" and result.value == 2
    assert time.monotonic() - started < 3
    assert result.tool_calls[0].error == "no answer yet"


def test_a_call_between_two_steps_is_no_affair_of_the_next() -> None:
    """A thread of an earlier step calls while nothing runs; the next step is sent before that is heard."""
    asked: list[str] = []
    tools = [SandboxTool("ask", lambda what: asked.append(what), ("what",))]
    with open_sandbox("bubblewrap", limits=LIMITS, tools=tools) as session:
        assert session.run([LATE])[0].error is None
        time.sleep(0.5)
        [result] = session.run(["ask('now')\ntime.sleep(0.1)\nsaid"])
        assert asked == ["now"] and len(result.tool_calls) == 1
        assert result.value == "the step is over"


def test_an_interpreter_that_dies_between_two_steps_costs_the_next_nothing() -> None:
    """It is told of the step when it is dead; the step runs once, in what takes its place."""
    asked: list[int] = []
    tools = [SandboxTool("ask", lambda what: asked.append(what), ("what",))]
    with open_sandbox("bubblewrap", limits=LIMITS, tools=tools) as session:
        for number in range(3):
            session.run(["import os, threading\nx = 7\nthreading.Timer(0.2, os._exit, (1,)).start()"])
            time.sleep(0.5)
            [result] = session.run([f"ask({number})\nx"])
            assert (result.value, result.error) == (7, None)
        assert asked == [0, 1, 2]


def test_older_states_make_room_for_newer_ones() -> None:
    with open_sandbox("bubblewrap", limits=LIMITS) as session:  # four times 1 MB for all folders
        for number in range(8):
            code = (
                f"with open('file', 'w') as file:\n    _ = file.write(str({number}) * 900_000)\nx = {number}"
            )
            assert session.run([code])[0].error is None
        look = "open('file').read(1), x"
        session.undo(1)
        assert session.run([look])[0].value == ("6", 6)
        with pytest.raises(ValueError):
            session.undo(7)


def test_preloaded_modules_are_there_before_the_first_step() -> None:
    with open_sandbox("bubblewrap", preload=("fractions",)) as session:
        assert session.run(["import sys\n'fractions' in sys.modules, 'numpy' in sys.modules"])[0].value == (
            True,
            False,
        )
    with pytest.raises(SandboxError, match="no_such_module cannot be preloaded"):
        open_sandbox("bubblewrap", preload=("no_such_module",))


def test_a_pool_gives_every_session_a_jail_of_its_own() -> None:
    tool = SandboxTool("double", lambda n: 2 * n, ("n",))
    with SandboxPool("bubblewrap", limits=LIMITS, size=2) as pool:
        first, second = pool.open([tool]), pool.open()
        with first, second:
            first.run(["x = 1\nopen('f', 'w').write('1')"])
            assert first.run(["double(x)"])[0].value == 2
            assert second.run(["import os\nos.listdir(), 'x' in globals(), 'double' in globals()"])[
                0
            ].value == (
                [],
                False,
                False,
            )
        with pool.open() as third:
            assert third.run(["'x' in globals()"])[0].value is False
            pool.close()
            assert third.run(["2"])[0].value == 2  # what was opened outlives the pool


def test_a_pool_passes_over_jails_that_have_died() -> None:
    with SandboxPool("bubblewrap", limits=LIMITS, size=1) as pool:
        pool._waiting[0].result().close()
        with pool.open() as session:
            assert session.run(["3"])[0].value == 3
