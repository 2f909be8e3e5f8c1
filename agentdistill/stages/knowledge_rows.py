"""Training rows with a knowledge base (METHOD 2, step 4): one kept attempt, up to three rows.

    plain         as without a knowledge base
    knowledge     with the entry that fits in the user turn, as an attempt with `inject` would have it
    distractor    in place of `knowledge`, for about one in ten: any entry, so that the student learns to
                  leave notes aside that do not fit
    answer-only   the question and the answer, under a system prompt of its own

Guaranteed: an entry made from a row's own question is never in it; notes stand in the user turn, which is not
trained; the same rows from the same attempts and KB. A task that no entry fits has no `knowledge` row.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from agentdistill.agent.knowledge import with_notes
from agentdistill.knowledge.notes import load_notes
from agentdistill.knowledge.recall import Choice, LocalKnowledgeBase, Searcher
from agentdistill.types import Json, Message, Trajectory

ONE_IN = 10
"""Of rows with an entry, how many get one that was drawn blindly. METHOD 2: about 10 %."""
_TASK = "New task:\n"  # CodeAgent's own words before a task


class Variant(StrEnum):
    """What a row teaches."""

    PLAIN = "plain"
    KNOWLEDGE = "knowledge"
    DISTRACTOR = "distractor"
    ANSWER_ONLY = "answer-only"


class KnowledgeRows:
    """Turns rows into rows with a knowledge base; `counts` are the rows made, by variant."""

    def __init__(self, searcher: Searcher, name: str) -> None:
        self._fitting = LocalKnowledgeBase(searcher)
        self._any = LocalKnowledgeBase(searcher, Choice.RANDOM)
        self._answer_only = load_notes().answer_only
        self._name = name
        self.counts: Counter[str] = Counter()

    def rows(self, row: Json, trajectory: Trajectory, tools: Sequence[str]) -> list[Json]:
        """The rows of a kept attempt, whose row without a knowledge base is given."""
        made = [(Variant.PLAIN, row["messages"])]
        drawn = int(hashlib.sha256(row["id"].encode("utf-8", "replace")).hexdigest(), 16) % ONE_IN == 0
        found = self._fitting.recall(trajectory.task.question, trajectory.task, tools)
        if found.text and drawn:
            found = self._any.recall(trajectory.task.question, trajectory.task, tools)
        if found.text:
            system, user, *rest = row["messages"]
            asked = with_notes(user["content"].removeprefix(_TASK), found.text)
            turns = [system, Message(role="user", content=_TASK + asked), *rest]
            made.append((Variant.DISTRACTOR if drawn else Variant.KNOWLEDGE, turns))
        if trajectory.answer:
            made.append((Variant.ANSWER_ONLY, self._answering(row["messages"][1], trajectory.answer)))
        self.counts.update(variant.value for variant, _ in made)
        return [
            {
                **row,
                "id": row["id"] if variant is Variant.PLAIN else f"{row['id']}+{variant.value}",
                "variant": variant.value,
                "messages": messages,
            }
            for variant, messages in made
        ]

    def record(self) -> Json:
        """What data.json says about it."""
        return {"kb": self._name, **self._fitting.fingerprint(), "variants": dict(self.counts)}

    def _answering(self, user: Message, answer: str) -> list[Message]:
        return [
            Message(role="system", content=self._answer_only),
            Message(role="user", content=user["content"].removeprefix(_TASK)),
            Message(role="assistant", content=answer),
        ]
