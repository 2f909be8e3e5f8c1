"""Turns what CodeAgent did into Steps, and brings back what it swallowed.

CodeAgent turns an executor's exception into an observation and a failed max-steps call into the *answer*.
Guaranteed: an exception of the model, the executor or the search, met anywhere in the attempt, is raised
again by `Recorder.raise_failure`, so the attempt counts as failed and never as a wrong answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smolagents import AgentMaxStepsError, AgentParsingError
from smolagents.memory import ActionStep
from smolagents.models import ChatMessage

from agentdistill.agent.executor import SandboxExecutor
from agentdistill.models.base import BaseModel
from agentdistill.types import Completion, ErrorKind, Json, Message, Sampling, Step


class AttemptModel(BaseModel):
    """The outermost model of one attempt: fixes its sampling and remembers what its calls raised."""

    def __init__(self, model: BaseModel, sampling: Sampling) -> None:
        super().__init__(model.model_id, sampling)
        self.model = model
        self.failure: Exception | None = None

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

    def generate(self, *args: Any, **kwargs: Any) -> ChatMessage:
        try:
            return super().generate(*args, **kwargs)
        except Exception as error:
            self.failure = self.failure or error
            raise


class Recorder:
    """Collects one attempt. Give `callbacks` to CodeAgent as `step_callbacks`.

    A tool that met broken machinery has the error in its attribute `failure`: code sees a tool's exception
    as an error like any other, and would go on without it.
    """

    def __init__(self, model: AttemptModel, executor: SandboxExecutor, tools: Sequence[object] = ()) -> None:
        self.model = model
        self.executor = executor
        self.tools = tools
        self.steps: list[Step] = []
        self.tokens_in = 0
        self.tokens_out = 0
        self.reached_max_steps = False
        self._executed = 0

    @property
    def callbacks(self) -> dict[Any, Any]:
        return {ActionStep: self._on_step}

    def raise_failure(self) -> None:
        """Raise the error that model, executor or a tool met, if any: an InfrastructureError, or a bug."""
        failure = self.model.failure or self._outside_failure()
        if failure is not None:
            raise failure

    def _outside_failure(self) -> Exception | None:
        failures: list[Exception | None] = [getattr(tool, "failure", None) for tool in self.tools]
        return next((found for found in (self.executor.failure, *failures) if found is not None), None)

    def _on_step(self, memory_step: ActionStep, agent: Any = None) -> None:
        usage = memory_step.token_usage
        tokens_in = usage.input_tokens if usage else 0
        tokens_out = usage.output_tokens if usage else 0
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        if isinstance(memory_step.error, AgentMaxStepsError):
            self.reached_max_steps = True
            return
        if self._outside_failure() is not None and agent is not None:
            agent.interrupt()  # no point in going on in a lost sandbox, or without an answer
        if memory_step.model_output is None:
            return  # the model's call failed: `raise_failure` tells
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
                tokens_in=tokens_in,
                tokens_out=tokens_out,
                seconds=round(memory_step.timing.duration or 0.0, 3),
            )
        )


def _thought(text: str, opening_tag: str) -> str:
    before = text.split(opening_tag, 1)[0].strip()
    return before.removeprefix("Thought:").strip()
