"""The conversation's engine: a scripted model, the real loop, a real jail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentdistill.errors import RetrieverError, SandboxError, UsageError
from agentdistill.models.base import BaseModel
from agentdistill.models.scripted import ScriptedModel
from agentdistill.models.spec import open_model
from agentdistill.prompts import load_prompts
from agentdistill.runs import read_failures, read_run_json, read_trajectories
from agentdistill.stages.attempt import AttemptSettings
from agentdistill.stages.chat.conversation import Conversation
from agentdistill.stages.chat.events import (
    ApprovalAsked,
    CodeRuns,
    Event,
    Noticed,
    PassagesFound,
    StepTaken,
    TextGrew,
    TurnEnded,
    TurnFailed,
)
from agentdistill.stages.chat.sandbox import FILE_BYTES
from agentdistill.stages.curate import curate
from agentdistill.stages.grade import grade
from agentdistill.types import ErrorKind, Json, Limits, Message, Passage, Sampling, StopReason

SETTINGS = AttemptSettings(
    prompts=load_prompts("student"),
    sampling=Sampling(temperature=0.4, max_tokens=100),
    max_steps=3,
    sandbox="bubblewrap",
    limits=Limits(seconds=10),
)


def action(code: str, thought: str = "Compute it.") -> str:
    return f"Thought: {thought}\n<code>\n{code}\n</code>"


class Heard(list[Event]):
    """A listener that keeps what it is told, and lets a test wait for something."""

    def __init__(self) -> None:
        super().__init__()
        self.react: Callable[[Event], None] = lambda _: None

    def __call__(self, event: Event) -> None:
        self.append(event)
        self.react(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]

    def wait_for(self, kind: type[Any], seconds: float = 20.0) -> Any:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if found := self.of(kind):
                return found[-1]
            time.sleep(0.01)
        raise AssertionError(f"no {kind.__name__} in {seconds} s, but {list(self)}")


Open = Callable[..., tuple[Conversation, Heard]]


@pytest.fixture
def chat() -> Iterator[Open]:
    opened = []

    def start(
        model: BaseModel | Sequence[str | Exception], settings: AttemptSettings = SETTINGS, **more: Any
    ) -> tuple[Conversation, Heard]:
        heard = Heard()
        given = model if isinstance(model, BaseModel) else ScriptedModel(model)
        conversation = Conversation(given, settings, heard, **more)
        opened.append(conversation)
        return conversation, heard

    yield start
    for conversation in opened:
        conversation.close()


def test_variables_and_the_turns_before_live_on(chat: Open) -> None:
    model = ScriptedModel([action("x = 6\nfinal_answer(x)"), action("final_answer(x * 7)")])
    conversation, heard = chat(model)
    first = conversation.ask("Remember six.")
    second = conversation.ask("Times seven?")
    assert first is not None and second is not None
    assert (first.answer, second.answer) == ("6", "42")
    assert first.task.question == "Remember six."
    asked = model.calls[1][1]["content"]
    assert asked.startswith(
        "New task:\nEarlier in this conversation. What the code has defined is still there."
    )
    assert "Question: Remember six.\n<code>\nx = 6\nfinal_answer(x)\n</code>\nAnswer: 6" in asked
    assert "Now:\nTimes seven?" in asked
    assert [message["role"] for message in second.messages] == ["system", "user", "assistant"]
    assert [event.trajectory for event in heard.of(TurnEnded)] == [first, second]


def test_what_the_listener_is_told_in_its_order(chat: Open) -> None:
    conversation, heard = chat([action("print('hello')", "Say hello."), action("final_answer(1)")])
    conversation.ask("Hi")
    kinds = [type(event).__name__ for event in heard if not isinstance(event, TextGrew)]
    one_step = ["Drew", "CodeRuns", "StepTaken"]
    assert kinds == ["TurnBegan", *one_step, *one_step, "TurnEnded"]
    grown = [event.text for event in heard.of(TextGrew)]
    assert grown[0] == "Thought:" and "Thought: Say hello." in grown
    assert [event.code for event in heard.of(CodeRuns)] == ["print('hello')", "final_answer(1)"]
    assert "hello" in heard.of(StepTaken)[0].step.observation


def test_a_vote_is_told_with_its_candidates(chat: Open) -> None:
    replies = iter(["final_answer(2)", "final_answer(1 + 1)", "final_answer(3)"])
    conversation, heard = chat(
        ScriptedModel(lambda _: action(next(replies))), replace(SETTINGS, candidates=3)
    )
    done = conversation.ask("1 + 1?")
    assert done is not None and done.answer == "2"
    [taken] = heard.of(StepTaken)
    assert sum(candidate.chosen for candidate in taken.step.candidates) == 1
    assert {event.candidate for event in heard.of(TextGrew)} == {0, 1, 2}


# Undo and retry


def test_undo_takes_the_sandbox_back(chat: Open) -> None:
    conversation, _ = chat(
        [
            action("x = 1\nfinal_answer(x)"),
            action("x = 2\nprint(x)"),
            action("x = 3\nfinal_answer(x)"),
            action("final_answer(x)"),
        ]
    )
    conversation.ask("one")
    conversation.ask("two steps")
    assert {variable.text for variable in conversation.variables()} == {"3"}
    conversation.undo()
    last = conversation.ask("now?")
    assert last is not None and last.answer == "1"
    assert "two steps" not in str(last.task.meta)


def test_undo_over_more_steps_than_the_session_keeps_states(chat: Open) -> None:
    """Three steps a turn: a turn is one state."""
    script = [
        action(f"x = {i}\nprint(x)") if i % 3 else action(f"x = {i}\nfinal_answer(x)") for i in range(1, 31)
    ]
    conversation, _ = chat([*script, action("final_answer(x)")])
    for turn in range(10):
        assert conversation.ask(f"turn {turn}") is not None
    for _ in range(9):
        conversation.undo()
    last = conversation.ask("and now?")
    assert last is not None and last.answer == "3"


def test_undo_without_a_turn_is_said(chat: Open) -> None:
    conversation, _ = chat([])
    with pytest.raises(UsageError, match="no turn"):
        conversation.undo()


def test_a_retry_is_another_sample_of_the_task(chat: Open, tmp_path: Path) -> None:
    conversation, _ = chat(
        [action("n = 1\nfinal_answer(n)"), action("final_answer('n' in dir())")], out=tmp_path / "run"
    )
    first, second = conversation.ask("how many?"), conversation.retry()
    assert first is not None and second is not None
    assert (second.task, second.sample) == (first.task, 1)
    assert second.answer == "False", "the sandbox is as it was before the first try"
    assert [turn.trajectory for turn in conversation.turns] == [second]
    assert len(list(read_trajectories(tmp_path / "run"))) == 2


def test_a_retry_at_temperature_0_is_refused(chat: Open) -> None:
    conversation, _ = chat([action("final_answer(1)")], replace(SETTINGS, sampling=Sampling()))
    conversation.ask("one")
    with pytest.raises(UsageError, match="temperature"):
        conversation.retry()
    assert len(conversation.turns) == 1


# Stopping, and what breaks


class Hanging(ScriptedModel):
    """Says its script, but hangs in the calls that are named."""

    def __init__(self, script: Sequence[str], calls: set[int]) -> None:
        super().__init__(script)
        self.hang_in = calls
        self.let_go = threading.Event()

    def _one(self, messages: Sequence[Message], prefix: str, stop: Sequence[str]) -> Any:
        if len(self.calls) in self.hang_in:
            self.calls.append(tuple(messages))
            self.let_go.wait(60)
        return super()._one(messages, prefix, stop)


def stopped(conversation: Conversation, heard: Heard, question: str, when: Callable[[], object]) -> float:
    """Ask, stop when that says so, and give the seconds it took to end."""
    asking = threading.Thread(target=conversation.ask, args=(question,))
    asking.start()
    when()
    begun = time.monotonic()
    conversation.stop()
    asking.join(20)
    assert not asking.is_alive()
    assert heard.of(TurnFailed)[-1].stopped
    return time.monotonic() - begun


def test_code_that_runs_is_stopped_and_the_session_lives_on(chat: Open) -> None:
    conversation, heard = chat(
        [
            action("x = 5\nfinal_answer(x)"),
            action("x = 6\nprint(x)"),
            action("import time\ntime.sleep(60)"),
            action("final_answer(x)"),
        ]
    )
    conversation.ask("five")

    def sleeping() -> None:
        while not any("sleep" in event.code for event in heard.of(CodeRuns)):
            time.sleep(0.01)
        time.sleep(0.2)

    assert stopped(conversation, heard, "sleep", sleeping) < 5
    last = conversation.ask("x?")
    assert last is not None and last.answer == "5", "the stopped turn has left no trace"
    assert not any("new sandbox" in event.text for event in heard.of(Noticed))


def test_a_model_that_hangs_is_left_alone(chat: Open) -> None:
    model = Hanging([action("final_answer(1)")], {0})
    conversation, heard = chat(model)
    try:
        assert stopped(conversation, heard, "hang", lambda: time.sleep(0.3)) < 5
        last = conversation.ask("again")
        assert last is not None and last.answer == "1"
    finally:
        model.let_go.set()


def test_candidates_are_stopped_too(chat: Open) -> None:
    endless = action("while True: pass")
    conversation, heard = chat([endless], replace(SETTINGS, candidates=3, limits=Limits(seconds=60)))
    assert stopped(conversation, heard, "loop", lambda: heard.wait_for(CodeRuns)) < 10


def test_text_is_stopped_while_it_streams(chat: Open) -> None:
    model = ScriptedModel(["word " * 2000], pause=0.01)
    conversation, heard = chat(model)
    assert stopped(conversation, heard, "talk", lambda: heard.wait_for(TextGrew)) < 5
    count = len(heard)
    time.sleep(0.3)
    assert len(heard) == count, "nobody hears the rest"


def test_a_sandbox_that_dies_is_one_line_and_the_next_turn_has_a_new_one(chat: Open, tmp_path: Path) -> None:
    conversation, heard = chat(
        [action("x = 1\nfinal_answer(x)"), action("final_answer(2)"), action("final_answer('x' in dir())")],
        out=tmp_path / "run",
    )
    conversation.ask("one")
    session = conversation._sandbox._session
    assert session is not None
    session._link._stream.close()
    assert conversation.ask("two") is None
    [failed] = heard.of(TurnFailed)
    assert "\n" not in failed.message and not failed.stopped
    [failure] = read_failures(tmp_path / "run")
    assert failure["type"] == "SandboxError"
    last = conversation.ask("three")
    assert last is not None and last.answer == "False"
    assert "What this code has defined is not there any more" in str(last.task.meta["earlier"])
    assert any("new sandbox" in event.text for event in heard.of(Noticed))


class Broken:
    """A Retriever that is down."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        raise RetrieverError("no retriever answers", "start it")

    def fingerprint(self) -> dict[str, Json]:
        return {"index": "none"}


class Small(Broken):
    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        return [[Passage("p1", "Paris", "The capital of France.", 1.0)] for _ in queries]


def test_a_retriever_that_is_down_is_one_line(chat: Open) -> None:
    script = [action("x = 1\nprint(search('Paris'))"), action("final_answer('x' in dir())")]
    conversation, heard = chat(script, replace(SETTINGS, retriever=Broken()))
    assert conversation.ask("where?") is None
    assert heard.of(TurnFailed)[0].message == "no retriever answers (start it)"
    last = conversation.ask("again")
    assert last is not None and last.answer == "False"


def test_a_retriever_may_come_and_go(chat: Open) -> None:
    script = [action("final_answer(search('Paris'))")]
    conversation, heard = chat(script)
    without = conversation.ask("where?")
    conversation.use_retriever(Small())
    found = conversation.ask("where?")
    assert without is not None and found is not None
    assert without.steps[0].error is not None and "there is no search here" in without.steps[0].error
    assert "capital of France" in (found.answer or "")
    assert [event.passages[0].id for event in heard.of(PassagesFound)] == ["p1"]
    assert [name for name, _ in conversation.tools()] == ["search"]


def test_two_megabytes_of_output_are_cut_in_the_step(chat: Open) -> None:
    conversation, heard = chat([action("print('x' * 2_000_000)"), action("final_answer(1)")])
    assert conversation.ask("much") is not None
    assert len(heard.of(StepTaken)[0].step.observation) < 30_000


# Approval


@pytest.mark.parametrize("candidates", [1, 2])
def test_code_that_is_not_allowed_does_not_run(chat: Open, candidates: int) -> None:
    model = ScriptedModel([action("x = 1\nprint(x)")] * candidates + [action("final_answer('x' in dir())")])
    conversation, heard = chat(model, replace(SETTINGS, candidates=candidates))
    conversation.approve = True

    def answer(event: Event) -> None:
        if isinstance(event, ApprovalAsked):
            event.reply.set_result("final_answer" in event.code)

    heard.react = answer
    done = conversation.ask("try")
    assert done is not None and done.answer == "False"
    assert done.steps[0].error_kind is ErrorKind.EXCEPTION
    assert "the user did not allow" in (done.steps[0].error or "")
    assert len(heard.of(ApprovalAsked)) == 2, "the same code is asked about once"


def test_a_turn_that_waits_for_approval_is_stopped(chat: Open) -> None:
    conversation, heard = chat([action("final_answer(1)")])
    conversation.approve = True
    assert stopped(conversation, heard, "wait", lambda: heard.wait_for(ApprovalAsked)) < 5


# Files


def test_a_file_is_put_into_the_sandbox_and_undone_with_its_turn(chat: Open, tmp_path: Path) -> None:
    (tmp_path / "my data.csv").write_bytes(b"a,b\n1,\xff2\n")
    read = "import os\nthere = os.path.exists('my_data.csv')\n"
    read += "final_answer(str(open('my_data.csv', 'rb').read()) if there else 'no')"
    conversation, _ = chat([action(read)], files_from=tmp_path)
    first = conversation.ask('What is in @"my data.csv"?')
    assert first is not None and first.answer == str(b"a,b\n1,\xff2\n")
    assert first.task.question == "What is in my_data.csv?\nFiles in the working folder: my_data.csv"
    conversation.undo()
    second = conversation.ask("And now?")
    assert second is not None and second.answer == "no"


def test_files_that_may_not_be_read(chat: Open, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (base / "link.txt").symlink_to(tmp_path / "outside.txt")
    (base / ".env").write_text("KEY=1")
    (base / "large.bin").write_bytes(bytes(FILE_BYTES + 1))
    conversation, _ = chat([action("final_answer(1)")], files_from=base)
    for mention, problem in {
        "@../outside.txt": "outside",
        "@link.txt": "outside",
        "@.env": "hidden",
        "@large.bin": "larger",
        "@/etc": "outside",
    }.items():
        with pytest.raises(UsageError, match=problem):
            conversation.ask(f"read {mention}")
    done = conversation.ask("@dataclass\nclass A: ...  # by @alice, bob@example.org")
    assert done is not None and done.task.question.startswith("@dataclass")


def test_the_largest_file_fits(chat: Open, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(FILE_BYTES))
    conversation, heard = chat(
        [action("import os\nfinal_answer(os.path.getsize('large.bin'))")], files_from=tmp_path
    )
    done = conversation.ask("How large is @large.bin?")
    assert done is not None, heard
    assert done.answer == str(FILE_BYTES)


def test_variables_are_listed_and_nothing_is_left_of_it(chat: Open) -> None:
    conversation, _ = chat(
        [
            action(
                "import math\nclass Odd:\n    def __repr__(self): raise ValueError\n"
                "odd, big, name = Odd(), list(range(10**6)), 'grün \\x1b[31m'\nfinal_answer(1)"
            )
        ]
    )
    conversation.ask("set up")
    found = {variable.name: variable for variable in conversation.variables()}
    assert set(found) == {"Odd", "odd", "big", "name"}
    assert found["big"].type == "list" and len(found["big"].text) < 100
    assert "Odd" in found["odd"].text
    assert conversation.variables() == conversation.variables()


# Records


def test_a_chat_is_an_ordinary_run(chat: Open, tmp_path: Path) -> None:
    run = tmp_path / "run"
    conversation, _ = chat(
        [action("final_answer(6)"), action("final_answer(7)"), action("final_answer(8)")], out=run
    )
    conversation.ask("six")
    conversation.ask("seven")
    conversation.undo()
    conversation.ask("eight")
    assert read_run_json(run)["stage"] == "chat"
    assert [attempt.answer for attempt in read_trajectories(run)] == ["6", "7", "8"]
    conversation.right()
    [saved] = conversation.save(tmp_path / "saved")
    assert [attempt.answer for attempt in read_trajectories(saved)] == ["6", "8"]
    assert grade(saved).all.successes == 1
    data = curate([saved], tmp_path / "data", load_prompts("student"))
    assert data.kept == 1
    rows = (tmp_path / "data" / "rows.jsonl").read_text()
    assert "Earlier in this conversation" in rows and "eight" in rows


def test_other_settings_are_another_run_beside_it(chat: Open, tmp_path: Path) -> None:
    conversation, _ = chat([action("final_answer(1)")], out=tmp_path / "run")
    conversation.ask("one")
    conversation.use(candidates=2)
    conversation.ask("two")
    conversation.use(candidates=1)
    conversation.ask("three")
    assert len(list(read_trajectories(tmp_path / "run"))) == 2
    assert len(list(read_trajectories(tmp_path / "run-2"))) == 1
    assert read_run_json(tmp_path / "run-2")["shape"]["candidates"] == 2
    assert [path.name for path in conversation.save(tmp_path / "saved")] == ["saved", "saved-2"]
    conversation.close()
    again, _ = chat([action("final_answer(4)")], out=tmp_path / "run")
    assert [turn.trajectory.task.question for turn in again.turns] == ["one", "two", "three"]


def test_a_conversation_goes_on_where_it_was(chat: Open, tmp_path: Path) -> None:
    conversation, _ = chat(
        [action("x = 1\nfinal_answer(x)"), action("final_answer(2)")], out=tmp_path / "run"
    )
    conversation.ask("one")
    conversation.ask("two")
    conversation.undo()
    conversation.close()
    model = ScriptedModel([action("final_answer(3)")])
    other, _ = chat(model, out=tmp_path / "other")
    assert [found.answer for found in other.load(tmp_path / "run")] == ["1"]
    third = other.ask("three")
    assert third is not None and third.task.id == "turn-3"
    assert "not there any more" in model.calls[0][1]["content"]
    assert [attempt.answer for attempt in read_trajectories(tmp_path / "run")] == ["1", "2", "3"]
    other.undo()
    other.undo()
    assert other.turns == []


def test_what_is_no_conversation_is_not_loaded(chat: Open, tmp_path: Path) -> None:
    conversation, _ = chat([action("final_answer(1)")])
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"format": 1, "stage": "generate", "shape": {}}')
    with pytest.raises(UsageError, match="no conversation"):
        conversation.load(run)
    with pytest.raises(UsageError, match="nothing to save"):
        conversation.save(tmp_path / "saved")


@pytest.mark.parametrize("format", ["messages", "sharegpt", "atif", "hf"])
def test_a_conversation_is_exported(chat: Open, tmp_path: Path, format: str) -> None:
    conversation, _ = chat([action("final_answer(1)")], out=tmp_path / "run")
    conversation.ask("one")
    conversation.use(candidates=2)
    conversation.ask("two")
    assert conversation.export(format, tmp_path / "out").rows == 2


def test_a_step_limit_is_an_ended_turn(chat: Open) -> None:
    conversation, _ = chat([action("print(1)")] * 3 + ["It is 1."])
    done = conversation.ask("endless")
    assert done is not None and done.stop_reason is StopReason.MAX_STEPS


def test_a_sandbox_that_cannot_start_is_one_line(chat: Open) -> None:
    conversation, heard = chat([action("final_answer(1)")], replace(SETTINGS, sandbox="ws://127.0.0.1:9"))
    assert conversation.ask("one") is None
    assert "127.0.0.1:9" in heard.of(TurnFailed)[0].message
    with pytest.raises(SandboxError):
        conversation.variables()


@pytest.mark.models
def test_the_embedded_teacher_talks_about_what_it_has_computed(chat: Open, tmp_path: Path) -> None:
    model = open_model("qwen2.5-coder-1.5b", slots=2, threads=2)
    settings = replace(
        SETTINGS, prompts=load_prompts("teacher"), sampling=Sampling(0.0, max_tokens=400), max_steps=5
    )
    conversation, heard = chat(model, settings, out=tmp_path / "run")
    try:
        first = conversation.ask("What is the sum of the squares of 1 to 10?")
        assert first is not None and first.answer == "385"
        assert len(heard.of(TextGrew)) > 20
        asking = threading.Thread(target=conversation.ask, args=("Write ten long sentences, then code.",))
        count = len(heard.of(TextGrew))
        asking.start()
        while len(heard.of(TextGrew)) < count + 5:
            time.sleep(0.05)
        conversation.stop()
        asking.join(10)
        assert not asking.is_alive() and heard.of(TurnFailed)[-1].stopped
        second = conversation.ask("Take 85 away from that result.")
        assert second is not None and second.answer in ("300", "300.0")
    finally:
        conversation.close()
        model.close()
