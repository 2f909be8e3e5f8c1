"""The first thoughts of a call: off, given in a file, or cut from a chain of thought (METHOD 1.1).

Guaranteed: a task's chain of thought is drawn once, whatever the number of samples and however often the RUN
was stopped after an attempt with it was stored. The attempt that draws it pays for it. Safe to use from
several threads; who needs a chain that is being drawn waits for it.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentdistill.agent import first_thought
from agentdistill.agent.build import chain_of_thought_prompt
from agentdistill.errors import ContextOverflowError, UsageError
from agentdistill.grading import Grader
from agentdistill.grading.extract import final_answer
from agentdistill.models.base import BaseModel
from agentdistill.runs import read_trajectories
from agentdistill.types import FirstThought, Task, ThoughtStatus

if TYPE_CHECKING:
    from agentdistill.stages.attempt import AttemptSettings

FIRST_THOUGHTS = ("off", "auto", "paragraph", "content", "correct-only")
"""Names `--first-thought` takes beside a FILE. `auto` is `content`; `correct-only` is `content` with first
thoughts of wrong chains left out."""


class FirstThoughts:
    """First thoughts by task, by the rule of `settings`; `stored` are those that need not be drawn.

    Raises UsageError for a rule that nobody knows.
    """

    def __init__(
        self, settings: AttemptSettings, grader: Grader, stored: Mapping[str, FirstThought] | None = None
    ) -> None:
        rule = settings.first_thought
        if rule not in FIRST_THOUGHTS and not settings.given_thoughts:
            raise UsageError(f"first thought {rule!r} is none of {', '.join(FIRST_THOUGHTS)}, and no file")
        self._settings = settings
        self._grader = grader
        self._known = dict(stored or {})
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._opening = threading.Lock()

    def of(self, task: Task, model: BaseModel) -> FirstThought:
        """The first thought of a task; `prefill` is left empty. Raises ModelError or GradingError."""
        settings = self._settings
        if settings.given_thoughts:
            text = settings.given_thoughts.get(task.id, "").strip()
            status = ThoughtStatus.USED if text else ThoughtStatus.EMPTY
            return FirstThought(status=status, text=text, rule="given")
        if settings.first_thought == "off":
            return FirstThought()
        with self._opening:
            lock = self._locks[task.id]
        with lock:
            if task.id not in self._known:
                self._known[task.id] = self._drawn(task, model)
            return self._known[task.id]

    def learn(self, task: Task, thought: FirstThought) -> None:
        """This is the task's first thought, unless it has one: it was drawn elsewhere."""
        self._known.setdefault(task.id, thought)

    def _drawn(self, task: Task, model: BaseModel) -> FirstThought:
        settings = self._settings
        rule = "content" if settings.first_thought == "auto" else settings.first_thought
        prompt = chain_of_thought_prompt(settings.prompts, settings.attempt_tools())
        try:
            drawn = first_thought.draw(model, prompt, settings.prompts.question(task), settings.sampling.seed)
        except ContextOverflowError:  # nor will the attempt fit: that is for its first step to say
            return FirstThought(status=ThoughtStatus.EMPTY, rule=rule)
        cot = drawn.text
        correct, _, _ = self._grader.grade(final_answer(cot) or None, task)
        status, text = first_thought.cut(cot, task, "paragraph" if rule == "paragraph" else "content")
        if rule == "correct-only" and not correct:
            status, text = ThoughtStatus.WRONG, ""
        return FirstThought(status=status, text=text, rule=rule, cot=cot, cot_correct=correct)


def drawn_before(out: Path, tasks: Sequence[Task]) -> dict[str, FirstThought]:
    """The first thoughts of these tasks that attempts stored in `out` hold."""
    if not (out / "run.json").exists():
        return {}
    questions = {task.id: task.question for task in tasks}
    return {
        stored.task.id: replace(stored.first_thought, prefill="")
        for stored in read_trajectories(out)
        if questions.get(stored.task.id) == stored.task.question
    }


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
