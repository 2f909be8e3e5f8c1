"""What a family of generated tasks is made of.

A family is one file: Templates for each split and level, each with a fixed wording and a seeded draw. The
family promises that a draw's answer is right and that no wording of the test split occurs in training.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from agentdistill.types import Json, TaskKind

Split = Literal["train", "test"]
LEVELS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Draft:
    """A task before it has an id. `meta` must hold plain JSON; `meta["data"]` goes into the sandbox."""

    question: str
    answer: str
    kind: TaskKind
    meta: Mapping[str, Json] = field(default_factory=dict)


class Template(Protocol):
    """One wording. `skeleton` is its text with the slots still open."""

    @property
    def name(self) -> str: ...

    @property
    def skeleton(self) -> str: ...

    def draw(self, rng: random.Random) -> Draft: ...


@dataclass(frozen=True, slots=True)
class Family:
    """`about` is one line for people who choose."""

    name: str
    about: str
    templates: Callable[[Split, int], Sequence[Template]]
