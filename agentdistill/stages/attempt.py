"""One Task to one Trajectory: what generate, evaluate and chat have in common.

Guaranteed: every attempt opens a sandbox session, a fresh one but in chat, and closes it whatever happens; a
wrong, unparsable or crashing answer is data in the Trajectory, and so is a conversation that outgrew the
model's context; a broken engine or jail raises an InfrastructureError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentdistill.agent.build import CODE_BLOCK_TAGS, build_agent, sandbox_tools, system_prompt
from agentdistill.agent.executor import SandboxExecutor
from agentdistill.agent.first_thought import FirstThoughtModel
from agentdistill.agent.knowledge import Knowledge
from agentdistill.agent.record import AttemptModel, Recorder
from agentdistill.agent.self_consistency import TEMPERATURE, SelfConsistent
from agentdistill.agent.tools import PASSAGES, SearchTool
from agentdistill.errors import ContextOverflowError, UsageError
from agentdistill.models.base import BaseModel, plain_messages
from agentdistill.prompts import Prompts
from agentdistill.runs import canonical_hash
from agentdistill.stages.spending import Meter, MeteredModel
from agentdistill.stages.thoughts import FirstThoughts
from agentdistill.types import (
    Json,
    KnowledgeUse,
    Limits,
    Message,
    Retriever,
    Sampling,
    Sandbox,
    SandboxTool,
    Step,
    Task,
    Trajectory,
    to_json,
)

OpenSession = Callable[[Sequence[SandboxTool]], Sandbox]
"""Opens a fresh sandbox session with these tools: a pool's `open`."""


@dataclass(frozen=True)
class AttemptSettings:
    """What shapes an attempt beside task, model and sample index.

    `given_thoughts` maps task ids to first thoughts of one's own; they are used as they are. With a
    `retriever` the agent has the tool `search`; `knowledge` is delivered as it says. With `candidates`
    above 1 every step is the vote of so many samples (agent/self_consistency.py). Raises UsageError where
    such a vote makes no sense.
    """

    prompts: Prompts
    sampling: Sampling = field(default_factory=Sampling)
    max_steps: int = 5
    first_thought: str = "off"
    given_thoughts: Mapping[str, str] = field(default_factory=dict)
    sandbox: str = "auto"
    limits: Limits = field(default_factory=Limits)
    tools: tuple[Any, ...] = ()
    retriever: Retriever | None = None
    knowledge: Knowledge | None = None
    candidates: int = 1

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise UsageError(f"{self.candidates} candidates a step: there must be at least one")
        if self.candidates == 1:
            return
        if self.sampling.temperature == 0:
            raise UsageError(
                f"{self.candidates} candidates at temperature 0 would be {self.candidates} times the same",
                f"give a temperature, say --temperature {TEMPERATURE:g}",
            )
        for tool in sandbox_tools(self.attempt_tools()):
            if not tool.repeatable:
                raise UsageError(
                    f"tool {tool.name!r} is not repeatable, and every candidate of a step may call it",
                    "leave it out, or give --candidates 1",
                )

    def shape(self) -> dict[str, Json]:
        """The part of run.json that a RUN is bound to. The model adds its own fingerprint."""
        rule = "content" if self.first_thought == "auto" else self.first_thought
        retriever = self.retriever
        return {
            "prompts": self.prompts.sha256[:12],
            "sampling": to_json(self.sampling),
            "max_steps": self.max_steps,
            "first_thought": canonical_hash(dict(self.given_thoughts)) if self.given_thoughts else rule,
            "limits": to_json(self.limits),
            "tools": [tool.name for tool in self.attempt_tools()],
            "candidates": self.candidates,
            "retriever": {**retriever.fingerprint(), "passages": PASSAGES} if retriever else None,
            "knowledge_base": self.knowledge.shape() if self.knowledge else None,
        }

    def attempt_tools(self, task: Task | None = None) -> tuple[Any, ...]:
        """The tools of one attempt at `task`. Without a task `recall` is only there to be named."""
        tools = (*self.tools, SearchTool(self.retriever)) if self.retriever else self.tools
        if self.knowledge is None:
            return tools
        return (*tools, *self.knowledge.tools(task, [tool.name for tool in tools]))


def run_attempt(
    task: Task,
    sample: int,
    key: str,
    model: BaseModel,
    settings: AttemptSettings,
    thoughts: FirstThoughts,
    open_session: OpenSession,
    meter: Meter | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Trajectory:
    """Let an agent of `model` try `task` once. Raises InfrastructureError when the attempt has failed.

    What was spent until then is on the `meter`. `on_step` is told of each step as it ends.
    """
    meter = meter or Meter()
    model = MeteredModel(model, meter)
    # Candidate i of a step is drawn with the seed + i: no two samples of a task may share one.
    sampling = replace(settings.sampling, seed=settings.sampling.seed + sample * settings.candidates)
    thought = thoughts.of(task, model)
    prefixed = FirstThoughtModel(model, thought.text) if thought.text else None
    tools = settings.attempt_tools(task)
    question, knowledge = _question(task, model, settings, tools, sampling)
    sandbox = open_session(sandbox_tools(tools))
    try:
        executor = SandboxExecutor(sandbox)
        acting = prefixed or model
        if settings.candidates > 1:
            acting = SelfConsistent(acting, executor, settings.candidates, CODE_BLOCK_TAGS)
        attempt_model = AttemptModel(acting, sampling)
        recorder = Recorder(attempt_model, executor, tools, on_step)
        agent = build_agent(
            attempt_model,
            executor,
            recorder,
            settings.prompts,
            tools=tools,
            max_steps=settings.max_steps,
        )
        agent.state.update(task.meta.get("data", {}))
        output = _run(agent, question, recorder)
    finally:
        sandbox.close()
    if prefixed is not None:
        thought = replace(thought, prefill=prefixed.prefill)
    return Trajectory(
        id=key,
        task=task,
        messages=_conversation(agent),
        steps=tuple(recorder.steps),
        answer=None if attempt_model.overflowed else _answer(executor, output, recorder.reached_max_steps),
        stop_reason=recorder.stop_reason,
        model=model.model_id,
        sample=sample,
        seed=sampling.seed,
        prompt_hash=settings.prompts.sha256[:12],
        first_thought=thought,
        usage=meter.usage(),
        knowledge=knowledge,
    )


def _question(
    task: Task, model: BaseModel, settings: AttemptSettings, tools: Sequence[Any], sampling: Sampling
) -> tuple[str, KnowledgeUse]:
    """The user turn, with notes from the knowledge base where it has any, and what was done to it."""
    question = settings.prompts.question(task)
    if settings.knowledge is None:
        return question, KnowledgeUse()
    system = system_prompt(settings.prompts, tools)
    names = [tool.name for tool in tools]
    try:
        return settings.knowledge.question(task, question, model, system, names, sampling)
    except ContextOverflowError:  # nor will the attempt fit: that is for its first step to say
        return question, KnowledgeUse(settings.knowledge.delivery.value)


def _run(agent: Any, question: str, recorder: Recorder) -> object:
    """The agent's output; None when its conversation outgrew the context. Raises what the attempt met."""
    try:
        output: object = agent.run(question)
    except Exception:
        recorder.raise_failure()  # the cause, where CodeAgent wrapped it in an error of its own
        if not recorder.model.overflowed:
            raise
        return None
    recorder.raise_failure()
    return output


def _answer(executor: SandboxExecutor, output: object, forced: bool) -> str | None:
    """The final answer as text. A forced one is whatever the model said in the max-steps call."""
    value = output if forced else executor.executions[-1].value
    return None if value is None else str(value)


def _conversation(agent: Any) -> tuple[Message, ...]:
    """The messages up to the last assistant turn, in full: also what a call was made without."""
    messages: Sequence[Message] = plain_messages(agent.write_memory_to_messages())
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return tuple(messages[: turns[-1] + 1] if turns else messages)
