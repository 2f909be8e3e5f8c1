"""What becomes of an entry that says what another one says already.

Guaranteed: a merged entry keeps the first one's id, status, title and trigger, and has the bullets and the
provenance of both, each once; merging an entry with itself changes nothing, and so does merging twice. A
locked or retired entry is never changed, nor are entries made one that differ in kind or would be too long:
that is a Conflict, for a person to settle.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from agentdistill.knowledge.encoder import TextEncoder, Vectors
from agentdistill.knowledge.entry import MAX_BULLETS, Entry, Status

NEAR = 0.92
"""Cosine from which two entries with equal tags are one (METHOD 2)."""


class Conflict(StrEnum):
    """Why two entries that say the same are not made one."""

    LOCKED = "the entry it repeats is locked"
    RETIRED = "the entry it repeats was retired"
    KIND = "the entry it repeats is of another kind"
    TOO_LONG = f"together they would have more than {MAX_BULLETS} bullets of a sort"


def conflict(target: Entry, other: Entry) -> Conflict | None:
    """Why `other` cannot go into `target`, or None."""
    if target.locked:
        return Conflict.LOCKED
    if target.status is Status.RETIRED:
        return Conflict.RETIRED
    if target.kind is not other.kind:
        return Conflict.KIND
    learning, facts = _bullets(target, other)
    return Conflict.TOO_LONG if max(len(learning), len(facts)) > MAX_BULLETS else None


def merged(target: Entry, other: Entry) -> Entry:
    """`target` with what `other` adds. The caller has looked at `conflict`."""
    learning, facts = _bullets(target, other)
    return target.model_copy(
        update={
            "learning_summary": learning,
            "supplementary_knowledge": facts,
            "provenance": tuple(dict.fromkeys(target.provenance + other.provenance)),
        }
    )


def _bullets(target: Entry, other: Entry) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both's bullets of either sort, without those that `target` has in its other list."""
    learning = _union(target.learning_summary, other.learning_summary, target.supplementary_knowledge)
    facts = _union(target.supplementary_knowledge, other.supplementary_knowledge, learning)
    return learning, facts


def _union(first: Sequence[str], second: Sequence[str], elsewhere: Sequence[str]) -> tuple[str, ...]:
    said = {_bare(bullet) for bullet in (*first, *elsewhere)}
    added: dict[str, str] = {}
    for bullet in second:
        if _bare(bullet) not in said:
            added.setdefault(_bare(bullet), bullet)
    return (*first, *added.values())


def _bare(bullet: str) -> str:
    return bullet.casefold().rstrip(".!").strip()


class Duplicates:
    """Finds the entry that another one repeats: with the same content, or with an encoder a near one."""

    def __init__(self, entries: Sequence[Entry], encoder: TextEncoder | None) -> None:
        self._encoder = encoder
        self._entries: dict[str, Entry] = {}
        self._vectors: dict[str, Vectors] = {}
        self.put(entries)

    def put(self, entries: Sequence[Entry]) -> None:
        """Know these entries, new or changed."""
        self._entries |= {entry.id: entry for entry in entries}
        if self._encoder is not None and entries:
            vectors = self._encoder.encode([entry.text for entry in entries])
            self._vectors |= {entry.id: vector for entry, vector in zip(entries, vectors, strict=True)}

    def of(self, entry: Entry) -> Entry | None:
        """The entry that says the same, the nearest first; None if there is none. Never itself."""
        others = [known for known in self._entries.values() if known.id != entry.id]
        for known in others:
            if known.content_hash == entry.content_hash:
                return known
        alike = [known for known in others if known.labels == entry.labels]
        if self._encoder is None or not alike:
            return None
        vector = self._vectors[entry.id] if self._entries.get(entry.id) == entry else None
        if vector is None:
            vector = self._encoder.encode([entry.text])[0]
        cosines = np.stack([self._vectors[known.id] for known in alike]) @ vector
        best = int(np.argmax(cosines))
        return alike[best] if cosines[best] >= NEAR else None
