"""Where first thoughts come from: one chain of thought a task, whatever is asked of it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agentdistill.errors import ContextOverflowError, ModelError, UsageError
from agentdistill.grading import Grader
from agentdistill.models.scripted import ScriptedModel
from agentdistill.prompts import load_prompts
from agentdistill.stages.attempt import AttemptSettings
from agentdistill.stages.thoughts import FirstThoughts, load_thoughts
from agentdistill.types import FirstThought, Sampling, Task, ThoughtStatus

TASK = Task("t1", "What is 6 times 7?", "42")
COT = "We multiply the two numbers that are given.\nThe answer is 42."


def thoughts(rule: str = "auto", **more: object) -> FirstThoughts:
    settings = AttemptSettings(prompts=load_prompts("teacher"), first_thought=rule, **more)  # type: ignore[arg-type]
    return FirstThoughts(settings, Grader())


def test_a_chain_is_drawn_once_for_all_samples_however_many_ask_at_once() -> None:
    def slowly(messages: object) -> str:
        time.sleep(0.1)
        return COT

    model, source = ScriptedModel(slowly), thoughts()
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: source.of(TASK, model).text, range(8)))
    assert found == {"We multiply the two numbers that are given."}
    assert len(model.calls) == 1


def test_tasks_do_not_wait_for_each_other() -> None:
    both = threading.Barrier(2, timeout=10)

    def together(messages: object) -> str:
        both.wait()
        return COT

    model, source = ScriptedModel(together), thoughts()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: source.of(Task(name, "6 * 7?", "42"), model), ("a", "b")))
    assert len(model.calls) == 2


def test_a_chain_that_could_not_be_drawn_is_drawn_again() -> None:
    model, source = ScriptedModel([ModelError("gone"), COT]), thoughts()
    with pytest.raises(ModelError):
        source.of(TASK, model)
    assert source.of(TASK, model).status is ThoughtStatus.USED


def test_what_a_run_holds_is_not_drawn() -> None:
    stored = FirstThought(ThoughtStatus.USED, "Look closely at it.", "content", "cot", True)
    settings = AttemptSettings(prompts=load_prompts("teacher"), first_thought="auto")
    model = ScriptedModel([ModelError("asked")])
    assert FirstThoughts(settings, Grader(), {"t1": stored}).of(TASK, model) == stored
    assert model.calls == []


def test_a_chain_is_drawn_greedily_with_the_runs_seed() -> None:
    asked: list[Sampling | None] = []

    class Noting(ScriptedModel):
        def sample(self, *args: object, sampling: Sampling | None = None, **kwargs: object):  # type: ignore[no-untyped-def, override]
            asked.append(sampling)
            return super().sample(*args, sampling=sampling, **kwargs)  # type: ignore[arg-type]

    thoughts(sampling=Sampling(temperature=0.7, seed=5)).of(TASK, Noting([COT]))
    assert asked[0] is not None and (asked[0].temperature, asked[0].seed) == (0.0, 5)


def test_a_question_that_does_not_fit_has_no_first_thought() -> None:
    found = thoughts().of(TASK, ScriptedModel([ContextOverflowError("too long")]))
    assert (found.status, found.text) == (ThoughtStatus.EMPTY, "")


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="nope"):
        thoughts("nope")


@pytest.mark.parametrize(
    ("text", "says"),
    [("{broken", "line 1"), ('{"id": "a"}', "line 1"), ("[1]", "line 1"), ("\n", "holds no first thoughts")],
)
def test_bad_files_of_first_thoughts(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UsageError, match=says):
        load_thoughts(tmp_path / "t.jsonl")
