"""Writes indexes: `build` makes one, `add` and `remove` change it.

Guaranteed: a process that is killed at any moment leaves either no index or a whole one (as it was before
the change, or after it); the same command goes on from what was counted and embedded so far, block by block,
as long as the corpus still says the same there. One writer at a time. Searches equal those of an index built
anew from the same passages, but for BM25's statistics (see sparse.py) and what an approximate search finds.

Passages that are added form a new segment; small segments are merged, and those rewritten that have lost a
quarter of their passages, so that there are never more than a few and no passage is rewritten often.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import bm25s
import faiss
import numpy as np

from retrievers import dense, manifest
from retrievers.corpus import Corpus, Passage
from retrievers.dense import Encoder
from retrievers.index import Index, Segment, check_encoder, open_encoder
from retrievers.manifest import BadIndex, Manifest
from retrievers.segment import Progress, SegmentWriter, Vectors
from retrievers.sparse import Statistics

Skipped = Callable[[str], None]

MERGE_BELOW = 4
"""A segment is merged with the one after it when it isn't so many times as large."""
REMOVED_SHARE = 0.25
"""A segment that has lost more than this is rewritten."""


def build(
    source: str,
    folder: Path,
    encoder_folder: Path | None,
    progress: Progress,
    skipped: Skipped | None = None,
    encode_with: Callable[[Path], Encoder] | None = None,
) -> Manifest:
    """An index of a corpus at `folder`, where there must be none yet. `encode_with` opens the encoder, if it
    isn't to work in this process."""
    building = manifest.building_folder(folder)
    if (folder / manifest.NAME).is_file() and building.exists():
        shutil.rmtree(building, ignore_errors=True)  # of a build that was killed when all was done
    _must_be_free(folder)
    encoder = (encode_with or open_encoder)(encoder_folder) if encoder_folder else None
    building.mkdir(parents=True, exist_ok=True)
    with _locked(building), _cleared_if_empty(building):
        _must_be_free(folder)
        index = building / "index"
        shutil.rmtree(index, ignore_errors=True)
        work = SegmentWriter(building / "kept", encoder, progress)
        segment = work.read(index, 1, Corpus(source, skipped))
        made_with = {"bm25s": bm25s.__version__, "faiss": faiss.__version__, "source": source}
        entries = Manifest(_describe(encoder, index / segment.name), (segment,), 2, made_with)
        manifest.write(index, entries)
        index.rename(folder)
        manifest.sync_folder(folder.parent)
        shutil.rmtree(building)
    return entries


def add(
    folder: Path, source: str, encoder_folder: Path | None, progress: Progress, skipped: Skipped | None = None
) -> Manifest:
    """Passages whose ids are new to the index."""
    with _changing(folder) as entries:
        work = SegmentWriter(folder / "kept", _encoder_for(entries, encoder_folder), progress)
        before = Index.open(folder)

        def is_known(passage: Passage) -> bool:
            return any(segment.find(passage.id) is not None for segment in before.segments)

        corpus = Corpus(source, skipped)
        segment = work.read(folder, entries.next_name, corpus, _statistics(before.segments), is_known)
        entries = replace(entries, segments=(*entries.segments, segment), next_name=entries.next_name + 1)
        manifest.write(folder, entries)
        return _tidied(folder, entries, work)


def remove(folder: Path, ids: Sequence[str], progress: Progress) -> Manifest:
    """All of the passages, or none if one of them isn't there."""
    with _changing(folder) as entries:
        index = Index.open(folder)
        rows: list[set[int]] = [set() for _ in index.segments]
        unknown = []
        for name in dict.fromkeys(ids):
            places = [(segment.find(name), gone) for segment, gone in zip(index.segments, rows, strict=True)]
            living = [(row, gone) for row, gone in places if row is not None]
            for row, gone in living:
                gone.add(row)
            if not living:
                unknown.append(name)
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise BadIndex(
                f"not in the index: {', '.join(map(repr, unknown[:3]))}{more}; nothing was removed"
            )
        if sum(map(len, rows)) == entries.passages:
            raise BadIndex("an index without passages is none: delete the folder instead")
        segments = []
        for entry, segment, gone in zip(entries.segments, index.segments, rows, strict=True):
            segments.append(
                _without(folder, entry, segment.alive, gone, entries.next_name) if gone else entry
            )
        entries = replace(entries, next_name=entries.next_name + 1).with_segments(segments)
        manifest.write(folder, entries)
        return _tidied(folder, entries, SegmentWriter(folder / "kept", None, progress))


def _without(
    folder: Path, entry: manifest.Segment, alive: np.ndarray | None, gone: set[int], number: int
) -> manifest.Segment:
    earlier = np.zeros(0, dtype=np.int64) if alive is None else np.flatnonzero(~alive)
    rows = np.union1d(earlier, np.fromiter(gone, dtype=np.int64))
    name = f"removed-{number:06d}.npy"
    path = folder / entry.name / name
    np.save(path, rows.astype("<u4"))
    files = {old: file for old, file in entry.files.items() if old != entry.removed_file}
    return replace(entry, files=files | {name: manifest.file_of(path)}, removed=len(rows), removed_file=name)


# ---------------------------------------------------------------------- keeping few segments


def _tidied(folder: Path, entries: Manifest, work: SegmentWriter) -> Manifest:
    """Merge what should be merged, and delete all that the manifest doesn't name."""
    filled = [segment for segment in entries.segments if segment.removed < segment.passages]
    if len(filled) < len(entries.segments):
        entries = entries.with_segments(filled)
        manifest.write(folder, entries)
    while group := _to_merge(entries.segments):
        index = Index.open(folder)
        chosen = [index.segments[at] for at in group]
        others = [segment for at, segment in enumerate(index.segments) if at not in group]
        rows = [segment.rows() for segment in chosen]
        passages = (s.store[int(row)] for s, alive in zip(chosen, rows, strict=True) for row in alive)
        vectors = None
        if entries.encoder is not None:
            vectors = [Vectors(s.dense, alive) for s, alive in zip(chosen, rows, strict=True) if s.dense]
        merged = work.merged(folder, entries.next_name, passages, _statistics(others), vectors)
        kept = [entry for at, entry in enumerate(entries.segments) if at not in group]
        kept.insert(group[0], merged)
        entries = replace(entries, next_name=entries.next_name + 1).with_segments(kept)
        manifest.write(folder, entries)
    named = {manifest.NAME, ".lock", *(segment.name for segment in entries.segments)}
    for path in folder.iterdir():
        if path.name not in named:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for segment in entries.segments:
        for path in (folder / segment.name).glob("removed-*.npy"):
            if path.name != segment.removed_file:
                path.unlink()
    return entries


def _to_merge(segments: Sequence[manifest.Segment]) -> list[int]:
    """Neighbouring segments that should become one, or one that should be rewritten."""
    sizes = [segment.passages - segment.removed for segment in segments]
    for at in range(len(sizes) - 1, 0, -1):
        if sizes[at - 1] < MERGE_BELOW * sizes[at]:
            return [at - 1, at]
    for at, segment in enumerate(segments):
        if segment.removed > REMOVED_SHARE * segment.passages:
            return [at]
    return []


def _statistics(segments: Sequence[Segment]) -> Statistics:
    columns = [segment.sparse for segment in segments]
    return Statistics(sum(s.passages for s in columns), sum(s.words for s in columns), columns)


# ---------------------------------------------------------------------- who may write


def _must_be_free(folder: Path) -> None:
    if (folder / manifest.NAME).is_file():
        raise BadIndex(f"{folder} exists already: extend it with `index add`, or delete it first")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadIndex(f"{folder} exists already, and is no index")


@contextmanager
def _cleared_if_empty(building: Path) -> Iterator[None]:
    """A build that failed before anything was worth keeping leaves nothing behind."""
    try:
        yield
    except BaseException:
        if not (building / "kept").exists():
            shutil.rmtree(building)
        raise


def _describe(encoder: Encoder | None, segment: Path) -> dict[str, object] | None:
    if encoder is None:
        return None
    return {
        "name": encoder.name,
        "sha256": encoder.sha256,
        "dimension": dense.open_dense(segment / "dense").dimension,
    }


def _encoder_for(entries: Manifest, folder: Path | None) -> Encoder | None:
    if entries.encoder is None:
        return None
    if folder is None:
        raise BadIndex(
            f"the index has vectors: the folder of its encoder {entries.encoder['name']} is needed"
        )
    return check_encoder(folder, entries)


@contextmanager
def _changing(folder: Path) -> Iterator[Manifest]:
    manifest.read(folder)  # before a lock file is laid into a folder that is none of ours
    with _locked(folder):
        yield manifest.read(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BadIndex(f"{folder} is being written by another process") from None
    finally:
        os.close(descriptor)
