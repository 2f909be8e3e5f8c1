"""A knowledge base in an attempt: in the prompt, as a tool, behind the gate; and that it is never trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint, chat_reply, serve
from students import tiny_student

from agentdistill.agent.knowledge import PROBE_TOKENS, Delivery, Knowledge, mean_gap, with_notes
from agentdistill.clients.sandbox import open_sandbox
from agentdistill.errors import KnowledgeBaseError, ModelError
from agentdistill.grading import Grader
from agentdistill.knowledge.entry import Entry, FromPerson, question_hash
from agentdistill.knowledge.folder import EntryFolder
from agentdistill.knowledge.recall import Choice, LocalKnowledgeBase, Searcher
from agentdistill.knowledge.store import Index
from agentdistill.models.openai_compatible import OpenAICompatibleModel
from agentdistill.models.scripted import ScriptedModel
from agentdistill.models.transformers_model import TransformersModel
from agentdistill.prompts import load_prompts
from agentdistill.stages.attempt import AttemptSettings, run_attempt
from agentdistill.stages.knowledge_review import entries_given
from agentdistill.stages.thoughts import FirstThoughts
from agentdistill.training.rows import IGNORED, encode_row
from agentdistill.types import Completion, Limits, Message, Recollection, Sampling, Task, Trajectory, to_json

TASK = Task("t1", "How many apples are in six baskets of seven apples?", "42", source="fruit_test")
BULLET = "Multiply the number of baskets by what each of them holds."
ANSWER = "Thought: multiply\n<code>\nfinal_answer(6 * 7)\n</code>"


def folder(path: Path, **changes: Any) -> EntryFolder:
    kb = EntryFolder(path / "kb", create=True)
    given = {
        "id": "baskets",
        "status": "active",
        "kind": "procedure",
        "title": "Counting fruit in baskets",
        "trigger": "A task asks how many apples or pears baskets hold.",
        "learning_summary": (BULLET,),
        "families": ("fruit",),
        "provenance": (FromPerson(author="us"),),
        **changes,
    }
    kb.save(Entry(**given))
    return kb


def base(path: Path, choice: Choice = Choice.RETRIEVED, **changes: Any) -> LocalKnowledgeBase:
    return LocalKnowledgeBase(Searcher(Index(folder(path, **changes))), choice)


class Probed(ScriptedModel):
    """Says how sure it is: the two likeliest tokens have these probabilities at every place."""

    def __init__(self, script: Sequence[str], likeliest: tuple[float, float]) -> None:
        super().__init__(script)
        self.likeliest = likeliest
        self.probes: list[tuple[Sequence[Message], Sampling]] = []

    def sample_logprobs(
        self, messages: Sequence[Message], *, top: int = 2, sampling: Sampling | None = None
    ) -> Completion:
        assert sampling is not None
        self.probes.append((messages, sampling))
        place = {f"t{i}": math.log(p) for i, p in enumerate(self.likeliest)}
        return Completion("x", tokens_in=100, tokens_out=16, logprobs=(place,) * 16)


def attempt(model: ScriptedModel, knowledge: Knowledge | None, task: Task = TASK) -> Trajectory:
    settings = AttemptSettings(
        load_prompts("student"), max_steps=3, limits=Limits(seconds=5), knowledge=knowledge
    )
    with Grader() as grader:
        opener = partial(open_sandbox, "bubblewrap", limits=settings.limits)
        return run_attempt(
            task,
            0,
            "key",
            model,
            settings,
            FirstThoughts(settings, grader),
            lambda tools: opener(tools=tools),
        )


def test_inject_stands_before_the_question_and_is_recorded(tmp_path: Path) -> None:
    found = attempt(ScriptedModel([ANSWER]), Knowledge(base(tmp_path)))
    turn = found.messages[1]["content"]
    assert BULLET in turn and turn.index(BULLET) < turn.index(TASK.question)
    assert BULLET not in found.messages[0]["content"]
    assert found.answer == "42"
    use = found.knowledge
    assert (use.delivery, use.entries, use.injected, use.mode) == ("inject", ("baskets",), True, "lexical")
    assert entries_given(found) == ["baskets"]
    assert Trajectory.from_json(to_json(found)).knowledge == use


def test_nothing_that_fits_leaves_the_prompt_alone(tmp_path: Path) -> None:
    other = replace(TASK, source="grammar")
    found = attempt(ScriptedModel([ANSWER]), Knowledge(base(tmp_path)), other)
    without = attempt(ScriptedModel([ANSWER]), None, other)
    assert found.messages == without.messages
    assert not found.knowledge.injected and found.knowledge.entries == ()


def test_an_entry_made_from_the_question_is_not_given(tmp_path: Path) -> None:
    made_of_it = (FromPerson(author="us", question=question_hash("  " + TASK.question.upper())),)
    found = attempt(ScriptedModel([ANSWER]), Knowledge(base(tmp_path, provenance=made_of_it)))
    assert BULLET not in str(found.messages)


def test_recall_is_a_tool_whose_use_is_recorded_by_step(tmp_path: Path) -> None:
    script = ['Thought: look\n<code>\nprint(recall("count apples in baskets"))\n</code>', ANSWER]
    found = attempt(ScriptedModel(script), Knowledge(base(tmp_path), Delivery.RECALL))
    assert "def recall(query" in found.messages[0]["content"]
    assert BULLET not in found.messages[1]["content"] and BULLET in found.steps[0].observation
    [call] = found.steps[0].tool_calls
    assert call.name == "recall" and call.result == {"entries": ["baskets"], "mode": "lexical"}
    assert entries_given(found) == ["baskets"] and not found.knowledge.injected


def test_recall_without_a_find_and_with_a_wrong_argument(tmp_path: Path) -> None:
    script = [
        'Thought: x\n<code>\nprint(recall("the weather in Lisbon"))\n</code>',
        "Thought: x\n<code>\nprint(recall(3))\n</code>",
        ANSWER,
    ]
    found = attempt(ScriptedModel(script), Knowledge(base(tmp_path), Delivery.RECALL))
    assert "Nothing is noted" in found.steps[0].observation
    assert "recall takes one text" in (found.steps[1].error or "")
    assert found.answer == "42" and entries_given(found) == []


def test_a_broken_base_fails_the_attempt(tmp_path: Path) -> None:
    class Broken:
        def recall(self, query: str, task: Task, tools: Sequence[str] = ()) -> Recollection:
            raise KnowledgeBaseError("disk gone")

        def fingerprint(self) -> dict[str, Any]:
            return {}

    with pytest.raises(KnowledgeBaseError):
        attempt(ScriptedModel([ANSWER]), Knowledge(Broken()))
    script = ["Thought: x\n<code>\nprint(recall('apples'))\n</code>", ANSWER]
    with pytest.raises(KnowledgeBaseError):
        attempt(ScriptedModel(script), Knowledge(Broken(), Delivery.RECALL))


@pytest.mark.parametrize(("likeliest", "injected"), [((0.5, 0.4), True), ((0.95, 0.01), False)])
def test_the_gate_asks_with_the_question(
    tmp_path: Path, likeliest: tuple[float, float], injected: bool
) -> None:
    model = Probed([ANSWER], likeliest)
    found = attempt(model, Knowledge(base(tmp_path), Delivery.GATED))
    [(messages, sampling)] = model.probes
    assert sampling.max_tokens == PROBE_TOKENS
    assert found.knowledge.injected is injected and (BULLET in found.messages[1]["content"]) is injected
    assert found.knowledge.gap == pytest.approx(likeliest[0] - likeliest[1], abs=1e-4)
    without = attempt(ScriptedModel([ANSWER]), None)
    assert list(messages) == list(without.messages[:2])  # the very call the attempt would begin with
    assert found.usage.tokens_in > 100  # the probe is paid for


def test_the_gate_asks_nothing_when_nothing_fits(tmp_path: Path) -> None:
    model = Probed([ANSWER], (0.5, 0.4))
    attempt(model, Knowledge(base(tmp_path), Delivery.GATED), replace(TASK, source="grammar"))
    assert not model.probes


def test_the_gate_needs_probabilities(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no probabilities"):
        attempt(ScriptedModel([ANSWER]), Knowledge(base(tmp_path), Delivery.GATED))


def test_mean_gap() -> None:
    places = [{"a": math.log(0.9), "b": math.log(0.1)}, {"a": math.log(0.25), "b": math.log(0.5)}, {"a": 0.0}]
    assert mean_gap(places) == pytest.approx((0.8 + 0.25 + 1.0) / 3)
    assert mean_gap([]) == 1.0
    assert mean_gap([{"a": 0.0, "b": float("-inf")}]) == 1.0


def test_controls_are_as_long_and_say_nothing(tmp_path: Path) -> None:
    real = base(tmp_path).recall(TASK.question, TASK)
    filler = LocalKnowledgeBase(Searcher(Index(EntryFolder(tmp_path / "kb"))), Choice.FILLER)
    found = filler.recall(TASK.question, TASK)
    assert found.entries == () and "basket" not in found.text
    assert len(real.text) - 20 < len(found.text) <= len(real.text)


def test_what_shapes_a_run(tmp_path: Path) -> None:
    one = base(tmp_path)
    shapes = [
        Knowledge(one).shape(),
        Knowledge(one, Delivery.GATED).shape(),
        Knowledge(one, Delivery.RECALL).shape(),
        Knowledge(base(tmp_path, Choice.RANDOM)).shape(),
        Knowledge(base(tmp_path, learning_summary=("Something else.",))).shape(),
    ]
    assert len({str(shape) for shape in shapes}) == 5
    assert Knowledge(one, Delivery.OFF).shape() is None
    noted = base(tmp_path, tags=(), use={"retrieved": 3})
    assert Knowledge(noted).shape() == shapes[0]  # statistics change nothing that is given


def test_notes_are_never_trained(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_student(tmp_path / "tiny"))
    notes = base(tmp_path).recall(TASK.question, TASK).text
    messages = [
        Message(role="system", content="Solve it."),
        Message(role="user", content=with_notes(f"New task:\n{TASK.question}", notes)),
        Message(role="assistant", content=ANSWER),
    ]
    row = encode_row("r", messages, tokenizer)
    trained = tokenizer.decode([token for token in row.labels if token != IGNORED])
    assert BULLET in tokenizer.decode(row.input_ids)
    assert BULLET not in trained and trained.strip().startswith("Thought: multiply")


def test_transformers_tells_the_likeliest_tokens(tmp_path: Path) -> None:
    model = TransformersModel(str(tiny_student(tmp_path / "tiny")))
    asked = [Message(role="user", content="How many?")]
    sampling = Sampling(temperature=0.0, max_tokens=5)
    found = model.sample_logprobs(asked, sampling=sampling)
    assert found.text == model.sample(asked, sampling=sampling)[0].text
    assert found.logprobs is not None and len(found.logprobs) == 5
    for place, token in zip(found.logprobs, found.token_ids or (), strict=True):
        assert len(place) == 2 and all(value <= 0 for value in place.values())
        assert model.tokenizer.convert_ids_to_tokens(token) == max(place, key=place.__getitem__)
    assert 0.0 <= mean_gap(found.logprobs) <= 1.0


def test_an_endpoint_is_asked_for_probabilities() -> None:
    token = {
        "token": "4",
        "logprob": -0.1,
        "top_logprobs": [{"token": "4", "logprob": -0.1}, {"token": "5", "logprob": -2.5}],
    }

    def answer(request: dict[str, Any]) -> Any:
        status, body = chat_reply("4")
        if request.get("logprobs"):
            body["choices"][0]["logprobs"] = {"content": [token]}
        return status, body

    with serve(Endpoint(answer=answer)) as server:
        model = OpenAICompatibleModel("m", server.url, retries=0)
        found = model.sample_logprobs([Message(role="user", content="2 + 2?")])
        plain = model.sample([Message(role="user", content="2 + 2?")])[0]
        model.close()
    assert server.requests[0]["logprobs"] is True and server.requests[0]["top_logprobs"] == 2
    assert "logprobs" not in server.requests[1] and plain.logprobs is None
    assert found.logprobs == ({"4": -0.1, "5": -2.5},)


def test_an_endpoint_that_ignores_the_wish_is_an_error_of_the_gate(tmp_path: Path) -> None:
    with serve(Endpoint()) as server:
        model = OpenAICompatibleModel("m", server.url, retries=0)
        settings = Knowledge(base(tmp_path), Delivery.GATED)
        with pytest.raises(ModelError, match="tells no probabilities"):
            settings.question(TASK, TASK.question, model, "Solve it.", (), Sampling())
        model.close()
