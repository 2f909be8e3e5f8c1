"""Answers by a plain chain of thought: one call, the answer that it states, passages before the question."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentdistill.errors import ContextOverflowError, RetrieverError, RunMismatchError, UsageError
from agentdistill.models.scripted import ScriptedModel
from agentdistill.prompts import load_prompts
from agentdistill.runs import read_run_json, read_trajectories
from agentdistill.stages.baseline import ChainOfThought, answer_by_thinking
from agentdistill.stages.curate import curate, read_data
from agentdistill.stages.evaluate import evaluate
from agentdistill.types import (
    Completion,
    FinishReason,
    Json,
    Passage,
    Sampling,
    StopReason,
    Task,
    TaskKind,
    Trajectory,
    to_json,
)

TASK = Task("t", "What is 2 + 3?", "5")


class Library:
    """A Retriever that finds what it was given."""

    def __init__(self, *passages: Passage, error: Exception | None = None) -> None:
        self.passages, self.error = passages, error
        self.asked: list[Sequence[str]] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        self.asked.append(queries)
        if self.error:
            raise self.error
        return [list(self.passages[:k]) for _ in queries]

    def fingerprint(self) -> dict[str, Json]:
        return {"index": "test"}


class CutOff(ScriptedModel):
    """Never comes to an end."""

    def _one(self, *arguments: Any) -> Completion:
        return Completion("The answer is 5, or", FinishReason.LENGTH, tokens_in=3, tokens_out=9)


def answered(model: ScriptedModel, task: Task = TASK, **settings: Any) -> Trajectory:
    return answer_by_thinking(task, 0, "k", model, ChainOfThought(load_prompts("student"), **settings))


def test_a_chain_is_one_step_and_its_answer() -> None:
    model = ScriptedModel(["2 + 3 makes 5.\nThe answer is 5."])
    found = answered(model)
    assert (found.answer, found.stop_reason) == ("5", StopReason.FINAL_ANSWER)
    assert [message["role"] for message in found.messages] == ["system", "user", "assistant"]
    assert "step by step" in found.messages[0]["content"]
    assert found.messages[1]["content"].startswith("What is 2 + 3?\n")
    (step,) = found.steps
    assert (step.thought, step.code, step.observation, step.tool_calls) == (
        found.messages[2]["content"],
        None,
        "",
        (),
    )
    assert found.usage.tokens_out == step.tokens_out > 0
    assert Trajectory.from_json(json.loads(json.dumps(to_json(found)))) == found


@pytest.mark.parametrize("model", [ScriptedModel(["It is hard to say."]), CutOff([""])])
def test_a_chain_without_an_answer_is_no_answer(model: ScriptedModel) -> None:
    found = answered(model)
    assert (found.answer, found.stop_reason) == (None, StopReason.MAX_STEPS)
    assert found.messages[-1]["role"] == "assistant"


def test_a_question_too_long_for_the_context_is_data() -> None:
    found = answered(ScriptedModel([ContextOverflowError("too long")]))
    assert (found.answer, found.stop_reason) == (None, StopReason.CONTEXT)
    assert [message["role"] for message in found.messages] == ["system", "user"]


def test_passages_stand_before_the_question_and_are_recorded() -> None:
    library = Library(Passage("p1", "Sums", "2 + 3 is 5."), Passage("p2", "", "More."))
    model = ScriptedModel(["The answer is 5."])
    found = answered(model, retriever=library)
    content = found.messages[1]["content"]
    assert content.index("[1] Sums: 2 + 3 is 5.\n[2] More.") < content.index("What is 2 + 3?")
    (call,) = found.steps[0].tool_calls
    assert (call.arguments, call.result) == ({"query": TASK.question}, {"passages": ["p1", "p2"]})
    assert library.asked == [[TASK.question]]


def test_a_question_that_cannot_be_searched_is_answered_without() -> None:
    found = answered(ScriptedModel(["The answer is 5."]), retriever=Library(error=UsageError("too long")))
    assert found.answer == "5"
    assert found.steps[0].tool_calls[0].error == "too long"
    assert "Passages" not in found.messages[1]["content"]
    with pytest.raises(RetrieverError):
        answered(ScriptedModel(["x"]), retriever=Library(error=RetrieverError("gone")))


def test_the_modes_are_other_runs(tmp_path: Path) -> None:
    settings = ChainOfThought(load_prompts("student"))
    model = ScriptedModel(lambda messages: "The answer is 5." if "2 + 3" in messages[1]["content"] else "?")
    tasks = [TASK, Task("u", "Who?", "Ann", TaskKind.QA)]
    summary = evaluate(tasks, tmp_path / "run", model, settings)
    assert (summary.all.successes, summary.all.n, summary.steps) == (1, 2, 1.0)
    record = read_run_json(tmp_path / "run")
    assert (record["stage"], record["shape"]["mode"]) == ("eval", "cot")
    evaluate(tasks, tmp_path / "run", model, settings)
    assert len(model.calls) == 2  # resumed: nothing left to do
    with pytest.raises(RunMismatchError, match="mode"):
        evaluate(tasks, tmp_path / "run", model, ChainOfThought(load_prompts("student"), retriever=Library()))


def test_samples_have_seeds_of_their_own_and_need_a_temperature(tmp_path: Path) -> None:
    model = ScriptedModel(["The answer is 5."])
    warm = ChainOfThought(load_prompts("student"), Sampling(temperature=0.7, seed=3))
    summary = evaluate([TASK], tmp_path / "run", model, warm, samples=4)
    assert (summary.samples, summary.pass_at) == (4, {1: 1.0, 2: 1.0, 4: 1.0})
    assert sorted(t.seed for t in read_trajectories(tmp_path / "run")) == [3, 4, 5, 6]
    with pytest.raises(UsageError, match="temperature"):
        evaluate([TASK], tmp_path / "x", model, ChainOfThought(load_prompts("student")), samples=2)


def test_rows_of_cot_distillation(tmp_path: Path) -> None:
    """The teacher's right chains, asked for as the student will be, passages where the teacher had them."""
    teacher = ChainOfThought(load_prompts("teacher"), Sampling(temperature=0.7))
    replies = iter(
        ["2 and 3 are 5.\nThe answer is 5.", "3 and 2 are 5.\nThe answer is 5.", "The answer is 6."]
    )
    evaluate(
        [TASK], tmp_path / "cot", ScriptedModel(lambda _: next(replies)), teacher, samples=3, concurrency=1
    )
    student = load_prompts("student")
    found = curate([tmp_path / "cot"], tmp_path / "data", student)
    rows, _ = read_data(tmp_path / "data")
    assert (found.kept, found.rejected) == (2, {"wrong answer": 1})
    asked = answered(ScriptedModel(["The answer is 5."]))  # the student, asked by its own prompts
    assert [row["messages"][:2] for row in rows] == [list(asked.messages[:2])] * 2
    assert rows[0]["messages"][2]["content"] == "2 and 3 are 5.\nThe answer is 5."

    library = Library(Passage("p1", "Sums", "2 + 3 is 5."))
    retrieved = ChainOfThought(load_prompts("teacher"), retriever=library)
    evaluate([TASK], tmp_path / "rag", ScriptedModel(["The answer is 5."]), retrieved)
    curate([tmp_path / "rag"], tmp_path / "data-rag", student)
    ((row,), _) = read_data(tmp_path / "data-rag")
    asked = answered(ScriptedModel(["The answer is 5."]), retriever=library)
    assert row["messages"][:2] == list(asked.messages[:2])
    with pytest.raises(UsageError, match="cot by cot, rag by cot-rag"):
        curate([tmp_path / "cot", tmp_path / "rag"], tmp_path / "both", student)
