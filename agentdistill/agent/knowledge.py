"""How a knowledge base reaches an attempt (METHOD 2): in the prompt, by a tool, or only when in doubt.

    inject   what fits the task stands before the question
    recall   the agent has a tool `recall(query)`
    gated    as inject, when the model is unsure of how to begin
    off      not at all

The gate (Liao et al. 2025, arXiv 2409.13203): the model begins its reply to the system prompt and the
question; the gap between the two likeliest tokens, averaged over the first 16 it draws, says how sure it is.
Their code left the question out of that; here it is what the attempt's first call would be without notes.

Guaranteed: notes stand in the user turn only, which training masks; what was given is recorded. Not
guaranteed: that a small gap means a wrong answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from smolagents import Tool

from agentdistill.errors import KnowledgeBaseError, ModelError
from agentdistill.models.base import BaseModel
from agentdistill.types import (
    Json,
    KnowledgeBase,
    KnowledgeUse,
    Message,
    Recollection,
    Sampling,
    Task,
    ToolResult,
)

PROBE_TOKENS = 16
SURE = 0.68
"""Mean gap from which a model is left alone. Both figures are the paper's."""


class Delivery(StrEnum):
    """How entries reach an attempt."""

    INJECT = "inject"
    RECALL = "recall"
    GATED = "gated"
    OFF = "off"


@dataclass(frozen=True)
class Knowledge:
    """A knowledge base and how it is delivered."""

    base: KnowledgeBase
    delivery: Delivery = Delivery.INJECT

    def shape(self) -> Json:
        """Its part of run.json; None for `off`, which is the same as no knowledge base."""
        if self.delivery is Delivery.OFF:
            return None
        found = {**self.base.fingerprint(), "delivery": self.delivery.value}
        return found | ({"tokens": PROBE_TOKENS, "sure": SURE} if self.delivery is Delivery.GATED else {})

    def tools(self, task: Task | None, others: Sequence[str]) -> tuple[Tool, ...]:
        """What an attempt at `task` is given beside tools of these names; without a task it can be shown, and
        not called."""
        return (RecallTool(self.base, task, others),) if self.delivery is Delivery.RECALL else ()

    def question(
        self,
        task: Task,
        question: str,
        model: BaseModel,
        system: str,
        tools: Sequence[str],
        sampling: Sampling,
    ) -> tuple[str, KnowledgeUse]:
        """The user turn of an attempt whose tools have these names, and what was done to it.

        Raises KnowledgeBaseError, and with `gated` ModelError where the engine tells no probabilities.
        """
        use = KnowledgeUse(self.delivery.value)
        if self.delivery in (Delivery.OFF, Delivery.RECALL):
            return question, use
        found = self.base.recall(task.question, task, tools)
        use = replace(use, mode=found.mode, entries=found.entries)
        if not found.text:
            return question, use
        if self.delivery is Delivery.GATED:
            asked = [
                Message(role="system", content=system),
                Message(role="user", content=f"New task:\n{question}"),  # as CodeAgent puts it
            ]
            probe = model.sample_logprobs(asked, sampling=replace(sampling, max_tokens=PROBE_TOKENS))
            if probe.logprobs is None:
                raise ModelError(f"{model.model_id} tells no probabilities, which the gate needs")
            use = replace(use, gap=round(mean_gap(probe.logprobs), 4))
            if use.gap is not None and use.gap >= SURE:
                return question, use
        return with_notes(question, found.text), replace(use, injected=True)


def with_notes(question: str, notes: str) -> str:
    """The user turn with notes: in attempts and in training rows. The question stands last."""
    return f"{notes}\n\nTask:\n{question}"


def mean_gap(logprobs: Sequence[Mapping[str, float]]) -> float:
    """Mean difference of the two highest probabilities, between 0 and 1. No token at all is no doubt: 1."""
    gaps = []
    for place in logprobs:
        ordered = sorted((math.exp(value) for value in place.values()), reverse=True)
        first, second = [*ordered, 0.0, 0.0][:2]
        gaps.append(first - second)
    return sum(gaps) / len(gaps) if gaps else 1.0


class RecallTool(Tool):
    """One for each attempt. Entries made from the attempt's own question are never among the notes."""

    name = "recall"
    description = "Looks notes up on how to solve such tasks: methods, formulas, pitfalls. Print it to read."
    inputs = {"query": {"type": "string", "description": "a few words on what is to be done"}}  # noqa: RUF012
    output_type = "string"
    repeatable = True

    def __init__(
        self, base: KnowledgeBase | None = None, task: Task | None = None, tools: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.offered = (*tools, self.name)
        self.base = base
        self.task = task
        self.failure: Exception | None = None

    def forward(self, query: str) -> str:
        return str(self.recorded(query).value)

    def recorded(self, query: object) -> ToolResult:
        """The text for the code, and the ids of the entries for the ToolCall."""
        if not isinstance(query, str):
            raise ValueError(f"recall takes one text, not a value of type {type(query).__name__}")
        if self.base is None or self.task is None:
            raise ValueError("there is nothing to recall")
        try:
            found: Recollection = self.base.recall(query, self.task, self.offered)
        except KnowledgeBaseError as error:
            self.failure = self.failure or error
            raise
        text = found.text or "Nothing is noted about that. Go on without."
        return ToolResult(text, {"entries": list(found.entries), "mode": found.mode})
