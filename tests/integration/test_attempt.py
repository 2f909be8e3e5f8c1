"""One attempt: an unmodified CodeAgent, a scripted model, a real jail."""

from collections.abc import Sequence
from functools import partial

import pytest

from agentdistill.clients.memory import MemorySandbox
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.errors import ContextOverflowError, ModelError, SandboxError
from agentdistill.grading import Grader
from agentdistill.models.scripted import ScriptedModel
from agentdistill.prompts import load_prompts
from agentdistill.stages.attempt import AttemptSettings, run_attempt
from agentdistill.stages.thoughts import FirstThoughts
from agentdistill.types import (
    Completion,
    ErrorKind,
    Limits,
    Message,
    Sandbox,
    SandboxTool,
    StopReason,
    Task,
    ThoughtStatus,
    Trajectory,
)

TASK = Task("t1", "What is 6 times 7?", "42", meta={"data": {"table": [{"a": 6, "b": 7}]}})


def action(code: str, thought: str = "Compute it.") -> str:
    return f"Thought: {thought}\n<code>\n{code}\n</code>"


def attempt(script: list[str | Exception], **settings: object) -> Trajectory:
    given = {"prompts": load_prompts("student"), "max_steps": 3, "limits": Limits(seconds=5), **settings}
    with Grader() as grader:
        settings = AttemptSettings(**given)  # type: ignore[arg-type]
        open_session = partial(open_bubblewrap, settings)
        thoughts = FirstThoughts(settings, grader)
        return run_attempt(TASK, 0, "key", ScriptedModel(script), settings, thoughts, open_session)


def open_bubblewrap(settings: AttemptSettings, tools: Sequence[SandboxTool]) -> Sandbox:
    return open_sandbox("bubblewrap", tools=tools, limits=settings.limits)


def test_three_steps_in_the_jail() -> None:
    found = attempt(
        [
            action("row = table[0]\nprint(row)"),
            action("x = row['a'] / 0"),
            action("final_answer(row['a'] * row['b'])", "Multiply."),
        ]
    )
    assert found.answer == "42"
    assert found.stop_reason is StopReason.FINAL_ANSWER
    assert [step.error_kind for step in found.steps] == [None, ErrorKind.EXCEPTION, None]
    assert "{'a': 6, 'b': 7}" in found.steps[0].observation
    assert "ZeroDivisionError" in (found.steps[1].error or "")
    assert "{'a': 6" not in found.steps[1].observation  # no stale prints of the step before
    assert found.steps[2].thought == "Multiply."
    assert [m["role"] for m in found.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
        "assistant",
    ]
    assert found.messages[1]["content"].startswith("New task:\nWhat is 6 times 7?")
    assert "Calling tools" not in str(found.messages)
    assert found.messages[-1]["content"].endswith("</code>")
    assert found.usage.tokens_out == sum(step.tokens_out for step in found.steps) > 0


def test_unparsable_text_is_data() -> None:
    found = attempt(["I think it is 42, as final answer", action("final_answer(42)")])
    assert [step.error_kind for step in found.steps] == [ErrorKind.PARSE, None]
    assert found.answer == "42"


def test_a_killed_step_goes_on_with_its_state() -> None:
    found = attempt(
        [action("x = 6"), action("while True: pass"), action("final_answer(x * 7)")],
        limits=Limits(seconds=1),
    )
    assert [step.error_kind for step in found.steps] == [None, ErrorKind.TIMEOUT, None]
    assert found.answer == "42"


def test_the_step_limit() -> None:
    found = attempt([action("print(1)"), action("print(2)"), action("print(3)"), "42"])
    assert found.stop_reason is StopReason.MAX_STEPS
    assert found.answer == "42"
    assert len(found.steps) == 3
    assert found.messages[-1]["role"] == "assistant"


def test_none_is_no_answer() -> None:
    assert attempt([action("final_answer(None)")]).answer is None


def test_a_model_that_dies_in_a_step_fails_the_attempt() -> None:
    with pytest.raises(ModelError, match="gone"):
        attempt([action("print(1)"), ModelError("gone")])


def test_a_model_that_dies_in_the_max_steps_call_fails_the_attempt() -> None:
    """CodeAgent turns this error into the final answer."""
    steps: list[str | Exception] = [action("print(1)")] * 3
    with pytest.raises(ModelError, match="gone"):
        attempt([*steps, ModelError("gone")])


def test_a_bug_in_the_max_steps_call_is_not_an_answer_either() -> None:
    steps: list[str | Exception] = [action("print(1)")] * 3
    with pytest.raises(ZeroDivisionError):
        attempt([*steps, ZeroDivisionError("a bug")])


class _Lost(MemorySandbox):
    def run(self, codes: object) -> list[object]:  # type: ignore[override]
        raise SandboxError("the jail is gone")


def test_an_executor_that_dies_at_step_1_fails_the_attempt() -> None:
    """CodeAgent turns this error into an observation and goes on."""
    closed = []

    class Lost(_Lost):
        def close(self) -> None:
            closed.append(True)

    model = ScriptedModel([action("final_answer(42)")])
    settings = AttemptSettings(prompts=load_prompts("student"), max_steps=3)
    with pytest.raises(SandboxError, match="gone"), Grader() as grader:
        run_attempt(TASK, 0, "key", model, settings, FirstThoughts(settings, grader), lambda tools: Lost())
    assert len(model.calls) == 1  # it does not go on in a lost sandbox
    assert closed == [True]


class Small(ScriptedModel):
    """A model whose context holds as many words of observations as given."""

    def __init__(self, script: Sequence[str], room: int) -> None:
        super().__init__(script)
        self.room = room

    def _one(self, messages: Sequence[Message], prefix: str, stop: Sequence[str]) -> Completion:
        if sum(message["content"].count("word") for message in messages[2:]) > self.room:
            raise ContextOverflowError("too long")
        return super()._one(messages, prefix, stop)


def small_attempt(script: list[str], room: int, max_steps: int = 4) -> tuple[Trajectory, Small]:
    settings = AttemptSettings(
        prompts=load_prompts("student"), max_steps=max_steps, limits=Limits(seconds=5), first_thought="off"
    )
    model = Small(script, room)
    with Grader() as grader:
        thoughts = FirstThoughts(settings, grader)
        return run_attempt(
            TASK, 0, "key", model, settings, thoughts, partial(open_bubblewrap, settings)
        ), model


def test_the_oldest_observations_are_left_out_of_what_does_not_fit() -> None:
    big, small = action("print('wo' + 'rd ' + ('wo' + 'rd ') * 9)"), action("print('short')")
    found, model = small_attempt([big, big, small, action("final_answer(42)")], room=15)
    assert found.answer == "42"
    assert [step.dropped for step in found.steps] == [(), (), (0,), (0,)]
    last = model.calls[-1]
    assert "left out" in last[3]["content"] and "word" not in last[3]["content"]
    assert last[5]["content"].count("word") == 10  # the newer one is seen
    # The trajectory holds all of it.
    assert found.messages[3]["content"].count("word") == 10
    assert "left out" not in str(found.messages)


def test_a_conversation_that_does_not_fit_at_all_is_an_attempt_without_an_answer() -> None:
    found, _ = small_attempt([action("print(1)  # word word"), action("final_answer(42)")], room=1)
    assert (found.answer, found.stop_reason) == (None, StopReason.CONTEXT)
    assert len(found.steps) == 1
    assert found.messages[-1]["role"] == "assistant"


def test_a_question_that_does_not_fit_is_an_attempt_without_steps() -> None:
    found, _ = small_attempt([action("final_answer(42)")], room=-1)
    assert (found.answer, found.stop_reason, found.steps) == (None, StopReason.CONTEXT, ())
    assert [message["role"] for message in found.messages] == ["system", "user"]


def test_a_max_steps_call_that_does_not_fit_is_no_answer() -> None:
    """CodeAgent turns its error into the final answer."""
    found, _ = small_attempt([action("print(1)  # word word")], room=1, max_steps=1)
    assert (found.answer, found.stop_reason) == (None, StopReason.CONTEXT)


def test_first_thought_is_recorded_with_its_chain() -> None:
    cot = "We multiply the two numbers that are given.\nThe answer is 42."
    found = attempt([cot, "<code>\nfinal_answer(6 * 7)\n</code>"], first_thought="content", max_steps=1)
    assert found.first_thought.status is ThoughtStatus.USED
    assert found.first_thought.cot == cot
    assert found.first_thought.cot_correct is True
    assert found.first_thought.prefill == "tokens"
    assert found.messages[-1]["content"].startswith(
        "Thought: We multiply the two numbers that are given.\n<code>"
    )
    assert found.answer == "42"


def test_correct_only_leaves_out_thoughts_of_wrong_chains() -> None:
    cot = "We add the two numbers that are given.\nThe answer is 13."
    found = attempt([cot, action("final_answer(42)")], first_thought="correct-only", max_steps=1)
    assert found.first_thought.status is ThoughtStatus.WRONG
    assert found.first_thought.cot_correct is False
    assert found.messages[-1]["content"].startswith("Thought: Compute it.")


def test_given_first_thoughts() -> None:
    found = attempt(
        ["<code>\nfinal_answer(42)\n</code>"], given_thoughts={"t1": "Use the table row."}, max_steps=1
    )
    assert found.first_thought.rule == "given"
    assert found.messages[-1]["content"].startswith("Thought: Use the table row.\n")
