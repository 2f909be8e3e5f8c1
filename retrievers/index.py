"""An index, opened for searching: sparse, dense or both, over one or several segments.

Guaranteed: safe for concurrent searches; an open index stays what it was when it was opened, also while
passages are added or removed (`changed` says that it has become old). Not guaranteed: that a file that was
damaged without changing its size is found out when opening; `agentdistill index info` looks at checksums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retrievers import hybrid, manifest, sparse
from retrievers.corpus import Passage
from retrievers.dense import Compressed, Encoder, Flat, Ranking, embedded_text, open_dense
from retrievers.hybrid import Reranker
from retrievers.manifest import BadIndex
from retrievers.sparse import Sparse, Words
from retrievers.store import Store

__all__ = ["MAX_K", "MAX_QUERY", "BadIndex", "Hit", "Index"]

MAX_K = 1000
MAX_QUERY = 10_000
"""Characters."""


class Hit(NamedTuple):
    """A passage that was found. `score` is BM25's, a cosine, an RRF sum or the re-ranker's, by the mode."""

    id: str
    title: str
    text: str
    score: float


@dataclass(frozen=True)
class Segment:
    """The open files of a segment. `alive` is None if nothing was removed from it."""

    store: Store
    sparse: Sparse
    dense: Flat | Compressed | None
    alive: np.ndarray | None

    @classmethod
    def open(cls, folder: Path, entry: manifest.Segment) -> Segment:
        alive = None
        if entry.removed_file:
            alive = np.ones(entry.passages, dtype=bool)
            alive[np.load(folder / entry.removed_file)] = False
        dense = open_dense(folder / "dense") if (folder / "dense").is_dir() else None
        segment = cls(Store(folder), Sparse(folder / "sparse"), dense, alive)
        counts = {len(segment.store), segment.sparse.passages, dense.passages if dense else entry.passages}
        if counts != {entry.passages}:
            raise ValueError(f"{entry.name} has {sorted(counts)} passages instead of {entry.passages}")
        return segment

    def find(self, name: str) -> int | None:
        """The row of an id that wasn't removed."""
        row = self.store.find(name)
        return row if row is None or self.alive is None or self.alive[row] else None

    def rows(self) -> np.ndarray:
        """Those that are still there."""
        everything = np.arange(len(self.store))
        return everything if self.alive is None else everything[self.alive]


class Index:
    def __init__(
        self,
        folder: Path,
        entries: manifest.Manifest,
        segments: Sequence[Segment],
        encoder: Encoder | None,
        reranker: Reranker | None,
    ) -> None:
        self.folder = folder
        self.manifest = entries
        self.segments = tuple(segments)
        self._encoder, self._reranker = encoder, reranker
        self._words = Words()
        self._starts = np.cumsum([0, *(len(segment.store) for segment in segments)])
        self.modes: tuple[str, ...] = ("sparse", "dense", "hybrid") if encoder else ("sparse",)
        self.info: dict[str, Any] = {
            "passages": entries.passages,
            "removed": sum(segment.removed for segment in entries.segments),
            "segments": len(segments),
            "bytes": entries.size,
            "modes": list(self.modes),
            "encoder": entries.encoder,
            "reranker": reranker.name if reranker else None,
            "fingerprint": entries.fingerprint,
            # What orders the results and is no part of the content: a change of it shapes an attempt too.
            "ranking": {
                "k1": sparse.K1,
                "b": sparse.B,
                "title_weight": sparse.TITLE_WEIGHT,
                "rrf_constant": hybrid.CONSTANT,
                "depth": hybrid.DEPTH,
            },
            "made_with": entries.made_with,
        }

    @classmethod
    def open(
        cls,
        folder: str | Path,
        encoder_folder: str | Path | None = None,
        reranker_folder: str | Path | None = None,
    ) -> Index:
        """Without the encoder's folder an index that has vectors can be searched in sparse mode."""
        folder = Path(folder)
        entries, segments = _open_segments(folder)
        encoder = None
        if encoder_folder is not None and entries.encoder is not None:
            encoder = check_encoder(Path(encoder_folder), entries)
        reranker = None
        if reranker_folder is not None:
            if not (Path(reranker_folder) / "config.json").is_file():
                raise BadIndex(f"{reranker_folder} is no folder of a cross-encoder: it has no config.json")
            reranker = Reranker(Path(reranker_folder))
        return cls(folder, entries, segments, encoder, reranker)

    def changed(self) -> bool:
        """Whether passages have been added or removed since this was opened."""
        try:
            return manifest.read(self.folder) != self.manifest
        except BadIndex:
            return True

    def encode(self, queries: Sequence[str]) -> np.ndarray:
        """float32 (n, dimension), normalised."""
        if self._encoder is None:
            raise BadIndex(
                f"{self.folder} was opened without a sentence encoder: there is only sparse search"
            )
        return self._encoder.encode([_clean(query) for query in queries])

    def search(
        self,
        queries: Sequence[str],
        k: int = 5,
        mode: str | None = None,
        vectors: np.ndarray | None = None,
        rerank: bool = False,
    ) -> list[list[Hit]]:
        """The k best passages for each query, fewer if fewer match; none for a blank query.

        `mode` is one of `modes`, by default the last of them. `vectors` are those of `encode`, if they are
        there already. Raises ValueError for a call that is wrong, in one line.
        """
        mode = mode or self.modes[-1]
        self._check(queries, k, mode, rerank)
        if mode == "sparse":
            vectors = None
        elif vectors is None and queries:
            vectors = self.encode(queries)
        depth = max(hybrid.DEPTH, k) if mode == "hybrid" else k
        depth = max(depth, hybrid.RERANKED) if rerank else depth
        near = self._dense(vectors, depth) if vectors is not None else []
        found = []
        for at, query in enumerate(map(_clean, queries)):
            if not query.strip():
                ranking: list[tuple[int, float]] = []
            elif mode == "dense":
                ranking = _pairs(near[at])
            else:
                words = self._sparse(query, depth)
                ranking = _pairs(words)
                if mode == "hybrid":
                    ranking = hybrid.fuse(words[0].tolist(), near[at][0].tolist())
            found.append(self._reranked(query, ranking, k) if rerank else self._hits(ranking[:k]))
        return found

    def marks(self, query: str, text: str) -> list[tuple[int, int]]:
        """Where the text has words of the query, in characters: what to highlight."""
        return self._words.marks(_clean(query), text)

    def _check(self, queries: Sequence[str], k: int, mode: str, rerank: bool) -> None:
        if mode not in self.modes:
            raise ValueError(f"mode {mode!r:.50} is not to be had here: one of {', '.join(self.modes)}")
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
            raise ValueError(f"k must be a whole number from 1 to {MAX_K}, not {k!r:.50}")
        if rerank and self._reranker is None:
            raise ValueError("there is no re-ranker: the index was opened without one")
        for query in queries:
            if len(query) > MAX_QUERY:
                raise ValueError(f"a query of {len(query):,} characters: at most {MAX_QUERY:,} go")

    def _sparse(self, query: str, k: int) -> Ranking:
        """Rows are counted through all segments, here and in what follows."""
        stems = self._words(query)
        found = [segment.sparse.search(stems, k, segment.alive) for segment in self.segments]
        return self._merged(found, k)

    def _dense(self, vectors: np.ndarray, k: int) -> list[Ranking]:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        found = [
            segment.dense.search(vectors, k, segment.alive) for segment in self.segments if segment.dense
        ]
        return [self._merged(of_query, k) for of_query in zip(*found, strict=True)]

    def _merged(self, found: Sequence[Ranking], k: int) -> Ranking:
        if len(found) == 1:
            return found[0]
        rows = np.concatenate([rows + start for (rows, _), start in zip(found, self._starts, strict=False)])
        return sparse.top(rows, np.concatenate([scores for _, scores in found]), k)

    def _hits(self, ranking: Sequence[tuple[int, float]]) -> list[Hit]:
        return [Hit(*self.passage(row), score) for row, score in ranking]

    def passage(self, row: int) -> Passage:
        """By its row, counted through all segments."""
        at = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.segments[at].store[row - int(self._starts[at])]

    def _reranked(self, query: str, ranking: Sequence[tuple[int, float]], k: int) -> list[Hit]:
        hits = self._hits(ranking[: max(hybrid.RERANKED, k)])
        if not hits or self._reranker is None:
            return hits
        scores = self._reranker.scores(query, [embedded_text(hit.title, hit.text) for hit in hits])
        order = np.argsort(-scores, kind="stable")[:k]
        return [hits[at]._replace(score=float(scores[at])) for at in order]


def _open_segments(folder: Path) -> tuple[manifest.Manifest, list[Segment]]:
    entries = manifest.read(folder)
    try:
        return entries, [Segment.open(folder / entry.name, entry) for entry in entries.segments]
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        if manifest.read(folder) != entries:  # segments were merged between two lines of ours
            return _open_segments(folder)
        raise BadIndex(f"{folder} is damaged ({error}): build it again") from error


def check_encoder(folder: Path, entries: manifest.Manifest) -> Encoder:
    """The encoder of that folder, if it is the one the index was built with."""
    encoder = open_encoder(folder)
    built_with = entries.encoder or {}
    if encoder.sha256 != built_with.get("sha256"):
        wanted = f"{built_with.get('name')} ({str(built_with.get('sha256'))[:12]})"
        raise BadIndex(f"the index was built with {wanted}, {folder} is another ({encoder.sha256[:12]})")
    return encoder


def open_encoder(folder: Path) -> Encoder:
    try:
        return Encoder(folder)
    except OSError as error:
        raise BadIndex(f"{folder} is no folder of a sentence encoder: {error}") from error


def _clean(query: str) -> str:
    """Valid Unicode: half a surrogate pair would end in an exception far below."""
    return query.encode("utf-8", "replace").decode()


def _pairs(ranking: Ranking) -> list[tuple[int, float]]:
    return list(zip(ranking[0].tolist(), ranking[1].tolist(), strict=True))
