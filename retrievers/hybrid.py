"""One ranking out of two: reciprocal rank fusion, and a cross-encoder that reads query and passage together.

RRF takes ranks and no scores, so BM25's scale and the cosine's don't have to be made alike (Cormack, Clarke,
Büttcher 2009). Both rankings have the same weight: on the questions used for tuning no other did better.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

DEPTH = 100
"""How far down each ranking counts."""
CONSTANT = 5
"""The smaller, the more the first ranks count. Tuned: 2 to 10 are alike, the usual 60 finds less."""
RERANKED = 50
"""Passages that the cross-encoder reads for a query."""

Key = TypeVar("Key", bound=Hashable)


def fuse(sparse: Sequence[Key], dense: Sequence[Key], constant: float = CONSTANT) -> list[tuple[Key, float]]:
    """Both rankings as one, best first, with its scores; of equals the one that came first in `sparse`."""
    scores: dict[Key, float] = {}
    for ranking in (sparse, dense):
        for rank, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (constant + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


class Reranker:
    """A sentence-transformers cross-encoder from a folder, loaded when first used. Safe for threads."""

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self._folder = folder
        self._lock = threading.Lock()
        self._model: Any = None

    def scores(self, query: str, texts: Sequence[str]) -> np.ndarray:
        with self._lock:
            if self._model is None:
                from sentence_transformers import CrossEncoder

                self._model = CrossEncoder(str(self._folder), local_files_only=True)
            pairs = [(query, text) for text in texts]
            return np.asarray(self._model.predict(pairs, show_progress_bar=False), dtype=np.float32)
