"""Word problems with numbers that are too big to do in one's head.

Level 1 takes one operation, level 2 two or three, level 3 more, with percentages and decimals. Answers are
integers or decimals of at most two places, always exact and above zero. The wordings stand in
arithmetic_wordings.py; the test split has its own, with other names, things and scenes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from agentdistill.tasks.families.arithmetic_wordings import TEST, TEST_NAMES, TRAIN, TRAIN_NAMES, Wording
from agentdistill.tasks.families.base import Draft, Family, Split, Template
from agentdistill.types import TaskKind

_TRIES = 1000


@dataclass(frozen=True, slots=True)
class WordProblem:
    """A wording with the names of its split."""

    wording: Wording
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.wording.name

    @property
    def skeleton(self) -> str:
        return self.wording.text

    def draw(self, rng: random.Random) -> Draft:
        name, other = rng.sample(self.names, 2)
        words = {slot: rng.choice(options) for slot, options in self.wording.words.items()}
        for _ in range(_TRIES):
            numbers: dict[str, int] = {}
            for slot, source in self.wording.numbers.items():
                numbers[slot] = source(numbers) if callable(source) else rng.randint(*source)
            answer = _exact(self.wording.answer(numbers))
            if answer is not None:
                shown = {slot: _money(n) if slot.startswith("usd") else str(n) for slot, n in numbers.items()}
                question = self.wording.text.format(name=name, other=other, **words, **shown)
                return Draft(question, answer, TaskKind.MATH)
        raise AssertionError(f"{self.name}: no numbers with an exact answer above zero")


def _exact(value: int | Fraction) -> str | None:
    """The number as text, or None if it is no fair answer: not above zero, or over two decimals."""
    cents = Fraction(value) * 100
    if cents <= 0 or cents.denominator != 1:
        return None
    whole, rest = divmod(cents.numerator, 100)
    return str(whole) if not rest else f"{whole}.{rest:02d}".rstrip("0")


def _money(cents: int) -> str:
    """Slots named usd... count cents and are shown in dollars."""
    return f"${cents // 100}.{cents % 100:02d}"


def _templates(split: Split, level: int) -> Sequence[Template]:
    wordings, names = (TRAIN, TRAIN_NAMES) if split == "train" else (TEST, TEST_NAMES)
    return [WordProblem(wording, names) for wording in wordings if wording.level == level]


FAMILY = Family("arithmetic", "word problems of one to five operations on large numbers", _templates)
