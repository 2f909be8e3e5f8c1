"""The baselines of METHOD 1.5: a model answers by a plain chain of thought, with or without passages.

One call an attempt: the prompt file's `chain_of_thought`, the question and how to answer it. With a retriever
the passages that fit the question best stand before it, as many and as long as the agent's own search shows.

Guaranteed: the same Trajectory as an agent's, of one step without code; its observation is empty, its one
tool call is the search. No sandbox is used. A chain that states no answer, or is cut off before it does,
has answer None and ended by its budget (`max_steps`). Not guaranteed: that an answer is found that the
model states in words of its own; the prompt asks for "The answer is X".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from agentdistill.agent.build import chain_of_thought_prompt
from agentdistill.agent.tools import PASSAGES, shown
from agentdistill.errors import ContextOverflowError, UsageError
from agentdistill.grading.extract import final_answer
from agentdistill.models.base import BaseModel
from agentdistill.prompts import Prompts
from agentdistill.stages.spending import Meter, MeteredModel
from agentdistill.types import (
    FinishReason,
    Json,
    Message,
    Passage,
    Retriever,
    Sampling,
    Step,
    StopReason,
    Task,
    ToolCall,
    Trajectory,
    to_json,
)


@dataclass(frozen=True)
class ChainOfThought:
    """What shapes an attempt by chain of thought; with a `retriever` it is retrieval before the question."""

    prompts: Prompts
    sampling: Sampling = field(default_factory=Sampling)
    retriever: Retriever | None = None

    @property
    def mode(self) -> str:
        return "cot-rag" if self.retriever else "cot"

    def shape(self) -> dict[str, Json]:
        """The part of run.json that a RUN is bound to. The model adds its own fingerprint."""
        retriever = self.retriever
        return {
            "mode": self.mode,
            "prompts": self.prompts.sha256[:12],
            "sampling": to_json(self.sampling),
            "retriever": {**retriever.fingerprint(), "passages": PASSAGES} if retriever else None,
        }


def question_with(passages: Sequence[Passage], question: str) -> str:
    """The user turn of retrieval before the question: in attempts and in training rows."""
    return f"Passages:\n{shown(question, list(passages))}\n\n{question}" if passages else question


def answer_by_thinking(
    task: Task, sample: int, key: str, model: BaseModel, settings: ChainOfThought, meter: Meter | None = None
) -> Trajectory:
    """Let `model` answer once. Raises ModelError or RetrieverError when the attempt has failed."""
    meter = meter or Meter()
    sampling = replace(settings.sampling, seed=settings.sampling.seed + sample)
    passages, calls = _search(task, settings.retriever)
    messages = [
        Message(role="system", content=chain_of_thought_prompt(settings.prompts)),
        Message(role="user", content=question_with(passages, settings.prompts.question(task))),
    ]
    thought, answer, ended = "", None, StopReason.CONTEXT
    try:
        completion = MeteredModel(model, meter).sample(messages, sampling=sampling)[0]
    except ContextOverflowError:
        pass
    else:
        thought = completion.text
        messages.append(Message(role="assistant", content=thought))
        # A chain that was cut off may speak of an answer on its way to another.
        whole = completion.finish_reason is not FinishReason.LENGTH
        answer = (final_answer(thought) if whole else "") or None
        ended = StopReason.MAX_STEPS if answer is None else StopReason.FINAL_ANSWER
    usage = meter.usage()
    step = Step(
        thought=thought,
        code=None,
        observation="",
        tool_calls=calls,
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
        seconds=usage.seconds,
    )
    return Trajectory(
        id=key,
        task=task,
        messages=tuple(messages),
        steps=(step,),
        answer=answer,
        stop_reason=ended,
        model=model.model_id,
        sample=sample,
        seed=sampling.seed,
        prompt_hash=settings.prompts.sha256[:12],
        usage=usage,
    )


def _search(task: Task, retriever: Retriever | None) -> tuple[list[Passage], tuple[ToolCall, ...]]:
    """The passages for a task, and the call as an agent's would be recorded."""
    if retriever is None:
        return [], ()
    arguments = {"query": task.question}
    try:
        [passages] = retriever.search([task.question], PASSAGES)
    except UsageError as error:  # a question that cannot be searched is answered without passages
        return [], (ToolCall("search", arguments, error=error.message),)
    found = {"passages": [passage.id for passage in passages]}
    return passages, (ToolCall("search", arguments, found),)
