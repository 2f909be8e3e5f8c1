"""BM25 over stemmed words: a bm25s index (its files, its scoring), built as a stream and memory-mapped.

bm25s keeps the score of every word in every passage, so a search only adds numbers up. Its own builder wants
all words of the corpus in memory as Python lists; ours counts a part of the passages at a time and merges the
parts on disk. Guaranteed: the same scores as bm25s's own (method "lucene"). Not guaranteed: anything for
languages other than English: stop words and stemmer are English, and words are what `\\w` matches between
spaces, which Chinese or Japanese text doesn't have.

The scores hold statistics of the whole index at the time of writing (how many passages have a word, how long
they are). Passages that are added later get theirs from the grown index; those of earlier passages stay as
they are until their segment is rewritten.
"""

from __future__ import annotations

import json
import os
import re
import threading
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

PART = 32_768
"""Passages that are counted together."""

K1, B = 1.5, 0.75
TITLE_WEIGHT = 3
"""How often the title's words count beside the text's. Tuned, see README.md."""

_WORD = re.compile(r"\w\w+")
_STOP = frozenset(STOPWORDS_EN)


class Words:
    """Cuts text into stems. Safe for concurrent use."""

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("english")
        self._lock = threading.Lock()  # the stemmer has none
        self._known: dict[str, str | None] = dict.fromkeys(_STOP)

    def __call__(self, text: str) -> list[str]:
        known = self._known
        words = _WORD.findall(_folded(text))
        stems = (known[word] if word in known else self._stem(word) for word in words)
        return [stem for stem in stems if stem is not None]

    def _stem(self, word: str) -> str:
        with self._lock:
            if len(self._known) > 1_000_000:  # names, numbers and typing errors have no end
                self._known = dict.fromkeys(_STOP)
            stem = str(self._stemmer.stemWord(word))
            self._known[word] = stem
        return stem

    def marks(self, query: str, text: str) -> list[tuple[int, int]]:
        """Where words of the text have a stem of the query: (start, end) in characters."""
        stems = set(self(query))
        spans = (match.span() for match in _WORD.finditer(text))
        return [(start, end) for start, end in spans if stems.intersection(self(text[start:end]))]


def _folded(text: str) -> str:
    """Lower case, without accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.lower())
    return "".join(letter for letter in decomposed if not unicodedata.combining(letter))


# ---------------------------------------------------------------------- building


@dataclass(frozen=True)
class Statistics:
    """What BM25 knows of the passages that an index has already: their number, length and words."""

    passages: int = 0
    words: int = 0
    columns: Sequence[Sparse] = ()

    def having(self, terms: Sequence[str]) -> np.ndarray:
        """How many of those passages have each term."""
        counts = np.zeros(len(terms), dtype=np.int64)
        for sparse in self.columns:
            counts += sparse.having(terms)
        return counts


def count(passages: Iterable[tuple[str, str]], words: Words, file: Path) -> None:
    """Count the stems of a part's passages (title, text) into a file; it is complete when it exists."""
    numbers: dict[str, int] = {}
    stems, lengths = array("I"), array("I")
    for title, text in passages:
        found = words(title) * TITLE_WEIGHT + words(text)
        stems.extend([numbers.setdefault(stem, len(numbers)) for stem in found])
        lengths.append(len(found))
    terms = sorted(numbers)
    rank = np.empty(len(terms), dtype=np.int64)  # from the number of a stem to its place in `terms`
    rank[[numbers[term] for term in terms]] = np.arange(len(terms))
    rows = np.repeat(np.arange(len(lengths)), np.frombuffer(lengths, dtype=np.uint32))
    columns = rank[np.frombuffer(stems, dtype=np.uint32)]
    pairs, frequencies = np.unique((columns << 32) | rows, return_counts=True)
    incoming = file.with_suffix(".incoming")
    with incoming.open("wb") as out:
        np.savez(
            out,
            terms=np.frombuffer("\n".join(terms).encode(), dtype=np.uint8),
            starts=np.searchsorted(pairs >> 32, np.arange(len(terms) + 1)),
            rows=(pairs & 0xFFFFFFFF).astype(np.int32),
            frequencies=frequencies.astype(np.float32),
            lengths=np.frombuffer(lengths, dtype=np.uint32),
        )
        out.flush()
        os.fsync(out.fileno())
    incoming.replace(file)


def write(folder: Path, parts: Sequence[Path], before: Statistics = Statistics()) -> None:
    """Merge counted parts, in the order of their rows, into the index files of a folder."""
    vocabulary: set[str] = set()
    passages = words = 0
    for part in parts:
        with np.load(part) as counted:
            vocabulary.update(_terms(counted["terms"]))
            passages += len(counted["lengths"])
            words += int(counted["lengths"].sum())
    terms = sorted(vocabulary)
    place = {term: at for at, term in enumerate(terms)}
    del vocabulary

    having = np.zeros(len(terms), dtype=np.int64)
    for part in parts:
        with np.load(part) as counted:
            having[[place[term] for term in _terms(counted["terms"])]] += np.diff(counted["starts"])
    starts = np.zeros(len(terms) + 1, dtype=np.int64)
    np.cumsum(having, out=starts[1:])

    in_all = having + before.having(terms)
    all_passages = before.passages + passages
    weights = np.log(1 + (all_passages - in_all + 0.5) / (in_all + 0.5))
    mean_length = (before.words + words) / all_passages or 1.0

    scores = _new_array(folder / "data.csc.index.npy", "<f4", int(starts[-1]))
    indices = _new_array(folder / "indices.csc.index.npy", "<i4", int(starts[-1]))
    begin = starts[:-1].copy()  # where the next posting of each term goes
    first_row = 0
    for part in parts:
        with np.load(part) as counted:
            columns = np.array([place[term] for term in _terms(counted["terms"])], dtype=np.int64)
            counts = np.diff(counted["starts"])
            rows, frequencies = counted["rows"], counted["frequencies"]
            lengths = counted["lengths"]
            where = np.repeat(begin[columns] - counted["starts"][:-1], counts) + np.arange(len(rows))
            saturation = K1 * (1 - B + B * lengths / mean_length)
            scores[where] = (
                np.repeat(weights[columns], counts) * frequencies / (saturation[rows] + frequencies)
            )
            indices[where] = rows + first_row
            begin[columns] += counts
            first_row += len(lengths)
    scores.flush()
    indices.flush()
    np.save(folder / "indptr.csc.index.npy", starts)
    _save_terms(folder, terms)
    parameters = {"k1": K1, "b": B, "delta": 0.5, "method": "lucene", "idf_method": "lucene"}
    parameters |= {"dtype": "float32", "int_dtype": "int32", "num_docs": passages, "backend": "numpy"}
    parameters |= {"version": bm25s.__version__}
    (folder / "params.index.json").write_text(json.dumps(parameters), encoding="utf-8")
    (folder / "words.json").write_text(json.dumps(words), encoding="utf-8")


def _terms(encoded: np.ndarray) -> list[str]:
    text = encoded.tobytes().decode()
    return text.split("\n") if text else []


def _new_array(file: Path, dtype: str, length: int) -> np.memmap:
    if length:
        return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(length,))
    np.save(file, np.zeros(0, dtype=dtype))  # an empty file can't be mapped
    return np.zeros(0, dtype=dtype).view(np.memmap)


def _save_terms(folder: Path, terms: Sequence[str]) -> None:
    encoded = [term.encode() for term in terms]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    np.save(folder / "term_offsets.npy", ends)
    np.save(folder / "terms.npy", np.frombuffer(b"".join(encoded), dtype=np.uint8))


# ---------------------------------------------------------------------- searching


class Sparse:
    """A built index, memory-mapped. Safe for concurrent use."""

    def __init__(self, folder: Path) -> None:
        parameters = json.loads((folder / "params.index.json").read_text(encoding="utf-8"))
        self.passages = int(parameters["num_docs"])
        self.words = int(json.loads((folder / "words.json").read_text(encoding="utf-8")))
        del parameters["version"], parameters["num_docs"]
        self._bm25 = bm25s.BM25(**parameters)
        self._bm25.nonoccurrence_array = None
        # Plain views: every slice of a np.memmap would be a new np.memmap, which takes microseconds.
        self._bm25.scores = {
            "data": _mapped(folder / "data.csc.index.npy"),
            "indices": _mapped(folder / "indices.csc.index.npy"),
            "indptr": _mapped(folder / "indptr.csc.index.npy"),
            "num_docs": self.passages,
        }
        self._term_offsets = _mapped(folder / "term_offsets.npy")
        self._terms = _mapped(folder / "terms.npy").data

    def column(self, term: str) -> int | None:
        """The column of a stem, by bisection: the vocabulary of a large corpus is no dict to load."""
        wanted = term.encode()
        low, high = 0, len(self._term_offsets) - 1
        while low < high:
            middle = (low + high) // 2
            found = bytes(self._terms[self._term_offsets[middle] : self._term_offsets[middle + 1]])
            if found == wanted:
                return middle
            low, high = (middle + 1, high) if found < wanted else (low, middle)
        return None

    def having(self, terms: Sequence[str]) -> np.ndarray:
        starts = self._bm25.scores["indptr"]
        columns = (self.column(term) for term in terms)
        return np.array(
            [0 if at is None else int(starts[at + 1] - starts[at]) for at in columns], dtype=np.int64
        )

    def search(self, stems: Sequence[str], k: int, alive: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows and scores of the k best passages that have a word of the query, best first.

        `alive` is False for rows that were removed.
        """
        columns = [at for at in map(self.column, stems) if at is not None]
        if not columns:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        scores = self._bm25.get_scores_from_ids(columns)
        if alive is not None:
            scores *= alive
        rows = np.flatnonzero(scores >= self._least(columns, scores, k))
        return top(rows, scores[rows], k)

    def _least(self, columns: Sequence[int], scores: np.ndarray, k: int) -> float:
        """A score that k passages reach: those below it, which share a common word only, need no ordering.

        It is looked for among the passages with the rarest word, which are the likeliest to be good.
        """
        starts, indices = self._bm25.scores["indptr"], self._bm25.scores["indices"]
        smallest = float(np.finfo(np.float32).tiny)  # above nothing: a passage has to share a word
        for column in sorted(set(columns), key=lambda at: int(starts[at + 1] - starts[at])):
            if starts[column + 1] - starts[column] >= k:
                some = scores[indices[starts[column] : starts[column + 1]]]
                return max(float(np.partition(some, -k)[-k]), smallest)
        return smallest


def top(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best, best first; among equal scores the first row."""
    if len(rows) > k:
        best = np.argpartition(scores, -k)[-k:]
        # All that are as good as the last one, so that ties don't depend on the partition.
        best = np.flatnonzero(scores >= scores[best].min())
        rows, scores = rows[best], scores[best]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def _mapped(file: Path) -> np.ndarray:
    array: np.ndarray = np.load(file, mmap_mode="r" if file.stat().st_size > 4096 else None)
    return array.view(np.ndarray)
