"""Turns what CodeAgent did into Steps, and brings back what it swallowed.

CodeAgent turns an executor's exception into an observation and a failed max-steps call into the *answer*.
Guaranteed: an exception of the model, the executor or the search, met anywhere in the attempt, is raised
again by `Recorder.raise_failure`, so the attempt counts as failed and never as a wrong answer. A conversation
that outgrows the model's context is no failure: the oldest observations are left out of the call until it
fits, and each Step says which ones it did not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from smolagents import AgentMaxStepsError, AgentParsingError
from smolagents.memory import ActionStep
from smolagents.models import ChatMessage, MessageRole

from agentdistill.agent.executor import SandboxExecutor
from agentdistill.agent.self_consistency import Voted
from agentdistill.errors import ContextOverflowError
from agentdistill.models.base import BaseModel
from agentdistill.types import Candidate, Completion, ErrorKind, Json, Message, Sampling, Step, StopReason

DROPPED = "Observation:\n(left out: the conversation is too long)"
"""What stands in a call where an observation stood."""


class AttemptModel(BaseModel):
    """The outermost model of one attempt: fixes its sampling and remembers what its calls raised.

    `dropped` are the steps whose observations calls are made without; it only grows, as the conversation
    does. `overflowed` says that a call did not fit without any observation: the attempt is over.
    """

    def __init__(self, model: BaseModel, sampling: Sampling) -> None:
        super().__init__(model.model_id, sampling)
        self.model = model
        self.failure: Exception | None = None
        self.dropped: tuple[int, ...] = ()
        self.overflowed = False

    def fingerprint(self) -> dict[str, Json]:
        return self.model.fingerprint()

    def sample(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        prefix: str = "",
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[Completion]:
        return self.model.sample(messages, n, prefix=prefix, stop=stop, sampling=sampling or self.sampling)

    def draw(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        sampling: Sampling | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[int, Completion]]:
        return self.model.draw(messages, n, sampling=sampling or self.sampling, **kwargs)

    def generate(self, messages: Sequence[ChatMessage], *args: Any, **kwargs: Any) -> ChatMessage:
        while True:
            try:
                return super().generate(list(_without(messages, self.dropped)), *args, **kwargs)
            except ContextOverflowError:
                seen = [step for step in _observed(messages) if step not in self.dropped]
                if not seen:
                    self.overflowed = True
                    raise
                self.dropped += (seen[0],)
            except Exception as error:
                self.failure = self.failure or error
                raise


def _numbered(messages: Sequence[ChatMessage]) -> Iterator[tuple[ChatMessage, int | None]]:
    """Messages, each with the step it is an observation (or an error) of, counted from 0; None for others."""
    step = -1
    for message in messages:
        step += message.role == MessageRole.ASSISTANT
        yield message, step if message.role == MessageRole.TOOL_RESPONSE else None


def _observed(messages: Sequence[ChatMessage]) -> list[int]:
    """The steps that have an observation, in order."""
    return list(dict.fromkeys(step for _, step in _numbered(messages) if step is not None))


def _without(messages: Sequence[ChatMessage], dropped: Sequence[int]) -> Iterator[ChatMessage]:
    """The messages, with one short line in place of what these steps have observed."""
    said: set[int] = set()
    for message, step in _numbered(messages):
        if step not in dropped:
            yield message
        elif step is not None and step not in said:
            said.add(step)
            yield ChatMessage(role=MessageRole.TOOL_RESPONSE, content=DROPPED)


class Recorder:
    """Collects one attempt. Give `callbacks` to CodeAgent as `step_callbacks`.

    A tool that met broken machinery has the error in its attribute `failure`: code sees a tool's exception
    as an error like any other, and would go on without it. `on_step` is told of each step that ends
    with its machinery whole.
    """

    def __init__(
        self,
        model: AttemptModel,
        executor: SandboxExecutor,
        tools: Sequence[object] = (),
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self.model = model
        self.executor = executor
        self.tools = tools
        self.on_step = on_step
        self.steps: list[Step] = []
        self.reached_max_steps = False
        self._executed = 0

    @property
    def callbacks(self) -> dict[Any, Any]:
        return {ActionStep: self._on_step}

    @property
    def stop_reason(self) -> StopReason:
        if self.model.overflowed:
            return StopReason.CONTEXT
        return StopReason.MAX_STEPS if self.reached_max_steps else StopReason.FINAL_ANSWER

    def raise_failure(self) -> None:
        """Raise the error that model, executor or a tool met, if any: an InfrastructureError, or a bug."""
        failure = self.model.failure or self._outside_failure()
        if failure is not None:
            raise failure

    def _outside_failure(self) -> Exception | None:
        failures: list[Exception | None] = [getattr(tool, "failure", None) for tool in self.tools]
        return next((found for found in (self.executor.failure, *failures) if found is not None), None)

    def _on_step(self, memory_step: ActionStep, agent: Any = None) -> None:
        if isinstance(memory_step.error, AgentMaxStepsError):
            self.reached_max_steps = True
            return
        if self._outside_failure() is not None and agent is not None:
            agent.interrupt()  # no point in going on in a lost sandbox, or without an answer
        if memory_step.model_output is None:
            return  # the model's call failed: `raise_failure` tells
        usage = memory_step.token_usage
        ran = self.executor.executions[self._executed :]
        self._executed = len(self.executor.executions)
        execution = ran[-1] if ran else None
        error_kind = None
        if isinstance(memory_step.error, AgentParsingError):
            error_kind = ErrorKind.PARSE
        elif execution is not None:
            error_kind = execution.error_kind
        self.steps.append(
            Step(
                thought=_thought(memory_step.model_output, agent.code_block_tags[0]),
                code=memory_step.code_action,
                observation=memory_step.observations or "",
                error=str(memory_step.error) if memory_step.error else None,
                error_kind=error_kind,
                tool_calls=execution.tool_calls if execution else (),
                candidates=_candidates(memory_step.model_output_message),
                tokens_in=usage.input_tokens if usage else 0,
                tokens_out=usage.output_tokens if usage else 0,
                seconds=round(memory_step.timing.duration or 0.0, 3),
                dropped=self.model.dropped,
            )
        )
        if self.on_step is not None and self._outside_failure() is None:
            self.on_step(self.steps[-1])


def _candidates(message: ChatMessage | None) -> tuple[Candidate, ...]:
    """What the step was voted from; nothing where one completion was drawn."""
    raw = message.raw if message is not None else None
    return raw.candidates if isinstance(raw, Voted) else ()


def _thought(text: str, opening_tag: str) -> str:
    before = text.split(opening_tag, 1)[0].strip()
    return before.removeprefix("Thought:").strip()
