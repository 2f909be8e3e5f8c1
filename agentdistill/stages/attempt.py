"""One Task to one Trajectory: what generate, evaluate and chat have in common.

Guaranteed: every attempt gets a fresh sandbox session, which is closed whatever happens; a wrong, unparsable
or crashing answer is data in the Trajectory, a broken engine or jail raises an InfrastructureError.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentdistill.agent import first_thought as thoughts
from agentdistill.agent.build import build_agent, chain_of_thought_prompt, sandbox_tools
from agentdistill.agent.executor import SandboxExecutor
from agentdistill.agent.record import AttemptModel, Recorder
from agentdistill.agent.tools import PASSAGES, SearchTool
from agentdistill.errors import UsageError
from agentdistill.grading import Grader
from agentdistill.models.base import BaseModel, plain_messages
from agentdistill.prompts import Prompts
from agentdistill.types import (
    FirstThought,
    Json,
    Limits,
    Message,
    Retriever,
    Sampling,
    Sandbox,
    SandboxTool,
    StopReason,
    Task,
    ThoughtStatus,
    Trajectory,
    Usage,
    to_json,
)

OpenSession = Callable[[Sequence[SandboxTool]], Sandbox]
"""Opens a fresh sandbox session with these tools: a pool's `open`."""

FIRST_THOUGHTS = ("off", "auto", "paragraph", "content", "correct-only")
"""Names `--first-thought` takes beside a FILE. `auto` is `content`; `correct-only` is `content` with first
thoughts of wrong chains left out."""


@dataclass(frozen=True)
class AttemptSettings:
    """What shapes an attempt beside task, model and sample index.

    `given_thoughts` maps task ids to first thoughts of one's own; they are used as they are. With a
    `retriever` the agent has the tool `search`.
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

    def shape(self) -> dict[str, Json]:
        """The part of run.json that a RUN is bound to. The model adds its own fingerprint."""
        from agentdistill.runs import canonical_hash

        rule = "content" if self.first_thought == "auto" else self.first_thought
        retriever = self.retriever
        return {
            "prompts": self.prompts.sha256[:12],
            "sampling": to_json(self.sampling),
            "max_steps": self.max_steps,
            "first_thought": canonical_hash(dict(self.given_thoughts)) if self.given_thoughts else rule,
            "limits": to_json(self.limits),
            "tools": [tool.name for tool in self.attempt_tools()],
            "candidates": 1,
            "retriever": {**retriever.fingerprint(), "passages": PASSAGES} if retriever else None,
            "knowledge_base": None,
        }

    def attempt_tools(self) -> tuple[Any, ...]:
        """The tools of one attempt."""
        return (*self.tools, SearchTool(self.retriever)) if self.retriever else self.tools


def run_attempt(
    task: Task,
    sample: int,
    key: str,
    model: BaseModel,
    settings: AttemptSettings,
    grader: Grader,
    open_session: OpenSession,
) -> Trajectory:
    """Let an agent of `model` try `task` once. Raises InfrastructureError when the attempt has failed."""
    started = time.monotonic()
    sampling = replace(settings.sampling, seed=settings.sampling.seed + sample)
    thought, cost = _first_thought(task, model, sampling, settings, grader)
    prefixed = thoughts.FirstThoughtModel(model, thought.text) if thought.text else None
    attempt_model = AttemptModel(prefixed or model, sampling)
    tools = settings.attempt_tools()
    sandbox = open_session(sandbox_tools(tools))
    try:
        executor = SandboxExecutor(sandbox)
        recorder = Recorder(attempt_model, executor, tools)
        agent = build_agent(
            attempt_model,
            executor,
            recorder,
            settings.prompts,
            tools=tools,
            max_steps=settings.max_steps,
        )
        agent.state.update(task.meta.get("data", {}))
        try:
            output = agent.run(settings.prompts.question(task))
        except Exception:
            recorder.raise_failure()  # the cause, where CodeAgent wrapped it in an error of its own
            raise
        recorder.raise_failure()
    finally:
        sandbox.close()
    if prefixed is not None:
        thought = replace(thought, prefill=prefixed.prefill)
    return Trajectory(
        id=key,
        task=task,
        messages=_conversation(agent),
        steps=tuple(recorder.steps),
        answer=_answer(executor, output, recorder.reached_max_steps),
        stop_reason=StopReason.MAX_STEPS if recorder.reached_max_steps else StopReason.FINAL_ANSWER,
        model=model.model_id,
        sample=sample,
        seed=sampling.seed,
        prompt_hash=settings.prompts.sha256[:12],
        first_thought=thought,
        usage=Usage(
            tokens_in=recorder.tokens_in + cost.tokens_in,
            tokens_out=recorder.tokens_out + cost.tokens_out,
            seconds=round(time.monotonic() - started, 3),
        ),
    )


def _first_thought(
    task: Task, model: BaseModel, sampling: Sampling, settings: AttemptSettings, grader: Grader
) -> tuple[FirstThought, Usage]:
    rule = settings.first_thought
    if settings.given_thoughts:
        text = settings.given_thoughts.get(task.id, "").strip()
        status = ThoughtStatus.USED if text else ThoughtStatus.EMPTY
        return FirstThought(status=status, text=text, rule="given"), Usage()
    if rule == "off":
        return FirstThought(), Usage()
    if rule not in FIRST_THOUGHTS:
        raise UsageError(f"first thought {rule!r} is none of {', '.join(FIRST_THOUGHTS)}, and no file")
    prompt = chain_of_thought_prompt(settings.prompts, settings.attempt_tools())
    cot = thoughts.draw(model, prompt, settings.prompts.question(task), sampling.seed)
    cost = Usage(cot.tokens_in or 0, cot.tokens_out or 0)
    correct, _, _ = grader.grade(thoughts.final_answer(cot.text) or None, task)
    cut_rule = "paragraph" if rule == "paragraph" else "content"
    status, text = thoughts.cut(cot.text, task, cut_rule)
    if rule == "correct-only" and not correct:
        status, text = ThoughtStatus.WRONG, ""
    return FirstThought(status=status, text=text, rule=rule, cot=cot.text, cot_correct=correct), cost


def _answer(executor: SandboxExecutor, output: object, forced: bool) -> str | None:
    """The final answer as text. A forced one is whatever the model said in the max-steps call."""
    value = output if forced else executor.executions[-1].value
    return None if value is None else str(value)


def _conversation(agent: Any) -> tuple[Message, ...]:
    """The messages up to the last assistant turn, as the model saw and wrote them."""
    messages: Sequence[Message] = plain_messages(agent.write_memory_to_messages())
    last = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=-1)
    return tuple(messages[: last + 1])


def load_thoughts(file: Path) -> dict[str, str]:
    """First thoughts of one's own: JSON Lines of `{"id": TASK_ID, "first_thought": TEXT}`.

    Raises UsageError.
    """
    thoughts_by_id: dict[str, str] = {}
    number = 0
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            number += 1
            if line.strip():
                row = json.loads(line)
                thoughts_by_id[str(row["id"])] = str(row["first_thought"])
    except OSError as error:
        names = ", ".join(FIRST_THOUGHTS)
        raise UsageError(
            f"--first-thought {file}: neither one of {names} nor a file that can be read"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} line {number}: needs id and first_thought as JSON") from error
    if not thoughts_by_id:
        raise UsageError(f"{file} holds no first thoughts")
    return thoughts_by_id
