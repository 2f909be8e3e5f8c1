"""From a failed attempt to an entry: what the teacher is asked, how its reply is read, what is refused
(METHOD 2, steps 1 and 2).

Guaranteed: the prompt holds neither the right answer nor a teacher's way to it; an entry that states the
answer to its question, or repeats eight words of the question in a row, is refused with its reason. Not
guaranteed: that an entry is true, or that it helps; and a leak in other words than those that
grading/stated.py knows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any

import yaml
from pydantic import ValidationError

from agentdistill.errors import ConfigError
from agentdistill.grading.stated import forms, states
from agentdistill.knowledge.entry import (
    MAX_BULLET,
    MAX_BULLETS,
    Entry,
    FromTrajectory,
    Kind,
    Status,
    new_id,
    question_hash,
)
from agentdistill.knowledge.recall import family
from agentdistill.types import ErrorKind, Message, StopReason, Task, Trajectory

GRAM = 8
"""Words in a row that an entry may not share with its question (METHOD 2)."""
MAX_THOUGHT, MAX_CODE, MAX_SEEN = 400, 800, 300
"""Characters of a step's thought, code and observation that the teacher is shown."""
MAX_QUESTION = 3000
MAX_STEPS = 6
"""Steps shown, the last ones."""


class Refusal(StrEnum):
    """Why a reply is no entry."""

    FORM = "the reply has no title, no trigger or no bullet"
    ANSWER = "it states the answer"
    QUESTION = f"it repeats {GRAM} words of the question"
    MERGED = "the entry it would go into would state the answer"


class ErrorClass(StrEnum):
    """What went wrong in an attempt: the names of `error_classes` in prompts/distill.yaml."""

    PARSE = "parse"
    EXCEPTION = "exception"
    LIMITS = "limits"
    QUERY = "query"
    NO_ANSWER = "no_answer"
    WRONG = "wrong"


@dataclass(frozen=True)
class DistillPrompt:
    """prompts/distill.yaml, or a file of one's own with its keys."""

    text: str
    content: dict[str, Any]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def messages(self, failed: Trajectory) -> list[Message]:
        """What the teacher is asked about a failed attempt."""
        kind, detail = error_class(failed)
        slots = {
            "question": failed.task.question[:MAX_QUESTION],
            "attempt": compacted(failed),
            "error": self.content["error_classes"][kind.value].replace("{detail}", detail),
        }
        asked = re.sub(r"\{(question|attempt|error)\}", lambda slot: slots[slot[1]], self.content["user"])
        return [
            Message(role="system", content=self.content["system"]),
            Message(role="user", content=self.content["example_user"]),
            Message(role="assistant", content=self.content["example_assistant"]),
            Message(role="user", content=asked),
        ]


def load_distill_prompt(text: str | None = None) -> DistillPrompt:
    """The prompt that ships, or another one's text. Raises ConfigError naming what it lacks."""
    if text is None:
        text = resources.files("agentdistill.prompts").joinpath("distill.yaml").read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"the distilling prompt is no YAML: {' '.join(str(error).split())}") from error
    wanted = ["system", "example_user", "example_assistant", "user", "error_classes"]
    found = content if isinstance(content, dict) else {}
    missing = [name for name in wanted if name not in found]
    classes = found.get("error_classes")
    missing += [f"error_classes.{c}" for c in ErrorClass if not isinstance(classes, dict) or c not in classes]
    if missing:
        raise ConfigError(f"the distilling prompt lacks {missing[0]!r}", "start from prompts/distill.yaml")
    return DistillPrompt(text, content)


def error_class(failed: Trajectory) -> tuple[ErrorClass, str]:
    """What went wrong, and the last line of what Python said."""
    last = failed.steps[-1] if failed.steps else None
    if failed.answer is not None and failed.stop_reason is StopReason.FINAL_ANSWER:
        return ErrorClass.WRONG, ""
    if last is None or last.error_kind is None:
        return ErrorClass.NO_ANSWER, ""
    detail = _cut((last.error or "").strip().split("\n")[-1], 120)
    match last.error_kind:
        case ErrorKind.PARSE:
            return ErrorClass.PARSE, detail
        case ErrorKind.TIMEOUT | ErrorKind.MEMORY | ErrorKind.DIED:
            return ErrorClass.LIMITS, detail
        case ErrorKind.TOOL:
            return ErrorClass.QUERY, detail
        case ErrorKind.EXCEPTION if any(call.error for call in last.tool_calls):
            return ErrorClass.QUERY, detail
    return ErrorClass.EXCEPTION, detail


def shown_steps(failed: Trajectory) -> tuple[int, int]:
    """The first and the last step that the teacher is shown, counted from 0."""
    last = max(0, len(failed.steps) - 1)
    return max(0, last - MAX_STEPS + 1), last


def compacted(failed: Trajectory) -> str:
    """Thought, code and observation of the last steps, each cut to its length."""
    first, last = shown_steps(failed)
    parts: list[str] = []
    for step in failed.steps[first : last + 1]:
        parts.append(f"Thought: {_cut(step.thought, MAX_THOUGHT)}")
        if step.code:
            parts.append(f"Code: {_cut(step.code, MAX_CODE)}")
        seen = step.error or step.observation
        if seen.strip():
            # The end of a traceback says what happened, the beginning of an output what it is.
            kept = seen.strip()[-MAX_SEEN:] if step.error else _cut(seen, MAX_SEEN)
            parts.append(f"{'Error' if step.error else 'Observation'}: {kept}")
    if failed.answer is not None:
        parts.append(f"The student's answer: {_cut(failed.answer, MAX_SEEN)}")
    return "\n".join(parts) or "(nothing)"


def _cut(text: str, most: int) -> str:
    text = text.strip()
    return text if len(text) <= most else text[:most].rstrip() + " ..."


# ---------------------------------------------------------------------- the reply

_FIELD = re.compile(r"^[\s#*]*(KIND|TITLE|WHEN|LEARN|KNOW)\b[*\s]*:[*\s]*(.*)$", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+(.+)$")


def read_reply(
    reply: str, failed: Trajectory, student: str, teacher: str, prompt: DistillPrompt
) -> Entry | Refusal:
    """The entry that a reply describes. A KIND that is none of ours becomes `procedure`."""
    fields = {"KIND": "", "TITLE": "", "WHEN": ""}
    bullets: dict[str, list[str]] = {"LEARN": [], "KNOW": []}
    at = ""
    for line in reply.splitlines():
        if found := _FIELD.match(line):
            at = found[1].upper()
            line = found[2]
            if at in fields:
                fields[at] = fields[at] or _bare(line)
                continue
        item = _BULLET.match(line)
        text = _bare(item[1] if item else line)
        if at in bullets and text and len(text) <= MAX_BULLET:
            bullets[at].append(text)
    kind = fields["KIND"].lower().replace(" ", "_")
    task = failed.task
    name = family(task)
    try:
        return Entry(
            id=new_id(fields["TITLE"], f"{failed.id} {teacher} {prompt.sha256}"),
            status=Status.ACTIVE,
            kind=Kind(kind) if kind in tuple(Kind) else Kind.PROCEDURE,
            title=_cut(fields["TITLE"], 120),
            trigger=_cut(fields["WHEN"], 190),
            learning_summary=_distinct(bullets["LEARN"]),
            supplementary_knowledge=_distinct(bullets["KNOW"]),
            task_kinds=(task.kind,),
            families=(name,) if name else (),
            provenance=(
                FromTrajectory(
                    trajectory=failed.id,
                    steps=shown_steps(failed),
                    question=question_hash(task.question),
                    student=student,
                    teacher=teacher,
                    prompt=prompt.sha256[:12],
                ),
            ),
        )
    except ValidationError:
        return Refusal.FORM


def _bare(text: str) -> str:
    """One line without marks of Markdown around it and without control characters."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return " ".join(text.replace("**", "").split()).strip("`")


def _distinct(bullets: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(bullets))[:MAX_BULLETS]


# ---------------------------------------------------------------------- leaks


def leak(entry: Entry, task: Task) -> Refusal | None:
    """Whether an entry gives the task's answer away, or repeats its question."""
    if any(states(line, form) for form in forms(task.answer, task) for line in entry.text.split("\n")):
        return Refusal.ANSWER
    asked = _plain_words(task.question)
    # Line by line: nobody reads two bullets as one sentence. A short question counts as a whole.
    for line in entry.text.split("\n"):
        words = _plain_words(line)
        if _runs(words, GRAM) & _runs(asked, GRAM) or (
            2 < len(asked) < GRAM and tuple(asked) in _runs(words, len(asked))
        ):
            return Refusal.QUESTION
    return None


def _plain_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


def _runs(words: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}
