"""RUN directories: nothing finished is lost, nothing is stored twice, every damage is one clear error."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdistill import runs
from agentdistill.errors import AgentDistillError, RunDirectoryError, RunMismatchError
from agentdistill.runs import (
    RunWriter,
    attempt_id,
    read_failures,
    read_scores,
    read_trajectories,
    write_atomic,
)
from agentdistill.types import (
    Candidate,
    ErrorKind,
    Execution,
    FirstThought,
    Message,
    Opaque,
    Score,
    Step,
    StopReason,
    Task,
    TaskKind,
    ThoughtStatus,
    ToolCall,
    Trajectory,
    Usage,
    to_json,
)

SHAPE = {"model": {"sha256": "ab"}, "max_steps": 5}
TASK = Task("t1", "1 + 1?", "2")


def writer(folder: Path, stage: str = "generate", **changed: Any) -> RunWriter:
    return RunWriter(folder, stage=stage, shape={**SHAPE, **changed}, asked={"limit": 4})


def attempt(key: str, thought: str = "Add.") -> Trajectory:
    messages: tuple[Message, ...] = ({"role": "user", "content": TASK.question},)
    step = Step(thought, "print(1 + 1)", "2")
    return Trajectory(key, TASK, messages, (step,), "2", StopReason.FINAL_ANSWER, "scripted")


def stored(folder: Path) -> list[str]:
    return [trajectory.id for trajectory in read_trajectories(folder)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A RUN with the attempts a, b and c."""
    folder = tmp_path / "run"
    with writer(folder) as out:
        for key in "abc":
            out.append(attempt(key))
    return folder


def edit(run: Path, line: int, text: bytes) -> None:
    path = run / "trajectories.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = text
    path.write_bytes(b"".join(lines))


def start(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """A writer in a process of its own, made of this file's helpers."""
    prelude = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_runs import *\n"
    command = [sys.executable, "-c", prelude + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


# Append and resume


def test_what_was_appended_is_read_back_in_order(run: Path) -> None:
    assert list(read_trajectories(run)) == [attempt("a"), attempt("b"), attempt("c")]


def test_each_line_is_durable_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bytes] = []
    path = tmp_path / "trajectories.jsonl"
    real = os.fsync
    with writer(tmp_path) as out:
        monkeypatch.setattr(os, "fsync", lambda file: (real(file), synced.append(path.read_bytes()))[0])
        out.append(attempt("a"))
    assert [text.count(b"\n") for text in synced] == [1]


def test_the_next_writer_knows_the_finished_keys_and_adds_to_them(run: Path) -> None:
    with writer(run) as out:
        assert out.finished == {"a", "b", "c"}
        out.append(attempt("d"))
    assert stored(run) == ["a", "b", "c", "d"]


def test_a_key_is_stored_once(run: Path) -> None:
    with writer(run) as out, pytest.raises(RunDirectoryError, match="b is stored already"):
        out.append(attempt("b"))
    assert stored(run) == ["a", "b", "c"]


def test_a_line_is_plain_json_with_a_messages_column(run: Path) -> None:
    row = json.loads((run / "trajectories.jsonl").read_text().splitlines()[0])
    assert row["messages"] == [{"role": "user", "content": "1 + 1?"}]
    assert row["stop_reason"] == "final_answer"


def test_a_resume_keeps_the_birthday_of_the_run(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    record["created"] = "2001-01-01T00:00:00+0000"
    (run / "run.json").write_text(json.dumps(record))
    writer(run).close()
    assert runs.read_run_json(run)["created"] == "2001-01-01T00:00:00+0000"


# The key of an attempt


def test_the_key_changes_with_task_sample_question_and_shape() -> None:
    other = Task("t1", "1 + 2?", "3")
    keys = {
        attempt_id(TASK, 0, SHAPE),
        attempt_id(TASK, 1, SHAPE),
        attempt_id(other, 0, SHAPE),
        attempt_id(TASK, 0, {**SHAPE, "max_steps": 6}),
        attempt_id(Task("t2", TASK.question, "2"), 0, SHAPE),
    }
    assert len(keys) == 5


def test_the_key_does_not_depend_on_the_order_of_settings_or_on_the_answer() -> None:
    backwards = dict(reversed(SHAPE.items()))
    assert attempt_id(TASK, 0, SHAPE) == attempt_id(Task("t1", "1 + 1?", "two"), 0, backwards)


@settings(max_examples=15, deadline=None)
@given(st.text(st.characters(min_codepoint=0xD7FE, max_codepoint=0xE001), min_size=1))
def test_the_key_of_any_task_survives_being_stored(tmp_path_factory: Any, text: str) -> None:
    folder = tmp_path_factory.mktemp("run")
    key = attempt_id(Task(text, text, "2"), 0, {"file": text})
    with writer(folder) as out:
        out.append(attempt(key))
    with writer(folder) as out:
        assert out.finished == {key}


# Torn and damaged lines


@pytest.mark.parametrize("tail", [b"{", b'{"id": "d"', b"\xff\x00", b"x" * 200_000])
def test_a_torn_last_line_is_ignored_by_readers_and_cut_by_the_next_writer(run: Path, tail: bytes) -> None:
    path = run / "trajectories.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert stored(run) == ["a", "b", "c"]
    assert path.read_bytes() == whole + tail, "a reader changed the file"
    with writer(run) as out:
        assert path.read_bytes() == whole
        out.append(attempt("d"))
    assert stored(run) == ["a", "b", "c", "d"]


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    writer(tmp_path).close()
    (tmp_path / "trajectories.jsonl").write_bytes(b'{"id": "a"')
    writer(tmp_path).close()
    assert (tmp_path / "trajectories.jsonl").read_bytes() == b""


DAMAGED = {
    "not JSON": b"{oops\n",
    "not an object": b"[1, 2]\n",
    "empty": b"\n",
    "not UTF-8": b'{"id": "\xff"}\n',
    "nested without end": b"[" * 200_000 + b"\n",
    "an int of 5000 digits": b'{"id": ' + b"9" * 5000 + b"}\n",
    "no id": b"{}\n",
    "an id that is a list": b'{"id": []}\n',
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_bad_inner_line_is_an_error_with_its_number(run: Path, line: bytes) -> None:
    edit(run, 2, line)
    for use in (stored, writer):
        with pytest.raises(RunDirectoryError, match=r"trajectories\.jsonl line 2 .*remove it") as caught:
            use(run)
        assert "\n" not in str(caught.value)


def test_a_refused_writer_leaves_no_lock_behind(run: Path) -> None:
    good = (run / "trajectories.jsonl").read_bytes()
    edit(run, 2, b"oops\n")
    with pytest.raises(RunDirectoryError):
        writer(run)
    (run / "trajectories.jsonl").write_bytes(good)
    with writer(run) as out:
        assert out.finished == {"a", "b", "c"}


WRONG_FIELDS = {
    "a field too many": ("surprise", 1),
    "an unknown reason": ("stop_reason", "bored"),
    "steps that are a number": ("steps", 3),
    "a task that is a text": ("task", "t1"),
    "a task of an unknown kind": ("task", {"id": "t", "question": "q", "answer": "a", "kind": "poem"}),
    "a first thought that is a text": ("first_thought", "hm"),
    "usage that is a number": ("usage", 3),
    "usage that counts in words": ("usage", {"tokens_in": "many"}),
    "an answer that is a number": ("answer", 50),
    "an id that is a number": ("id", 7),
    "messages that are texts": ("messages", ["hello"]),
    "a message without content": ("messages", [{"role": "user"}]),
    "a message of parts": ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
    "a step whose code is a list": ("steps", [{"thought": "t", "observation": "o", "code": ["x"]}]),
    "a question that is null": ("task", {"id": "t", "question": None, "answer": "a", "kind": "math"}),
}


@pytest.mark.parametrize(("name", "value"), WRONG_FIELDS.values(), ids=WRONG_FIELDS.keys())
def test_a_row_of_another_shape_is_an_error_with_its_number(run: Path, name: str, value: object) -> None:
    row = {**to_json(attempt("b")), name: value}
    edit(run, 2, json.dumps(row).encode() + b"\n")
    with pytest.raises(RunDirectoryError, match="line 2 is not a trajectory"):
        stored(run)


@pytest.mark.parametrize("name", ["id", "task", "messages", "steps", "answer", "stop_reason", "model"])
def test_a_row_without_a_field_is_an_error_that_names_it(run: Path, name: str) -> None:
    row = to_json(attempt("b"))
    del row[name]
    edit(run, 2, json.dumps(row).encode() + b"\n")
    with pytest.raises(RunDirectoryError, match=f"line 2 is not a trajectory.*{name}"):
        stored(run)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
rows_almost_right = st.dictionaries(
    st.sampled_from(sorted(to_json(attempt("a")))), json_values, max_size=3
).map(lambda changed: json.dumps({**to_json(attempt("a")), **changed}).encode())
steps_almost_right = st.dictionaries(
    st.sampled_from(sorted(to_json(Step("", None, "")))), json_values, max_size=3
).map(lambda step: json.dumps({**to_json(attempt("a")), "steps": [step]}).encode())
files = st.binary(max_size=300) | st.lists(
    rows_almost_right | steps_almost_right | json_values.map(lambda v: json.dumps(v).encode()) | st.binary(),
    max_size=4,
).map(b"\n".join)


@settings(max_examples=300, deadline=None)
@given(files, st.booleans())
def test_any_file_is_trajectories_or_one_error(tmp_path_factory: Any, content: bytes, ended: bool) -> None:
    folder = tmp_path_factory.mktemp("run")
    (folder / "trajectories.jsonl").write_bytes(content + b"\n" * ended)
    try:
        found = list(read_trajectories(folder))
    except RunDirectoryError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(trajectory, Trajectory) for trajectory in found)


# run.json


def test_another_shape_is_refused_naming_the_field(run: Path) -> None:
    with pytest.raises(RunMismatchError, match=r"max_steps = 5, not 6") as caught:
        writer(run, max_steps=6)
    assert caught.value.exit_code == 2


def test_a_field_inside_a_field_is_named_by_its_path(run: Path) -> None:
    with pytest.raises(RunMismatchError, match=r"model\.sha256 = 'ab', not 'cd' and 1 more"):
        writer(run, model={"sha256": "cd"}, new=1)


def test_another_stage_is_refused(run: Path) -> None:
    with pytest.raises(RunMismatchError, match="stage = 'generate', not 'eval'"):
        writer(run, stage="eval")


def test_a_refusal_changes_nothing(run: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(RunMismatchError):
        writer(run, max_steps=6)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_what_was_only_asked_may_change(run: Path) -> None:
    RunWriter(run, stage="generate", shape=SHAPE, asked={"limit": 9}).close()
    assert runs.read_run_json(run)["asked"] == {"limit": 9}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "cannot be read"),
        ("[" * 200_000, "cannot be read"),
        ("[]", "is not a run record"),
        ('{"shape": {}, "stage": "generate", "format": 99}', "has format 99"),
    ],
    ids=["torn", "nested without end", "not a record", "a newer format"],
)
def test_a_run_json_that_cannot_be_trusted_is_refused(run: Path, content: str, complaint: str) -> None:
    (run / "run.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=complaint):
        writer(run)


def test_a_folder_without_run_json_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not a RUN"):
        list(read_trajectories(tmp_path))


def test_trajectories_without_run_json_are_not_added_to(run: Path) -> None:
    (run / "run.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"no run\.json"):
        writer(run)


def test_a_run_may_not_lie_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunDirectoryError, match="cannot write"):
            writer(folder)


# The lock


def test_a_second_writer_is_refused_but_a_reader_is_not(run: Path) -> None:
    code = """
        with writer(Path(sys.argv[1])):
            print("locked", flush=True)
            sys.stdin.read()
    """
    with start(code, run) as other:
        assert other.stdout is not None and other.stdout.readline() == "locked\n"
        with pytest.raises(RunDirectoryError, match="another process is writing"):
            writer(run)
        assert stored(run) == ["a", "b", "c"]
        other.communicate()
    writer(run).close()


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(out: RunWriter) -> int:
    """Append until the disk is full; the number of attempts that were stored."""
    for number in range(1000):
        try:
            out.append(attempt(str(number), "long " * 400))
        except RunDirectoryError as error:
            assert "cannot append to" in str(error) and "free some space" in str(error)
            assert "\n" not in str(error)
            return number
    raise AssertionError("the disk never filled up")


def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_space(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 16_384)
    run = small_disk / "run"
    with writer(run) as out:
        full = fill(out)
        assert full > 0
        text = (run / "trajectories.jsonl").read_bytes()
        assert text.count(b"\n") == full and text.endswith(b"\n"), "half a line stayed"
        ballast.unlink()
        out.append(attempt("the same writer goes on"))
    with writer(run) as out:
        assert len(out.finished) == full + 1


def test_a_run_that_cannot_even_start_on_a_full_disk_leaves_nothing_half_written(small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb") as ballast, pytest.raises(OSError, match="No space"):
        while True:
            os.write(ballast.fileno(), b"x" * 4096)
    with pytest.raises(RunDirectoryError, match="No space left"):
        writer(small_disk / "run")
    assert [path.name for path in small_disk.glob("run/*") if path.name != ".lock"] == []


def test_a_write_that_the_system_cuts_short_leaves_no_half_line(tmp_path: Path) -> None:
    code = """
        import resource
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        with writer(Path(sys.argv[1])) as out:
            print(fill(out))
    """
    with start(code, tmp_path) as limited:
        output, errors = limited.communicate(timeout=60)
    assert limited.returncode == 0, errors
    text = (tmp_path / "trajectories.jsonl").read_bytes()
    assert text.endswith(b"\n")
    assert len(stored(tmp_path)) == int(output) > 0
    with writer(tmp_path) as out:
        out.append(attempt("later"))
    assert len(stored(tmp_path)) == int(output) + 1


# kill -9


def test_kill_9_loses_nothing_finished_and_repeats_nothing(tmp_path: Path) -> None:
    code = """
        with writer(Path(sys.argv[1])) as out:
            for number in range(100_000):
                if str(number) not in out.finished:
                    out.append(attempt(str(number), "long " * 2000))
                    print(number, flush=True)
    """
    chance = random.Random(0)
    promised: list[str] = []
    for _ in range(4):
        with start(code, tmp_path) as doomed:
            assert doomed.stdout is not None
            promised.append(doomed.stdout.readline().strip())
            time.sleep(chance.uniform(0, 0.05))
            doomed.send_signal(signal.SIGKILL)
            promised += [line.strip() for line in doomed.stdout if line.endswith("\n")]
            doomed.communicate()
        assert doomed.returncode == -signal.SIGKILL
        keys = stored(tmp_path)
        assert set(promised) <= set(keys), "a finished attempt is gone"
        assert keys == [str(number) for number in range(len(keys))], "lost or repeated"
    assert len(keys) > 4


# Records as JSON

texts = st.text(st.characters(categories=["L", "N", "P", "Z", "C"]), max_size=8)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**4000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
counts = st.integers(0, 10**6)
seconds = st.floats(0, 1e6)
maybe_texts = st.none() | texts
tool_calls = st.lists(st.builds(ToolCall, texts, plain, plain, maybe_texts, seconds), max_size=2).map(tuple)
kinds = st.none() | st.sampled_from(ErrorKind)
executions = st.builds(
    Execution, texts, plain, st.booleans(), maybe_texts, kinds, st.booleans(), seconds, tool_calls
)
candidates = st.builds(Candidate, texts, maybe_texts, st.none() | executions, counts, st.booleans())
steps = st.builds(
    Step,
    texts,
    maybe_texts,
    texts,
    maybe_texts,
    kinds,
    tool_calls,
    st.lists(candidates, max_size=2).map(tuple),
    counts,
    counts,
    seconds,
)
messages = st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": texts})
tasks = st.builds(
    Task,
    texts,
    texts,
    texts,
    st.sampled_from(TaskKind),
    texts,
    texts,
    st.dictionaries(texts, plain, max_size=2),
)
thoughts = st.builds(
    FirstThought, st.sampled_from(ThoughtStatus), texts, texts, texts, st.none() | st.booleans(), texts
)
trajectories = st.builds(
    Trajectory,
    id=texts,
    task=tasks,
    messages=st.lists(messages, max_size=3).map(tuple),
    steps=st.lists(steps, max_size=2).map(tuple),
    answer=maybe_texts,
    stop_reason=st.sampled_from(StopReason),
    model=texts,
    sample=counts,
    seed=st.integers(),
    prompt_hash=texts,
    first_thought=thoughts,
    usage=st.builds(Usage, counts, counts, seconds),
)


@settings(max_examples=100, deadline=None)
@given(trajectories)
def test_every_trajectory_comes_back_from_json_as_it_was(trajectory: Trajectory) -> None:
    text = json.dumps(to_json(trajectory), allow_nan=False)
    assert Trajectory.from_json(json.loads(text)) == trajectory


VALUES = {
    "nan": (float("nan"), "nan"),
    "infinity": (float("-inf"), "-inf"),
    "an int too long to print": (10**5000, hex(10**5000)),
    "an object that stayed behind the wall": (
        Opaque("DataFrame", "   x\n0  1"),
        {"type": "DataFrame", "repr": "   x\n0  1"},
    ),
    "a tuple": ((1, 2), [1, 2]),
    "a key that is no text": ({1: "x"}, {"1": "x"}),
    "bytes": (b"\xff", "b'\\xff'"),
}


@pytest.mark.parametrize(("value", "expected"), VALUES.values(), ids=VALUES.keys())
def test_what_json_has_no_word_for_is_stored_as_text(tmp_path: Path, value: Any, expected: Any) -> None:
    done = Candidate("text", "code", Execution(value=value), votes=1, chosen=True)
    step = Step("Look.", "code", "seen", candidates=(done,))
    with writer(tmp_path) as out:
        out.append(Trajectory("a", TASK, (), (step,), None, StopReason.MAX_STEPS, "m"))
    (read,) = read_trajectories(tmp_path)
    execution = read.steps[0].candidates[0].execution
    assert execution is not None and execution.value == expected


@settings(max_examples=50, deadline=None)
@given(trajectories)
def test_every_trajectory_can_be_stored(tmp_path_factory: Any, trajectory: Trajectory) -> None:
    folder = tmp_path_factory.mktemp("run")
    with writer(folder) as out:
        out.append(trajectory)
    (read,) = read_trajectories(folder)
    # A file of UTF-8 has no room for half a surrogate pair: it is stored as a question mark.
    assert read.model == trajectory.model.encode("utf-8", "replace").decode()


# Scores, failures, whole files


def test_scores_are_replaced_as_a_whole(run: Path) -> None:
    runs.write_scores(run, [Score("a", True, "math"), Score("b", False, "math", "3 is not 2")])
    runs.write_scores(run, [Score("c", True, "qa")])
    assert read_scores(run) == {"c": Score("c", True, "qa")}


def test_a_run_without_scores_says_how_to_get_them(run: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"has no scores yet \(agentdistill grade"):
        read_scores(run)


@pytest.mark.parametrize(
    "row",
    [
        '{"attempt": "a"}',
        '{"attempt": [], "correct": true, "method": "m"}',
        '"a"',
        "{",
        '{"attempt": "a", "correct": "yes", "method": "m"}',
    ],
)
def test_a_bad_score_is_an_error_with_its_number(run: Path, row: str) -> None:
    (run / "scores.jsonl").write_text('{"attempt": "a", "correct": true, "method": "m"}\n' + row + "\n")
    with pytest.raises(RunDirectoryError, match=r"scores\.jsonl line 2 is"):
        read_scores(run)


def test_failures_are_noted_but_do_not_count_as_finished(run: Path) -> None:
    with writer(run) as out:
        out.append_failure("d", TASK, RunDirectoryError("the jail is gone", "doctor"), tries=2)
    (failure,) = read_failures(run)
    assert failure["id"] == "d" and failure["task"] == "t1" and failure["tries"] == 2
    assert failure["type"] == "RunDirectoryError" and failure["error"] == "the jail is gone (doctor)"
    with writer(run) as out:
        assert "d" not in out.finished


def test_a_run_without_failures_has_none(tmp_path: Path) -> None:
    assert read_failures(tmp_path) == []


def test_write_atomic_replaces_the_text_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_atomic(path, "old")
    write_atomic(path, "new \ud800")
    assert path.read_text() == "new ?"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_atomic_keeps_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_atomic(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError, match=r"summary\.json: No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_write_atomic_where_nothing_can_be_written_is_one_error(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AgentDistillError, match="cannot write"):
        write_atomic(tmp_path / parent / "x", "text")
