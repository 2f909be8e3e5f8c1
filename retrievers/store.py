"""The passages of a segment on disk, found by row number or id. Memory-mapped: only what is read is loaded.

`passages.bin` holds id, title and text of each row with null bytes between them, `offsets.npy` where each row
starts, `id_hashes.npy` the hashes of all ids in ascending order and `id_rows.npy` the rows in that order.
"""

from __future__ import annotations

import hashlib
import mmap
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from retrievers.corpus import Passage

BLOCK = 2048
"""Rows that are digested, and embedded, together."""


def hash_id(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


class StoreWriter:
    """Appends passages, in a `with` statement. Leaving it without an exception completes the store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / "passages.bin").open("wb", buffering=1 << 20)
        self._offsets = array("Q", [0])
        self._hashes = array("Q")
        self._digest = hashlib.sha256()
        self.digests: list[str] = []
        """Of each block of rows: what was computed from a block can be kept under this name."""

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._finish()

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, passage: Passage) -> None:
        record = "\x00".join(passage).encode()
        self._file.write(record)
        self._offsets.append(self._offsets[-1] + len(record))
        self._hashes.append(hash_id(passage.id))
        self._digest.update(len(record).to_bytes(4, "little") + record)
        if len(self) % BLOCK == 0:
            self._end_block()

    def _end_block(self) -> None:
        self.digests.append(self._digest.hexdigest()[:32])
        self._digest = hashlib.sha256()

    def _finish(self) -> None:
        if len(self) % BLOCK:
            self._end_block()
        np.save(self._folder / "offsets.npy", np.frombuffer(self._offsets, dtype="<u8"))
        hashes = np.frombuffer(self._hashes, dtype="<u8")
        order = np.argsort(hashes, kind="stable")
        np.save(self._folder / "id_hashes.npy", hashes[order])
        np.save(self._folder / "id_rows.npy", order.astype("<u4"))


class Store:
    """Reads what StoreWriter wrote. Safe for concurrent use."""

    def __init__(self, folder: Path) -> None:
        self._offsets = np.load(folder / "offsets.npy", mmap_mode="r").view(np.ndarray)
        self._hashes = np.load(folder / "id_hashes.npy", mmap_mode="r").view(np.ndarray)
        self._rows = np.load(folder / "id_rows.npy", mmap_mode="r").view(np.ndarray)
        with (folder / "passages.bin").open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Passage:
        start, end = int(self._offsets[row]), int(self._offsets[row + 1])
        name, title, text = self._bytes[start:end].decode().split("\x00")
        return Passage(name, title, text)

    def __iter__(self) -> Iterator[Passage]:
        return (self[row] for row in range(len(self)))

    def find(self, name: str) -> int | None:
        """The row of an id."""
        wanted = hash_id(name)
        at = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        while at < len(self._hashes) and int(self._hashes[at]) == wanted:
            row = int(self._rows[at])
            if self[row].id == name:
                return row
            at += 1
        return None

    def duplicates(self) -> set[str]:
        """The ids that more than one row has."""
        same = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        pairs = ((int(self._rows[at]), int(self._rows[at + 1])) for at in same)
        return {self[one].id for one, other in pairs if self[one].id == self[other].id}
