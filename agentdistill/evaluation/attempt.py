"""One attempt as a readable page, whatever draws it: a terminal (`tui/`) or HTML (`attempts_page.py`).

Guaranteed: nothing of the attempt is left out but its messages, which are the steps once more; the prompt it
began with is there. Texts are as they are stored: whoever draws them cuts them, and makes them safe to show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from agentdistill.errors import RunDirectoryError
from agentdistill.types import Candidate, Json, Score, Step, ThoughtStatus, ToolCall, Trajectory

_BAR = 8
"""Cells of the bar that shows a share of votes."""


class Look(StrEnum):
    """What a text is, and so how it is drawn."""

    QUESTION = "question"
    THOUGHT = "thought"
    CODE = "code"
    SEEN = "seen"  # what came back from the code
    ERROR = "error"
    NOTE = "note"  # our own words
    PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class Part:
    """A text of the page. `label` is a word in front of it, or nothing."""

    look: Look
    text: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Texts under a title, and sections in it. `folded` ones are opened on demand."""

    title: str
    parts: tuple[Part, ...] = ()
    sections: tuple[Section, ...] = ()
    folded: bool = False


@dataclass(frozen=True, slots=True)
class AttemptPage:
    """`verdict` is True, False, or None where the attempt was not graded."""

    title: str
    verdict: bool | None
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]


def attempt_page(trajectory: Trajectory, score: Score | None) -> AttemptPage:
    """The page of an attempt: question and answers, what it was given, its steps.

    Raises RunDirectoryError for a row that was edited into something else than numbers and texts.
    """
    try:
        return _page(trajectory, score)
    except (TypeError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"attempt {trajectory.id} cannot be shown: {error}") from error


def _page(trajectory: Trajectory, score: Score | None) -> AttemptPage:
    return AttemptPage(
        title=trajectory.task.id + (f" · sample {trajectory.sample}" if trajectory.sample else ""),
        verdict=score.correct if score else None,
        facts=tuple(_facts(trajectory, score)),
        sections=(
            Section("Question", (Part(Look.QUESTION, trajectory.task.question), *_answers(trajectory))),
            *_given(trajectory),
            *(_step(number, step) for number, step in enumerate(trajectory.steps, 1)),
            *_without_steps(trajectory),
        ),
    )


def verdict_words(verdict: bool | None) -> str:
    return {True: "✓ right", False: "✗ wrong", None: "not graded"}[verdict]


def _facts(trajectory: Trajectory, score: Score | None) -> Iterator[tuple[str, str]]:
    usage = trajectory.usage
    if score is not None:
        yield "graded by", f"{score.method}{': ' if score.detail else ''}{score.detail}"
    yield "ended", str(trajectory.stop_reason).replace("_", " ")
    yield "steps", str(len(trajectory.steps))
    yield "tokens", f"{usage.tokens_in:,} read, {usage.tokens_out:,} written"
    yield "time", f"{usage.seconds:,.1f} s"
    if usage.usd is not None:
        yield "cost", f"${usage.usd:.4f}"
    yield "model", trajectory.model
    yield "source", trajectory.task.source or "tasks"
    yield "attempt", trajectory.id


def _answers(trajectory: Trajectory) -> Iterator[Part]:
    yield Part(Look.NOTE, trajectory.task.answer, "right answer")
    if trajectory.answer is None:
        yield Part(Look.ERROR, "none was given", "answer")
    else:
        yield Part(Look.NOTE, trajectory.answer, "answer")


def _given(trajectory: Trajectory) -> Iterator[Section]:
    """What the agent had before its first step."""
    first = next(
        (i for i, message in enumerate(trajectory.messages) if message["role"] == "assistant"),
        len(trajectory.messages),
    )
    prompt = tuple(Part(Look.PROMPT, m["content"], m["role"]) for m in trajectory.messages[:first])
    if prompt:
        yield Section("Prompt", prompt, folded=True)
    knowledge = trajectory.knowledge
    if knowledge.delivery != "off":
        named = ", ".join(map(str, knowledge.entries)) or "none fitted"
        how = f"{knowledge.delivery}, found by {knowledge.mode}" if knowledge.mode else knowledge.delivery
        gap = f", the gate measured {knowledge.gap:.3f}" if isinstance(knowledge.gap, float) else ""
        where = "in the prompt" if knowledge.injected else "not in the prompt"
        yield Section("Knowledge entries", (Part(Look.NOTE, f"{named} ({how}{gap}; {where})"),))
    thought = trajectory.first_thought
    if thought.status is not ThoughtStatus.OFF:
        how = f"{thought.status}, rule {thought.rule}" + (
            f", delivered by {thought.prefill}" if thought.prefill else ""
        )
        right = {True: ", which was right", False: ", which was wrong", None: ""}.get(thought.cot_correct, "")
        yield Section(
            f"First thought ({how})",
            (
                *((Part(Look.THOUGHT, thought.text),) if thought.text else ()),
                *((Part(Look.THOUGHT, thought.cot, f"cut from{right}"),) if thought.cot else ()),
            ),
            folded=True,
        )


def _step(number: int, step: Step) -> Section:
    counts = f"{step.tokens_in:,} read, {step.tokens_out:,} written, {step.seconds:.1f} s"
    parts = [Part(Look.THOUGHT, step.thought)] if step.thought.strip() else []
    if step.code is not None:
        parts.append(Part(Look.CODE, step.code))
    parts += [_call(call) for call in step.tool_calls]
    if step.error is not None:
        parts.append(Part(Look.ERROR, step.error, str(step.error_kind or "error")))
    # An error is part of what the model reads next: it is not said twice.
    if step.observation.strip() and step.observation.strip() != (step.error or "").strip():
        parts.append(Part(Look.SEEN, step.observation, "observation"))
    if step.dropped:
        named = ", ".join(str(index + 1) for index in step.dropped)
        parts.append(Part(Look.NOTE, f"did not see the observations of steps {named}: no room"))
    return Section(f"Step {number} · {counts}", tuple(parts), tuple(_candidates(step.candidates)))


def _call(call: ToolCall) -> Part:
    """A tool call as the code wrote it, and what came back: ids of parts or entries, a value, an error."""
    given = call.arguments
    said = (
        ", ".join(f"{k}={_brief(v)}" for k, v in given.items()) if isinstance(given, dict) else _brief(given)
    )
    found = call.result
    if call.error is not None:
        answer = f"failed: {call.error}"
    elif isinstance(found, dict) and len(found) == 1 and isinstance(next(iter(found.values())), list):
        [(what, ids)] = found.items()
        answer = f"{what} {', '.join(map(str, ids)) or 'none'}"
    else:
        answer = _brief(found)
    return Part(Look.NOTE, f"{call.name}({said}) → {answer} · {call.seconds:.2f} s", "tool")


def _brief(value: Json) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]} … ({len(text) - 300:,} characters more)"


def _candidates(candidates: Sequence[Candidate]) -> Iterator[Section]:
    if not candidates:
        return
    chosen = next((candidate for candidate in candidates if candidate.chosen), None)
    won = f"the chosen result has {chosen.votes} of the votes" if chosen else "none was chosen"
    yield Section(
        f"{len(candidates)} candidates, {won}",
        sections=tuple(
            _candidate(number, candidate, len(candidates)) for number, candidate in enumerate(candidates, 1)
        ),
        folded=True,
    )


def _candidate(number: int, candidate: Candidate, of: int) -> Section:
    full = round(_BAR * candidate.votes / of) if isinstance(candidate.votes, int) else 0
    bar = "█" * full + "░" * (_BAR - full)
    execution = candidate.execution
    if execution is None:
        result = "no code could be read"
    elif execution.error_kind is not None:
        result = str(execution.error_kind)
    elif execution.value is None and execution.logs.strip():
        result = f"printed {_brief(execution.logs.strip())}"
    else:
        result = _brief(execution.value)
    # The code stands at the end of the text: it is not shown twice.
    before = candidate.text.partition(candidate.code)[0] if candidate.code else candidate.text
    before = before.strip().removesuffix("<code>").strip()
    parts = [Part(Look.THOUGHT, before)] if before else []
    if candidate.code is not None:
        parts.append(Part(Look.CODE, candidate.code))
    if execution is not None:
        parts += [_call(call) for call in execution.tool_calls]
        if execution.logs:
            parts.append(Part(Look.SEEN, execution.logs, "printed"))
        if execution.error is not None:
            parts.append(Part(Look.ERROR, execution.error, str(execution.error_kind or "error")))
    mark = " · chosen" if candidate.chosen else ""
    return Section(f"{bar} {candidate.votes} · #{number}{mark} · {result}", tuple(parts), folded=True)


def _without_steps(trajectory: Trajectory) -> Iterator[Section]:
    """A chain of thought has no steps: its last message is all there is."""
    if not trajectory.steps and trajectory.messages and trajectory.messages[-1]["role"] == "assistant":
        yield Section("Chain of thought", (Part(Look.THOUGHT, trajectory.messages[-1]["content"]),))
