"""How an entry reads in a prompt.

Guaranteed: a text within the budget, whole bullets only; the learning summary and the supplementary knowledge
both get their share. An entry none of whose bullets fits gives no text. What an entry says reaches a model as
it stands: who can write to a KB can write to its readers' prompts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from itertools import zip_longest

import yaml

from agentdistill.knowledge.entry import Entry


@dataclass(frozen=True)
class Notes:
    """The wording around an entry: prompts/notes.yaml."""

    heading: str
    trigger: str
    answer_only: str
    filler: str

    @property
    def sha256(self) -> str:
        """Of the wording that entries are given in."""
        return hashlib.sha256(f"{self.heading}\n{self.trigger}\n{self.filler}".encode()).hexdigest()


def load_notes() -> Notes:
    text = resources.files("agentdistill.prompts").joinpath("notes.yaml").read_text(encoding="utf-8")
    return Notes(**yaml.safe_load(text))


def shown(entry: Entry, notes: Notes, most: int) -> str:
    """The entry as a model reads it, in at most so many characters; "" if nothing of it fits."""
    head = f"{notes.heading}\n{notes.trigger.format(trigger=entry.trigger)}"
    room = most - len(head)
    kept: set[str] = set()
    # In turns, so that a long summary leaves room for the facts.
    for pair in zip_longest(entry.learning_summary, entry.supplementary_knowledge):
        for bullet in filter(None, pair):
            if len(bullet) + 3 <= room:
                room -= len(bullet) + 3
                kept.add(bullet)
    lines = [f"- {bullet}" for bullet in dict.fromkeys(entry.bullets) if bullet in kept]
    return "\n".join([head, *lines]) if lines else ""


def filler(text: str, notes: Notes) -> str:
    """Text that says nothing, as long as `text` (or up to a word shorter)."""
    repeated = notes.filler * (len(text) // len(notes.filler) + 1)
    return f"{notes.heading}\n{repeated}"[: len(text)].rsplit(" ", 1)[0]
