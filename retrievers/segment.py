"""Writes one segment: the passages, their words, their vectors, and at last every file's checksum.

What takes long is kept until the change is done, in files named by the digest of the passages they were made
of: the same passages are never counted or embedded twice, other ones never taken for them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrievers import dense, manifest, sparse
from retrievers.corpus import BadCorpus, Corpus, Passage
from retrievers.dense import Encoder, embedded_text
from retrievers.sparse import Statistics, Words
from retrievers.store import BLOCK, Store, StoreWriter

Progress = Callable[[str, int, int], None]
"""A stage, what of it is done and how much there is (0 if nobody knows)."""


@dataclass(frozen=True)
class Vectors:
    """The vectors of some rows of a segment."""

    dense: dense.Flat | dense.Compressed
    rows: np.ndarray


@dataclass(frozen=True)
class SegmentWriter:
    """`kept` is the folder for what takes long. Without an encoder `read` writes no vectors."""

    kept: Path
    encoder: Encoder | None
    progress: Progress

    def read(
        self,
        folder: Path,
        number: int,
        corpus: Corpus,
        before: Statistics = Statistics(),  # noqa: B008
        is_known: Callable[[Passage], bool] | None = None,
    ) -> manifest.Segment:
        """Of the passages of a corpus, none of which may be known already."""
        path = _fresh(folder, number)
        digests = self._read(corpus, path, is_known)
        store = Store(path)
        self._count(store, digests, path, before)
        if self.encoder is not None:
            kind = dense.kind_for(len(store))
            parts = self._embedded(store, digests, self.encoder, kind)
            self._dense(path, parts, kind)
        return self._finished(path, store, digests)

    def merged(
        self,
        folder: Path,
        number: int,
        passages: Iterator[Passage],
        before: Statistics,
        vectors: Sequence[Vectors] | None,
    ) -> manifest.Segment:
        """Of passages that are in the index already, with the vectors they have there."""
        path = _fresh(folder, number)
        with StoreWriter(path) as writer:
            for passage in passages:
                writer.add(passage)
        store = Store(path)
        self._count(store, writer.digests, path, before)
        if vectors is not None:
            kind = dense.kind_for(len(store))
            self._dense(path, self._copied(vectors, path, kind), kind)
        return self._finished(path, store, writer.digests)

    def _read(self, corpus: Corpus, path: Path, is_known: Callable[[Passage], bool] | None) -> list[str]:
        digests, again = self._read_once(corpus, path, is_known, set())
        if again:
            digests, _ = self._read_once(corpus.again(), path, is_known, again)
        self.progress("read", corpus.size, corpus.size)
        return digests

    def _read_once(
        self, corpus: Corpus, path: Path, is_known: Callable[[Passage], bool] | None, without: set[int]
    ) -> tuple[list[str], set[int]]:
        """Digests of the blocks, and the rows of the corpus that are to be left out in another go."""
        with StoreWriter(path) as writer:
            for row, passage in enumerate(corpus):
                if row % 1000 == 0:
                    self.progress("read", corpus.position, corpus.size)
                if is_known is not None and is_known(passage):
                    corpus.refuse(f"the id {passage.id!r:.80} is in the index already")
                elif row not in without:
                    writer.add(passage)
        if not len(writer):
            raise BadCorpus(f"{corpus.source}: there is no passage in it")
        return writer.digests, _repeated(corpus, Store(path).duplicates())

    def _count(self, store: Store, digests: Sequence[str], path: Path, before: Statistics) -> None:
        folder = self.kept / f"words-{sparse.TITLE_WEIGHT}"
        folder.mkdir(parents=True, exist_ok=True)
        words = Words()
        parts = []
        for start in range(0, len(store), sparse.PART):
            end = min(start + sparse.PART, len(store))
            self.progress("count words", start, len(store))
            part = folder / f"{_name_of(digests, start, end)}.npz"
            if not part.exists():
                rows = ((p.title, p.text) for p in map(store.__getitem__, range(start, end)))
                sparse.count(rows, words, part)
            parts.append(part)
        self.progress("count words", len(store), len(store))
        (path / "sparse").mkdir()
        sparse.write(path / "sparse", parts, before)

    def _embedded(self, store: Store, digests: Sequence[str], encoder: Encoder, kind: str) -> list[Path]:
        folder = self.kept / f"vectors-{encoder.sha256[:16]}-{kind}"
        folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, len(store), BLOCK)
        ends = [min(start + BLOCK, len(store)) for start in starts]
        parts = [folder / f"{_name_of(digests, *at)}.npy" for at in zip(starts, ends, strict=True)]
        missing = [at for at, part in enumerate(parts) if not part.exists()]

        def texts(at: int) -> list[str]:
            rows = map(store.__getitem__, range(starts[at], ends[at]))
            return [embedded_text(passage.title, passage.text) for passage in rows]

        self.progress("embed", (len(parts) - len(missing)) * BLOCK if missing else len(store), len(store))
        for done, vectors in zip(missing, encoder.encode_blocks(map(texts, missing)), strict=True):
            _save(parts[done], vectors, kind)
            self.progress("embed", starts[done], len(store))
        self.progress("embed", len(store), len(store))
        return parts

    def _copied(self, vectors: Sequence[Vectors], path: Path, kind: str) -> list[Path]:
        folder = path / "copied"
        folder.mkdir()
        parts: list[Path] = []
        for source in vectors:
            for start in range(0, len(source.rows), sparse.PART):
                part = folder / f"{len(parts):06d}.npy"
                _save(part, source.dense.vectors(source.rows[start : start + sparse.PART]), kind)
                parts.append(part)
        return parts

    def _dense(self, path: Path, parts: Sequence[Path], kind: str) -> None:
        (path / "dense").mkdir()
        dense.write(path / "dense", parts, kind, lambda done, size: self.progress("vectors", done, size))
        shutil.rmtree(path / "copied", ignore_errors=True)

    def _finished(self, path: Path, store: Store, digests: Sequence[str]) -> manifest.Segment:
        paths = sorted(file for file in path.rglob("*") if file.is_file())
        files = {}
        for at, file in enumerate(paths):
            self.progress("checksums", at, len(paths))
            files[file.relative_to(path).as_posix()] = manifest.file_of(file)
        self.progress("checksums", len(paths), len(paths))
        manifest.sync_folder(path)
        return manifest.Segment(path.name, len(store), _digest(digests), files)


def _fresh(folder: Path, number: int) -> Path:
    """A folder for a segment; one of that name was begun by a process that was killed."""
    path = folder / f"{number:06d}"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _repeated(corpus: Corpus, ids: set[str]) -> set[int]:
    """The rows that repeat an id, after each was refused with both of its places."""
    if not ids:
        return set()
    first: dict[str, str] = {}
    rows = set()
    again = corpus.again()
    for row, passage in enumerate(again):
        if passage.id in first:
            corpus.where = again.where
            corpus.refuse(f"the id {passage.id!r:.80} was at {first[passage.id]} already")
            rows.add(row)
        elif passage.id in ids:
            first[passage.id] = again.where
    return rows


def _save(file: Path, vectors: np.ndarray, kind: str) -> None:
    incoming = file.with_suffix(".incoming")
    with incoming.open("wb") as out:
        np.save(out, vectors.astype(dense.DTYPES[kind]))
        out.flush()
        os.fsync(out.fileno())
    incoming.replace(file)


def _digest(digests: Sequence[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _name_of(digests: Sequence[str], start: int, end: int) -> str:
    return _digest(digests[start // BLOCK : -(-end // BLOCK)])[:32]
