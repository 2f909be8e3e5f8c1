"""Self-consistent steps of an unmodified CodeAgent: in memory and in a real jail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from sandboxes import open_backend
from smolagents import Tool

from agentdistill.agent.build import CODE_BLOCK_TAGS
from agentdistill.agent.executor import SandboxExecutor
from agentdistill.agent.self_consistency import SelfConsistent
from agentdistill.clients.memory import MemorySandbox
from agentdistill.errors import ContextOverflowError, ModelError, RetrieverError, SandboxError, UsageError
from agentdistill.grading import Grader
from agentdistill.models.base import BaseModel
from agentdistill.models.scripted import ScriptedModel
from agentdistill.prompts import load_prompts
from agentdistill.stages.attempt import AttemptSettings, run_attempt
from agentdistill.stages.thoughts import FirstThoughts
from agentdistill.types import (
    Completion,
    ErrorKind,
    Execution,
    FinishReason,
    Json,
    Limits,
    Message,
    Passage,
    Sampling,
    Sandbox,
    SandboxTool,
    Step,
    StopReason,
    Task,
    Trajectory,
    to_json,
)

TASK = Task("t1", "What is 6 times 7?", "42")
SAMPLING = Sampling(temperature=0.4, top_p=0.8)
STOP = ("Observation:", "Calling tools:", "</code>")


def action(code: str, thought: str = "Compute it.") -> str:
    return f"Thought: {thought}\n<code>\n{code}\n</code>"


@pytest.fixture(params=["memory", "bubblewrap"])
def attempt(request: pytest.FixtureRequest) -> Callable[..., Trajectory]:
    def run(script: Any, candidates: int, **more: Any) -> Trajectory:
        settings = AttemptSettings(
            prompts=load_prompts("student"),
            sampling=SAMPLING,
            candidates=candidates,
            **{"max_steps": 3, "limits": Limits(seconds=5), **more},
        )
        model = script if isinstance(script, BaseModel) else ScriptedModel(script)

        def open_session(tools: Sequence[SandboxTool]) -> Sandbox:
            return open_backend(request.param, tools=tools, limits=settings.limits)

        with Grader() as grader:
            return run_attempt(TASK, 0, "key", model, settings, FirstThoughts(settings, grader), open_session)

    return run


def only(found: Trajectory) -> Step:
    [step] = found.steps
    return step


# ---------------------------------------------------------------------- the defects of the reference


def test_candidates_append_to_the_same_list_and_one_item_stays(attempt: Callable[..., Trajectory]) -> None:
    appends = [action("L.append(1)\nprint(len(L))")] * 3 + [action("L.append(1)\nL.append(1)\nprint(len(L))")]
    found = attempt(
        [*[action("L = []\nprint('made')")] * 4, *appends, *[action("final_answer(len(L))")] * 4], 4
    )
    assert [step.observation.split("\n")[1] for step in found.steps[:2]] == ["made", "1"]
    assert found.answer == "1"


def test_what_a_loser_has_set_is_not_seen_later(attempt: Callable[..., Trajectory]) -> None:
    losers = [action("leaked = 1\nprint('a')"), action("leaked = 2\nprint('b')")]
    winners = [action("x = 1\nprint('c')"), action("x = 0 + 1\nprint('c')")]
    found = attempt([*losers, *winners, *[action("final_answer('leaked' in globals())")] * 4], 4)
    assert found.steps[0].code == "x = 1\nprint('c')"
    assert found.answer == "False"


def test_final_answers_vote_by_value(attempt: Callable[..., Trajectory]) -> None:
    """1, 2, 2, 2: the reference saw no printed text, called them equal, and took the first."""
    found = attempt([action(f"final_answer({n})") for n in ("1", "2", "2.0", "4 / 2")], 4)
    assert found.answer == "2"
    assert [candidate.votes for candidate in only(found).candidates] == [1, 3, 3, 3]
    assert [candidate.chosen for candidate in only(found).candidates] == [False, True, False, False]


class Corpus:
    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.error = error

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.asked += queries
        if self.error is not None:
            raise self.error
        return [[Passage("p1", "Six", "Six times seven is 42.")] for _ in queries]

    def fingerprint(self) -> dict[str, Json]:
        return {}


def test_the_retriever_is_asked_once_for_identical_calls(attempt: Callable[..., Trajectory]) -> None:
    corpus = Corpus()
    codes = [f"r = search('six times seven')\nprint(r[:{n}])" for n in (4, 40, 40, 41)]
    found = attempt([*map(action, codes), *[action("final_answer(r)")] * 4], 4, retriever=corpus, max_steps=2)
    assert corpus.asked == ["six times seven"]
    assert found.steps[0].code == codes[1]
    assert found.steps[0].tool_calls[0].result == {"passages": ["p1"]}


# ---------------------------------------------------------------------- one step


def test_nothing_runs_twice(attempt: Callable[..., Trajectory]) -> None:
    corpus = Corpus()
    codes = [f"r = search({query!r})\nprint(len(r))" for query in ("one", "two", "one")]
    found = attempt([*map(action, codes), *[action("final_answer(r)")] * 3], 3, retriever=corpus)
    assert corpus.asked.count("one") == 1
    assert found.steps[0].candidates[0].chosen and found.steps[0].tool_calls[0].arguments == {"query": "one"}
    assert "42" in (found.answer or "")


def test_what_does_not_parse_or_run_has_no_vote(attempt: Callable[..., Trajectory]) -> None:
    script = ["no code here", action("1 / 0"), action("1 / 0"), action("final_answer(42)")]
    step = only(found := attempt(script, 4))
    assert found.answer == "42"
    assert [candidate.votes for candidate in step.candidates] == [0, 0, 0, 1]
    parse, failed, again, _ = step.candidates
    assert parse.code is None and parse.execution is None
    assert failed.execution is not None and "ZeroDivisionError" in (failed.execution.error or "")
    assert again.execution == failed.execution  # the same code ran once
    assert step.error is None


def test_all_failed_keeps_the_first_that_parsed_with_its_error(attempt: Callable[..., Trajectory]) -> None:
    script = ["no code", action("x = 1\nprint('so far')\n1 / 0"), action("y = 1\nnothing")]
    found = attempt([*script, *[action("final_answer(x)")] * 3], 3)
    assert found.steps[0].error_kind is ErrorKind.EXCEPTION
    assert "ZeroDivisionError" in (found.steps[0].error or "")
    assert "so far" in found.steps[0].observation
    assert found.answer == "1"  # its fork is the session, as after any step that failed


def test_nothing_parsed_is_a_parsing_error_of_the_first(attempt: Callable[..., Trajectory]) -> None:
    found = attempt(["first, no code", "second, no code", *[action("final_answer(1)")] * 2], 2)
    assert found.steps[0].error_kind is ErrorKind.PARSE
    assert found.steps[0].thought.startswith("first")
    assert found.answer == "1"


def test_the_code_goes_down_codeagents_own_path(attempt: Callable[..., Trajectory]) -> None:
    """A fence instead of the tags, no closing tag, `final_answer` as a variable: as CodeAgent reads them."""
    fence = "Thought: so\n```python\nfinal_answer(7 * 6)\n```"
    variable = "Thought: so\n<code>\nfinal_answer = 42\nfinal_answer(final_answer)"
    step = only(found := attempt([action("final_answer(0)"), fence, variable], 3))
    assert found.answer == "42"
    assert [c.code for c in step.candidates[1:]] == [
        "final_answer(7 * 6)",
        "final_answer_variable = 42\nfinal_answer(final_answer_variable)",
    ]
    assert [c.votes for c in step.candidates] == [1, 2, 2]


def test_the_max_steps_call_passes_through(attempt: Callable[..., Trajectory]) -> None:
    model = ScriptedModel([action("print(1)"), action("print(1)"), "42"])
    found = attempt(model, 2, max_steps=1)
    assert (found.stop_reason, found.answer) == (StopReason.MAX_STEPS, "42")
    assert len(model.calls) == 3


def test_tokens_of_all_candidates_are_counted(attempt: Callable[..., Trajectory]) -> None:
    found = attempt([action("final_answer(1)")] * 4, 4)
    assert only(found).tokens_out == 4 * len(action("final_answer(1)").removesuffix("</code>").split())
    assert found.usage.tokens_out == only(found).tokens_out


def test_a_first_thought_opens_every_candidate(attempt: Callable[..., Trajectory]) -> None:
    codes = [f"<code>\nfinal_answer({n})\n</code>" for n in (1, 2, 2)]
    found = attempt(codes, 3, given_thoughts={"t1": "Multiply six by seven first."})
    assert found.answer == "2"
    for candidate in only(found).candidates:
        assert candidate.text.startswith("Thought: Multiply six by seven first.\n<code>")
    assert found.messages[-1]["content"].startswith("Thought: Multiply six by seven first.\n<code>")
    assert found.first_thought.prefill == "tokens"


def test_a_trajectory_with_votes_comes_back_from_json_and_stays_small(
    attempt: Callable[..., Trajectory],
) -> None:
    code = "print('{}' * 20000)\nfinal_answer(list(range({})))"
    found = attempt([action(code.format(*of)) for of in (("a", 9999), ("b", 9), ("c", 99999))], 3)
    row = to_json(found)
    assert Trajectory.from_json(row).steps[0].candidates[1].votes == 1
    first, second, _ = only(found).candidates
    assert first.execution is not None and second.execution is not None
    assert "characters cut]" in first.execution.logs and "characters cut]" in first.execution.value
    assert second.execution.value == list(range(9))
    assert len(str(row["steps"][0]["candidates"])) < 6_000


# ---------------------------------------------------------------------- what breaks


def test_a_model_that_dies_fails_the_attempt(attempt: Callable[..., Trajectory]) -> None:
    with pytest.raises(ModelError, match="gone"):
        attempt([action("1"), ModelError("gone")], 2)


def test_a_search_that_dies_in_a_loser_fails_the_attempt(attempt: Callable[..., Trajectory]) -> None:
    corpus = Corpus(RetrieverError("no index"))
    with pytest.raises(RetrieverError, match="no index"):
        # Two that agree win against one, and would cancel it; not against two that may agree, and came first.
        attempt([*[action("search('x')")] * 2, *[action("final_answer(1)")] * 2], 4, retriever=corpus)


def test_a_full_context_is_tried_again_without_the_oldest_observation(
    attempt: Callable[..., Trajectory],
) -> None:
    class Full(ScriptedModel):
        def sample(self, messages: Sequence[Message], *args: Any, **kwargs: Any) -> list[Completion]:
            if any("long observation" in message["content"] for message in messages[2:]):
                raise ContextOverflowError("full")
            return super().sample(messages, *args, **kwargs)

    seen = [action("print('long', 'observation')")] * 2
    found = attempt(Full([*seen, *[action("final_answer(42)")] * 2]), 2)
    assert found.answer == "42" and found.steps[1].dropped == (0,)


class Once(Tool):  # type: ignore[misc]
    name = "send_mail"
    description = "Sends a mail."
    inputs: dict[str, Any] = {}  # noqa: RUF012
    output_type = "string"
    repeatable = False

    def forward(self) -> str:
        return "sent"


def test_a_tool_that_is_not_repeatable_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="send_mail"):
        AttemptSettings(load_prompts("student"), SAMPLING, candidates=2, tools=(Once(),))
    AttemptSettings(load_prompts("student"), SAMPLING, candidates=1, tools=(Once(),))


@pytest.mark.parametrize(("temperature", "candidates"), [(0.0, 8), (0.4, 0)])
def test_no_vote_without_a_choice(temperature: float, candidates: int) -> None:
    with pytest.raises(UsageError, match=f"{candidates} candidates"):
        AttemptSettings(load_prompts("student"), Sampling(temperature=temperature), candidates=candidates)


def test_no_two_samples_of_a_task_share_a_seed() -> None:
    seeds = []

    class Seeing(ScriptedModel):
        def draw(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Completion]]:
            seeds.append(kwargs["sampling"].seed)
            return super().draw(*args, **kwargs)

    settings = AttemptSettings(load_prompts("student"), SAMPLING, candidates=3)
    with Grader() as grader:
        thoughts = FirstThoughts(settings, grader)
        for sample in (0, 1):
            model = Seeing([action("final_answer(42)")])
            run_attempt(TASK, sample, "key", model, settings, thoughts, lambda tools: open_backend("memory"))
    assert seeds == [0, 3]  # sample i of a draw adds i


# ---------------------------------------------------------------------- what the executor keeps


class Slow(BaseModel):
    """Gives its texts one after another, each after some seconds, and can be cancelled between."""

    def __init__(self, texts: Sequence[tuple[float, str]]) -> None:
        super().__init__("slow")
        self.texts = texts
        self.given = 0

    def fingerprint(self) -> dict[str, Json]:
        return {}

    def sample(self, *args: Any, **kwargs: Any) -> list[Completion]:
        raise NotImplementedError

    def draw(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        prefix: str = "",
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
        cancelled: threading.Event | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        for index, (seconds, text) in enumerate(self.texts):
            if cancelled is not None and cancelled.wait(seconds):
                yield index, Completion(text[:9], FinishReason.CANCELLED, tokens_in=0, tokens_out=3)
            else:
                self.given += 1
                yield index, Completion(text, tokens_in=0, tokens_out=10)


@pytest.fixture(params=["memory", "bubblewrap"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    opened = open_backend(request.param, limits=Limits(seconds=5))
    yield opened
    opened.close()


def step(model: BaseModel, sandbox: Sandbox, n: int) -> tuple[Any, SandboxExecutor]:
    executor = SandboxExecutor(sandbox)
    [voted] = SelfConsistent(model, executor, n, CODE_BLOCK_TAGS).sample([], stop=STOP)
    return voted, executor


def test_another_code_than_the_winners_runs_normally(sandbox: Sandbox) -> None:
    texts = [action(f"x = {n}\nprint('same')") for n in (1, 2)]
    _, executor = step(ScriptedModel(texts), sandbox, 2)
    with pytest.raises(Exception, match="NameError"):
        executor("print(x)")
    with pytest.raises(Exception, match="NameError"):
        executor("x\nprint(x)")  # nor later
    _, executor = step(ScriptedModel(texts), sandbox, 2)
    executor("x = 1\nprint('same')")
    assert executor("x").output == 1


def test_the_vote_ends_as_soon_as_nobody_can_overtake(sandbox: Sandbox) -> None:
    model = Slow([(0, action("final_answer(42)"))] * 3 + [(30, action("final_answer(41)"))] * 2)
    started = time.monotonic()
    voted, executor = step(model, sandbox, 5)
    assert time.monotonic() - started < 5
    assert executor("final_answer(42)").output == "42"
    assert model.given == 3
    assert voted.tokens_out == 36  # what the cancelled ones have cost is counted
    kinds = [candidate.execution.error_kind for candidate in voted.candidates]
    assert kinds == [None] * 3 + [ErrorKind.CANCELLED] * 2
    assert [candidate.votes for candidate in voted.candidates] == [3, 3, 3, 0, 0]


def test_a_sample_is_run_while_the_next_is_drawn() -> None:
    sandbox = open_backend("bubblewrap", limits=Limits(seconds=5))
    texts = [(0.0, "a"), (1.0, "b"), (1.0, "b ")]
    model = Slow([(wait, action(f"import time\ntime.sleep(1)\nprint('{c}')")) for wait, c in texts])
    started = time.monotonic()
    voted, _ = step(model, sandbox, 3)
    sandbox.close()
    assert time.monotonic() - started < 3.8  # one after the other would take 5
    assert [candidate.votes for candidate in voted.candidates] == [1, 2, 2]


def test_tools_are_called_and_deadlines_kept_while_samples_are_drawn() -> None:
    called: list[float] = []
    tool = SandboxTool("look", lambda: called.append(time.monotonic()))
    sandbox = open_backend("bubblewrap", tools=[tool], limits=Limits(seconds=0.5))
    codes = [(0.0, "look()"), (0.0, "while True: pass"), (1.0, "print(3)"), (1.0, "print(4)")]
    voted, _ = step(Slow([(wait, action(code)) for wait, code in codes]), sandbox, 4)
    assert time.monotonic() - called[0] > 1
    overrun = voted.candidates[1].execution
    assert overrun.error_kind is ErrorKind.TIMEOUT and overrun.seconds < 1.5
    sandbox.close()


def test_code_that_still_runs_is_cancelled() -> None:
    sandbox = open_backend("bubblewrap", limits=Limits(seconds=60))
    texts = [action(code) for code in ("while True: pass", "x = 1\nx", "x = 1 + 0\nx", "x = 3 - 2\nx")]
    started = time.monotonic()
    voted, executor = step(ScriptedModel(texts), sandbox, 4)
    assert time.monotonic() - started < 20
    assert voted.candidates[0].execution.error_kind is ErrorKind.CANCELLED
    assert executor("x = 1\nx").output == 1
    assert executor("x + 1").output == 2
    sandbox.close()


def test_identical_code_is_run_once() -> None:
    class Counting(MemorySandbox):
        def run(self, codes: Any, enough: Any = None) -> list[Execution]:
            return super().run((ran.append(code) or code for code in codes), enough)  # type: ignore[func-returns-value]

    ran: list[str | None] = []
    # What fails has no vote, so all of it is run.
    texts = [action(f"{n} / 0", thought) for n, thought in ((1, "a"), (2, "b"), (1, "c"), (2, "d"))]
    voted, _ = step(ScriptedModel(texts), Counting(), 4)
    assert [code for code in ran if code is not None] == ["1 / 0", "2 / 0"]
    first, second, third, _ = (candidate.execution for candidate in voted.candidates)
    assert first == third != second


def test_a_model_that_dies_does_not_wait_for_code_that_runs() -> None:
    class Dying(Slow):
        def draw(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Completion]]:
            yield from super().draw(*args, **kwargs)
            raise ModelError("gone")

    sandbox = open_backend("bubblewrap", limits=Limits(seconds=60))
    started = time.monotonic()
    with pytest.raises(ModelError, match="gone"):
        step(Dying([(0, action("while True: pass"))]), sandbox, 2)
    assert time.monotonic() - started < 20
    sandbox.close()


def test_a_lost_sandbox_is_raised() -> None:
    class Lost:
        def run(self, *_: Any) -> None:
            raise SandboxError("the jail is gone")

    with pytest.raises(SandboxError, match="gone"):
        step(ScriptedModel([action("1")]), Lost(), 2)  # type: ignore[arg-type]
