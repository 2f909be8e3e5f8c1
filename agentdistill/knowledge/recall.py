"""Which entries fit a task (METHOD 2).

Entries that may be given (active, for this kind and family of task, whose tools are at hand, not made from
this question) are ranked by words (BM25) and, with an encoder, by meaning (cosine); the two rankings are
fused by reciprocal ranks. What is below a floor is not given, and no more text than a budget.

Guaranteed: an entry that was made from the question asked is never given; the same KB, question and choice
give the same entries; what was used ("hybrid" or "lexical") is said. Safe to use from several threads. Not
guaranteed: that an entry helps; benchmarks and `kb stats` measure it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import Stemmer

from agentdistill.knowledge.entry import Entry, Status, question_hash
from agentdistill.knowledge.notes import Notes, filler, load_notes, shown
from agentdistill.knowledge.store import Index, Row
from agentdistill.runs import canonical_hash
from agentdistill.types import Json, Recollection, Task

RRF = 60
"""Of reciprocal rank fusion: 1 / (60 + rank) (Cormack et al. 2009, SIGIR)."""
DEPTH = 50
"""Entries of each ranking that are fused."""
WORDS = 24
POSTINGS = 1500
"""Words of a question that are looked for, the rarest first, and the entries these may stand in together.
Ours: what keeps BM25 over 10,000 entries at some milliseconds; the words left out weigh least."""
FILTERS = 64
"""Filters whose rows are kept."""
MIN_COSINE = 0.2
MIN_WORDS = 2
"""The floor. Ours: an entry is given if its meaning is near enough, or without an encoder if it shares so
many words with the question, function words not counted. With all-MiniLM-L6-v2, an entry for each of
seven BBH families and 105 questions of these, the right entry had at least 0.25 and always the most,
95 % of the others at most 0.22."""
BUDGET_TOKENS = 256
CHARACTERS_A_TOKEN = 4
"""English text; no tokenizer is asked, as the KB does not know whom it speaks to."""

_STOPPED = frozenset(
    """
    a about after all also an and any are as at be because been before both but by can could did do does
    each for from get give given gives has have having he her him his how if in into is it its just let
    many may me more most much must my no nor not now of off on once one only or other our out over own
    same shall she should so some such take than that the their them then there these they this those
    through to too under until up us use very was we were what when where which while who whom whose why
    will with would you your
    """.split()  # noqa: SIM905 (a list would be five times as long)
)
"""Function words: they say nothing about what a question is about."""
_SPLIT_NAME = re.compile(r"[_.-](train|dev|test|build|val|validation|eval|heldout)(?![a-z]).*", re.IGNORECASE)


class Choice(StrEnum):
    """Which entry is given: the one that fits, or a control of the ablation (METHOD 2)."""

    RETRIEVED = "retrieved"
    RANDOM = "random"  # any active entry, whatever it is for, drawn by the question's hash
    FILLER = "filler"  # text that says nothing, as long as the retrieved entry's


def family(task: Task) -> str:
    """The family of a task: `meta["family"]`, else its source without the name of a split
    (gsm8k_train and gsm8k_dev.jsonl are both gsm8k)."""
    named = task.meta.get("family")
    name = named if isinstance(named, str) and named else _SPLIT_NAME.sub("", task.source)
    name = re.sub(r"[^\w.+-]+", "-", name).strip("-_.+")
    return name[:64]


class Hit(NamedTuple):
    """An entry that was found: its fused score, and what it was made of (ranks count from 1)."""

    entry: Entry
    score: float
    word_rank: int | None
    cosine: float | None


@dataclass(frozen=True)
class Filter:
    """What an entry must be for. None and empty ask for nothing; `statuses` always count."""

    task_kind: str | None = None
    family: str | None = None
    tools: frozenset[str] | None = None
    not_question: str | None = None
    statuses: frozenset[str] = field(default=frozenset({Status.ACTIVE.value}))

    def lets(self, row: Row) -> bool:
        return (
            row.status in self.statuses
            and (self.task_kind is None or not row.task_kinds or self.task_kind in row.task_kinds)
            and (self.family is None or not row.families or self.family in row.families)
            and (self.tools is None or row.tools <= self.tools)
            and (self.not_question is None or self.not_question not in row.questions)
        )


class Searcher:
    """Ranks the entries of an index."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.mode = "hybrid" if index.encoder is not None else "lexical"
        self._lock = threading.Lock()  # SQLite's connection
        self._at = {row.number: at for at, row in enumerate(index.rows)}
        self._frequency: dict[str, int] = dict(index.connection.execute("SELECT term, doc FROM vocabulary"))
        self._vectors = index.vectors()
        self._kept: dict[Filter, tuple[np.ndarray, np.ndarray | None]] = {}
        self._made_of: dict[str, list[int]] = {}
        for at, row in enumerate(index.rows):
            for question in row.questions:
                self._made_of.setdefault(question, []).append(at)

    def search(self, query: str, k: int, wanted: Filter) -> list[Hit]:
        """Up to k entries above the floor, best first."""
        may, vectors = self._may(replace(wanted, not_question=None))
        allowed = np.zeros(len(self.index.rows), dtype=bool)
        allowed[may] = True
        allowed[self._made_of.get(wanted.not_question or "", [])] = False
        by_words = [at for at in self._by_words(query) if allowed[at]][:DEPTH]
        cosines = None
        by_meaning: list[int] = []
        if vectors is not None and self.index.encoder is not None:
            cosines = np.full(len(self.index.rows), -1, dtype=np.float32)
            cosines[may] = vectors @ self.index.encoder.encode([query])[0]
            near = np.flatnonzero(allowed & (cosines >= MIN_COSINE))
            by_meaning = near[np.argsort(-cosines[near], kind="stable")][:DEPTH].tolist()
        word_ranks = {at: rank for rank, at in enumerate(by_words, 1)}
        ranks = [word_ranks, {at: rank for rank, at in enumerate(by_meaning, 1)}]
        scores = {
            at: sum(1 / (RRF + ranked[at]) for ranked in ranks if at in ranked)
            for at in dict.fromkeys([*by_meaning, *by_words])
        }
        hits: list[Hit] = []
        asked = _stems(query)
        for at in sorted(scores, key=lambda at: (-scores[at], self.index.rows[at].id)):
            if len(hits) == k:
                break
            cosine = None if cosines is None else float(cosines[at])
            if cosine is not None and cosine < MIN_COSINE:
                continue
            entry = self.entry(self.index.rows[at])
            if cosine is None and len(asked & _stems(entry.text)) < min(MIN_WORDS, max(1, len(asked))):
                continue
            hits.append(Hit(entry, scores[at], word_ranks.get(at), cosine))
        return hits

    def entry(self, row: Row) -> Entry:
        with self._lock:
            return self.index.entry(row.number)

    def allowed(self, wanted: Filter) -> list[Row]:
        return [row for row in self.index.rows if wanted.lets(row)]

    def _by_words(self, query: str) -> list[int]:
        """Rows by BM25, best first, for the rarest words of the query."""
        if not self._frequency:
            return []
        chosen: list[str] = []
        room = POSTINGS
        with self._lock:
            words = [(self._documents(word), word) for word in dict.fromkeys(_words(query))]
            for documents, word in sorted(words):
                if documents and documents <= room and len(chosen) < WORDS:
                    chosen.append(word)
                    room -= documents
            if not chosen and any(documents for documents, _ in words):
                chosen = [min((documents, word) for documents, word in words if documents)[1]]
            if not chosen:
                return []
            matched = " OR ".join(f'"{word}"' for word in chosen)
            found = self.index.connection.execute(
                "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words, 2.0, 1.5, 1.0), rowid",
                (matched,),
            ).fetchall()
        return [self._at[number] for (number,) in found]

    def _documents(self, word: str) -> int:
        """How many entries a word stands in, as the index has stemmed it (an estimate by the plain word
        where the stem is another)."""
        stem = _stem(word)
        return self._frequency.get(stem, self._frequency.get(word, 0))

    def _may(self, wanted: Filter) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows that a filter lets through, and their vectors. Kept: looking at all rows takes longer than
        searching them, and few filters are asked for many times."""
        with self._lock:
            found = self._kept.get(wanted)
        if found is None:
            may = np.flatnonzero([wanted.lets(row) for row in self.index.rows])
            everything = self._vectors is None or len(may) == len(self.index.rows)
            found = may, self._vectors if everything or self._vectors is None else self._vectors[may]
            with self._lock:
                if len(self._kept) >= FILTERS:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[wanted] = found
        return found


class LocalKnowledgeBase:
    """The KnowledgeBase of a folder: one entry a task, as METHOD 2 gives (top 1)."""

    def __init__(
        self,
        searcher: Searcher,
        choice: Choice = Choice.RETRIEVED,
        *,
        notes: Notes | None = None,
        budget_tokens: int = BUDGET_TOKENS,
    ) -> None:
        self.searcher = searcher
        self.choice = choice
        self.notes = notes or load_notes()
        self.budget = budget_tokens * CHARACTERS_A_TOKEN

    def recall(self, query: str, task: Task, tools: Sequence[str] = ()) -> Recollection:
        question = question_hash(task.question)
        mode = self.searcher.mode
        if self.choice is Choice.RANDOM:
            rows = self.searcher.allowed(Filter(tools=frozenset(tools), not_question=question))
            if not rows:
                return Recollection(mode=mode)
            entry = self.searcher.entry(rows[int(question, 16) % len(rows)])
        else:
            wanted = Filter(task.kind.value, family(task), frozenset(tools), question)
            hits = self.searcher.search(query, 1, wanted)
            if not hits:
                return Recollection(mode=mode)
            entry = hits[0].entry
        text = shown(entry, self.notes, self.budget)
        if self.choice is Choice.FILLER:
            return Recollection((), filler(text, self.notes) if text else "", mode)
        return Recollection((entry.id,), text, mode) if text else Recollection(mode=mode)

    def fingerprint(self) -> dict[str, Json]:
        index = self.searcher.index
        given = [
            (row.id, row.content, sorted(row.questions))
            for row in index.rows
            if row.status == Status.ACTIVE.value
        ]
        return {
            "entries": len(given),
            "sha256": canonical_hash(given),
            "encoder": index.encoder.name if index.encoder else None,
            "choice": self.choice.value,
            "notes": self.notes.sha256[:12],
            "budget": self.budget,
        }


def _words(text: str) -> list[str]:
    """Words of letters, in order, without function words. Numbers are this question's, not its kind's."""
    return [word for word in re.findall(r"[^\W\d_]{2,}", text.lower()) if word not in _STOPPED]


def _stem(word: str) -> str:
    stemmed: str = Stemmer.Stemmer("porter").stemWord(word)  # one a call: threads can't share them
    return stemmed


def _stems(text: str) -> set[str]:
    return set(Stemmer.Stemmer("porter").stemWords(_words(text)))
