"""The index of a knowledge base: SQLite, words by FTS5 and sentence vectors, made from the entries' files.

Guaranteed: an index that is opened says what the files say now. A file is read again unless its size, times
and inode are those of when it was read (and it was not just being written, the "racy git" case); a content
whose hash is known is not embedded again, under whatever id or name. A kill loses the transaction or the
batch of vectors it hit, nothing else; two processes wait for each other. An index that is damaged or of
another version is made anew. Not guaranteed: more than is read when it is opened; what changes later is seen
by the next one.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agentdistill.errors import KnowledgeBaseError
from agentdistill.knowledge.encoder import TextEncoder, Vectors
from agentdistill.knowledge.entry import Entry, Problem, as_json
from agentdistill.knowledge.folder import ENTRIES, EntryFolder, read_file, refuse, twice

INDEX = ".index.sqlite"
_VERSION = 1
_WAIT = 60.0  # seconds for another process's transaction
_RACY_NS = 2_000_000_000  # clocks of file systems tick no slower
_BATCH = 64  # vectors a transaction

_TABLES = f"""
CREATE TABLE entry(
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, file TEXT NOT NULL UNIQUE, signature TEXT NOT NULL,
    seen INTEGER NOT NULL, sha256 TEXT NOT NULL, content TEXT NOT NULL, status TEXT NOT NULL,
    task_kinds TEXT NOT NULL, families TEXT NOT NULL, tools TEXT NOT NULL, questions TEXT NOT NULL,
    json TEXT NOT NULL);
CREATE VIRTUAL TABLE words USING fts5(title, trigger, bullets, tokenize = "porter unicode61");
CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, "row");
CREATE TABLE vector(
    content TEXT NOT NULL, encoder TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (content, encoder)
    ) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""

Tick = Callable[[int, int], None]
"""Told how many texts of how many are embedded."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the index knows of an entry without reading all of it."""

    number: int
    id: str
    content: str
    status: str
    task_kinds: frozenset[str]
    families: frozenset[str]
    tools: frozenset[str]
    questions: frozenset[str]


class Index:
    """What the files of a KB say now. It is a copy in memory: nothing changes under its readers.

    With an `encoder`, what has no vector yet is embedded. Raises EntryFileError for a broken entry,
    KnowledgeBaseError where the index cannot be read or written.
    """

    def __init__(
        self, folder: EntryFolder, encoder: TextEncoder | None = None, tick: Tick | None = None
    ) -> None:
        self.folder = folder
        self.encoder = encoder
        self.rebuilt = ""
        """Why the index had to be made anew, "" if it had not."""
        self.read = 0
        """Files that had to be read."""
        path = folder.folder / INDEX
        try:
            self.connection = self._opened(path, tick)
        except sqlite3.OperationalError as error:  # locked, read-only, full: not damaged
            raise KnowledgeBaseError(f"{path}: {error}", "the folder must be writable") from error
        except OSError as error:
            raise KnowledgeBaseError(f"cannot read {folder.folder}: {error.strerror or error}") from error
        except sqlite3.DatabaseError as error:
            self.rebuilt = str(error)
            path.unlink(missing_ok=True)
            self.connection = self._opened(path, tick)
        self.rows = self._rows()

    def close(self) -> None:
        self.connection.close()

    def entry(self, number: int) -> Entry:
        """The entry of a row, in full."""
        [text] = self.connection.execute("SELECT json FROM entry WHERE number = ?", (number,)).fetchone()
        return Entry.model_validate(json.loads(text))

    def vectors(self) -> Vectors | None:
        """float32[rows, dimension] in the order of `rows`; None without an encoder or without rows."""
        if self.encoder is None or not self.rows:
            return None
        found = dict(
            self.connection.execute(
                "SELECT content, value FROM vector WHERE encoder = ?", (self.encoder.name,)
            )
        )
        return np.stack([np.frombuffer(found[row.content], dtype="<f4") for row in self.rows])

    def _opened(self, path: Path, tick: Tick | None) -> sqlite3.Connection:
        with closing(sqlite3.connect(path, timeout=_WAIT, isolation_level=None)) as disk:
            self._refresh(disk)
            while True:
                if self.encoder is not None:
                    _embed(disk, self.encoder, tick)
                memory = sqlite3.connect(":memory:", check_same_thread=False)
                disk.backup(memory)
                # Another process may have added entries, and not have come to their vectors yet.
                if self.encoder is None or not _without_vector(memory, self.encoder):
                    return memory
                memory.close()

    def _refresh(self, disk: sqlite3.Connection) -> None:
        """Bring the index up to date with the files, in one transaction, if they have changed."""
        if (
            disk.execute("PRAGMA user_version").fetchone()[0] == _VERSION
            and not _changes(disk, self.folder)[0]
        ):
            return
        disk.execute("BEGIN IMMEDIATE")
        try:
            version = disk.execute("PRAGMA user_version").fetchone()[0]
            if version != _VERSION:
                if version:
                    raise sqlite3.DatabaseError(f"it is of version {version}")
                for statement in filter(str.strip, _TABLES.split(";")):
                    disk.execute(statement)
            changed, gone = _changes(disk, self.folder)
            self._apply(disk, changed, gone)
            disk.execute("COMMIT")
        except BaseException:
            disk.execute("ROLLBACK")
            raise

    def _apply(self, disk: sqlite3.Connection, changed: Sequence[Path], gone: Sequence[str]) -> None:
        problems: list[Problem] = []
        hashes = dict(disk.execute("SELECT file, sha256 FROM entry"))
        for name in gone:
            _remove(disk, name)
        for path in changed:
            now, signature = time.time_ns(), _signature(path)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            self.read += 1
            if sha256 and hashes.get(path.name) == sha256:
                row = (signature, now, path.name)
                disk.execute("UPDATE entry SET signature = ?, seen = ? WHERE file = ?", row)
                continue
            entry, wrong = read_file(path)
            problems += wrong
            _remove(disk, path.name)
            if entry is not None:
                _insert(disk, entry, path.name, signature, now, sha256)
        ids = disk.execute("SELECT file, id FROM entry ORDER BY file").fetchall()
        part = self.folder.folder / ENTRIES
        refuse(self.folder.folder, problems + twice([(str(part / file), id) for file, id in ids]))

    def _rows(self) -> list[Row]:
        columns = "number, id, content, status, task_kinds, families, tools, questions"
        return [
            Row(number, id, content, status, *(frozenset(words.split()) for words in sets))
            for number, id, content, status, *sets in self.connection.execute(
                f"SELECT {columns} FROM entry ORDER BY id"  # noqa: S608 (names of ours)
            )
        ]


def _changes(disk: sqlite3.Connection, folder: EntryFolder) -> tuple[list[Path], list[str]]:
    """Files that have to be read, and names of those that are gone."""
    known = {
        file: (signature, seen)
        for file, signature, seen in disk.execute("SELECT file, signature, seen FROM entry")
    }
    changed = []
    for path in folder.files(ENTRIES):
        signature, seen = known.pop(path.name, ("", 0))
        if signature != _signature(path) or path.stat().st_mtime_ns > seen - _RACY_NS:
            changed.append(path)
    return changed, list(known)


def _signature(path: Path) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _remove(disk: sqlite3.Connection, file: str) -> None:
    for (number,) in disk.execute("SELECT number FROM entry WHERE file = ?", (file,)).fetchall():
        disk.execute("DELETE FROM words WHERE rowid = ?", (number,))
        disk.execute("DELETE FROM entry WHERE number = ?", (number,))


def _insert(
    disk: sqlite3.Connection, entry: Entry, file: str, signature: str, seen: int, sha256: str
) -> None:
    sets = [entry.task_kinds, entry.families, entry.tools, sorted(entry.questions)]
    row = [entry.id, file, signature, seen, sha256, entry.content_hash, entry.status.value]
    row += [" ".join(words) for words in sets]
    row.append(json.dumps(as_json(entry), ensure_ascii=False))
    number = disk.execute(
        "INSERT INTO entry(id, file, signature, seen, sha256, content, status, task_kinds, families, tools,"
        " questions, json) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    ).lastrowid
    text = (number, entry.title, entry.trigger, "\n".join(entry.bullets))
    disk.execute("INSERT INTO words(rowid, title, trigger, bullets) VALUES (?, ?, ?, ?)", text)


def _without_vector(disk: sqlite3.Connection, encoder: TextEncoder) -> list[tuple[str, str]]:
    """Contents, and an entry of each."""
    return disk.execute(
        "SELECT content, json FROM entry WHERE content NOT IN (SELECT content FROM vector WHERE encoder = ?)"
        " GROUP BY content",
        (encoder.name,),
    ).fetchall()


def _embed(disk: sqlite3.Connection, encoder: TextEncoder, tick: Tick | None) -> None:
    """Vectors for contents that have none, a batch a transaction; those of contents that are gone go."""
    missing = _without_vector(disk, encoder)
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        vectors = encoder.encode([Entry.model_validate(json.loads(text)).text for _, text in batch])
        rows = zip((content for content, _ in batch), (vector.tobytes() for vector in vectors), strict=True)
        disk.execute("BEGIN IMMEDIATE")
        disk.executemany(
            "INSERT OR REPLACE INTO vector VALUES (?, ?, ?)",
            [(content, encoder.name, value) for content, value in rows],
        )
        disk.execute("COMMIT")
        if tick is not None:
            tick(min(start + _BATCH, len(missing)), len(missing))
    if missing:
        disk.execute("DELETE FROM vector WHERE content NOT IN (SELECT content FROM entry)")
