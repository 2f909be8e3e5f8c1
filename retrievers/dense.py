"""Nearest neighbours among normalised sentence embeddings: exact when there are few, compressed when many.

`Flat` compares the query with every vector (float32, memory-mapped). `Compressed` keeps about 80 bytes a
vector: faiss finds candidates by product-quantised codes in the inverted lists next to the query, and the
candidates are ordered by their exact vectors (float16), which are read from disk one by one. Guaranteed: the
scores are inner products with the stored vectors. Not guaranteed by `Compressed`: that a true neighbour is
among the candidates; benchmarks/retrieval_speed.py measures how often it is.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

Ranking = tuple[np.ndarray, np.ndarray]
"""Rows and their scores, best first."""

EXACT_UP_TO = 200_000
"""Passages. Beyond it a flat index would take more than 300 MB, and a query more than some 20 ms."""

DTYPES = {"flat": "<f4", "compressed": "<f2"}
"""Of the stored vectors, by the kind of index."""

CODE_BITS = 8
VALUES_A_CODE = 6
"""Dimensions that share a byte: 64 bytes for 384 dimensions."""
PROBES = 64
CANDIDATES = 400
"""Fewest to be ordered exactly, and ten for each passage asked for."""
TRAINING = 64
"""Vectors a list that the lists' centres are learnt from."""


class Encoder:
    """A sentence-transformers model from a folder, loaded when it is first used. Safe for concurrent use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        weights = folder / "model.safetensors"
        with weights.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._lock = threading.Lock()
        self._model: Any = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, dimension), normalised."""
        # One at a time: the tokenizer can't be used by two threads, and torch uses all cores anyway.
        with self._lock:
            if self._model is None:
                self._model = _load(self.folder)
            vectors = self._model.encode(
                list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False
            )
        return np.ascontiguousarray(vectors, dtype=np.float32)

    def encode_blocks(self, blocks: Iterator[list[str]]) -> Iterator[np.ndarray]:
        """What `encode` gives for each, in their order."""
        return map(self.encode, blocks)


def _load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    # A folder and nothing else: the hub is never asked.
    return SentenceTransformer(str(folder), local_files_only=True)


def embedded_text(title: str, text: str) -> str:
    return f"{title}\n{text}" if title else text


# ---------------------------------------------------------------------- building


def write(folder: Path, parts: Sequence[Path], kind: str, progress: Callable[[int, int], None]) -> None:
    """Put the vectors of `parts` (.npy files, in the order of their rows) into an index of that kind."""
    progress(0, len(parts))
    shapes = [np.load(part, mmap_mode="r").shape for part in parts]
    total, dimension = sum(shape[0] for shape in shapes), shapes[0][1]
    with (folder / "vectors.bin").open("wb") as out:
        for part in parts:
            out.write(np.load(part).astype(DTYPES[kind]).tobytes())
    settings: dict[str, Any] = {"kind": kind, "passages": total, "dimension": dimension}
    if kind == "compressed":
        settings["probes"] = PROBES
        index = _trained(parts, total, dimension)
        for done, part in enumerate(parts):
            progress(done, len(parts))
            index.add(np.load(part).astype(np.float32))
        faiss.write_index(index, str(folder / "lists.faiss"))
    (folder / "dense.json").write_text(json.dumps(settings), encoding="utf-8")
    progress(len(parts), len(parts))


def kind_for(passages: int) -> str:
    return "flat" if passages <= EXACT_UP_TO else "compressed"


def lists_for(passages: int) -> int:
    """A power of two near 4 sqrt(n): 4,096 for a million, 16,384 for twenty."""
    return 1 << round(math.log2(4 * math.sqrt(passages)))


def _trained(parts: Sequence[Path], total: int, dimension: int) -> Any:
    lists = lists_for(total)
    codes = max(m for m in range(1, dimension // VALUES_A_CODE + 1) if dimension % m == 0)
    quantizer = faiss.IndexFlatIP(dimension)
    index = faiss.IndexIVFPQ(quantizer, dimension, lists, codes, CODE_BITS, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.niter, index.cp.seed = True, 8, 1
    share = min(1.0, TRAINING * lists / total)
    random = np.random.default_rng(1)
    sample = []
    for part in parts:
        vectors = np.load(part, mmap_mode="r")
        chosen = np.flatnonzero(random.random(len(vectors)) < share)
        sample.append(vectors[chosen].astype(np.float32))
    index.train(np.concatenate(sample))
    return index


# ---------------------------------------------------------------------- searching


class Flat:
    def __init__(self, folder: Path, passages: int, dimension: int) -> None:
        shape = (passages, dimension)
        self._vectors = np.memmap(folder / "vectors.bin", dtype="<f4", mode="r", shape=shape).view(np.ndarray)
        self.passages, self.dimension = passages, dimension

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self._vectors[rows])

    def search(
        self, query: np.ndarray, k: int, alive: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each query (float32, n × dimension) rows and scores of its k nearest, best first."""
        wanted = k
        while True:
            wanted = min(wanted, self.passages)
            scores, rows = faiss.knn(query, self._vectors, wanted, metric=faiss.METRIC_INNER_PRODUCT)
            found = [_living(r, s, alive, k) for r, s in zip(rows, scores, strict=True)]
            if wanted == self.passages or all(len(r) == k for r, _ in found):
                return found
            wanted *= 2  # removed passages took the place of living ones


class Compressed:
    def __init__(self, folder: Path, passages: int, dimension: int, probes: int) -> None:
        self.passages, self.dimension = passages, dimension
        self._lists = faiss.read_index(
            str(folder / "lists.faiss"), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        )
        if self._lists.ntotal != passages or self._lists.d != dimension:
            raise ValueError(f"{folder / 'lists.faiss'} holds another number of vectors")
        self._probes = probes
        # Read and not mapped: a mapped page counts as ours, and candidates are spread over all pages.
        self._vectors = os.open(folder / "vectors.bin", os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._vectors)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        found = np.empty((len(rows), self.dimension), dtype="<f2")
        size = 2 * self.dimension
        for at, row in enumerate(rows.tolist()):
            if os.preadv(self._vectors, [found[at]], row * size) != size:
                raise OSError(f"the vector of row {row} cannot be read: the index was changed from outside")
        return found.astype(np.float32)

    def search(
        self, query: np.ndarray, k: int, alive: np.ndarray | None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        candidates = min(max(CANDIDATES, 10 * k), self.passages)
        while True:
            parameters = faiss.SearchParametersIVF(nprobe=self._probes)
            _, rows = self._lists.search(query, candidates, params=parameters)
            found = [self._ordered(q, r, alive, k) for q, r in zip(query, rows, strict=True)]
            # Removed passages may have taken all places; the lists that were looked at may hold no more.
            full = all(len(r) == k or -1 in c for (r, _), c in zip(found, rows, strict=True))
            if full or candidates == self.passages:
                return found
            candidates = min(4 * candidates, self.passages)

    def _ordered(self, query: np.ndarray, rows: np.ndarray, alive: np.ndarray | None, k: int) -> Ranking:
        rows = rows[(rows >= 0) & (rows < self.passages)]
        if alive is not None:
            rows = rows[alive[rows]]
        scores = self.vectors(rows) @ query
        order = np.lexsort((rows, -scores))[:k]
        return rows[order], scores[order]


def _living(rows: np.ndarray, scores: np.ndarray, alive: np.ndarray | None, k: int) -> Ranking:
    if alive is not None:
        keep = alive[rows]
        rows, scores = rows[keep], scores[keep]
    return rows[:k], scores[:k]


def open_dense(folder: Path) -> Flat | Compressed:
    settings = json.loads((folder / "dense.json").read_text(encoding="utf-8"))
    passages, dimension = int(settings["passages"]), int(settings["dimension"])
    size = passages * dimension * (4 if settings["kind"] == "flat" else 2)
    if (folder / "vectors.bin").stat().st_size != size:
        raise ValueError(f"{folder / 'vectors.bin'} has not {size} bytes")
    if settings["kind"] == "flat":
        return Flat(folder, passages, dimension)
    return Compressed(folder, passages, dimension, int(settings["probes"]))
