"""What a conversation tells its listener while a turn goes on.

A listener is called from several threads (the turn's, the model's, a tool's): it had better hand on and
return. Texts are a model's, its code's or a corpus's: hostile, to be made visible before they are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from agentdistill.types import Passage, Recollection, Step, Trajectory


@dataclass(frozen=True, slots=True)
class TurnBegan:
    """A question was taken; `number` counts turns from 1, undone ones left out."""

    number: int
    question: str


@dataclass(frozen=True, slots=True)
class TextGrew:
    """The text of a candidate so far, in the call that goes on."""

    candidate: int
    text: str


@dataclass(frozen=True, slots=True)
class Drew:
    """A call of the model has ended: tokens written (None where not told), and seconds since its first text,
    or since its beginning where none was heard."""

    tokens: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class ApprovalAsked:
    """Code waits for a yes or no: whoever listens sets `reply`."""

    code: str
    reply: Future[bool]


@dataclass(frozen=True, slots=True)
class CodeRuns:
    """Code starts to run, in the session or in a fork of it."""

    code: str


@dataclass(frozen=True, slots=True)
class PassagesFound:
    """What a search has given."""

    query: str
    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class EntriesRecalled:
    """What the knowledge base has given."""

    query: str
    found: Recollection


@dataclass(frozen=True, slots=True)
class StepTaken:
    """A step has ended; `number` counts from 1."""

    number: int
    step: Step


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The turn is part of the conversation now."""

    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class TurnFailed:
    """The turn was stopped, or something broke: there is no trace of it but this line."""

    message: str
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class Noticed:
    """One line that the person should see."""

    text: str


Event = (
    TurnBegan
    | TextGrew
    | Drew
    | ApprovalAsked
    | CodeRuns
    | PassagesFound
    | EntriesRecalled
    | StepTaken
    | TurnEnded
    | TurnFailed
    | Noticed
)
Listener = Callable[[Event], None]
