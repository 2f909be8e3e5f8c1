"""Where each attempt of a RUN lies in its file, and what a table shows of it.

The file is read through once. What a row needs (ids, verdict, counts, where the line begins) goes into an
SQLite database; the attempts themselves stay where they are and are read one by one when they are looked at.

Guaranteed: memory does not grow with the texts of a RUN, nor with the number of attempts beyond SQLite's
cache of a few MB (the database is a private temporary file); nothing is written into the RUN, which may be
read-only; an attempt that is opened is the one its row names, or a RunDirectoryError. A torn last line is
left out; a damaged line is a row that says so, the others stay readable.

The index of a RUN of more than KEPT_FROM bytes is kept for the next time in the cache folder (`inspect/`, the
last KEPT). It holds for one file (device and inode): as it is where size and time of change are the same;
where the file has grown and still begins and ends with the same bytes as it did up to what was read, the new
lines are added; else it is made anew. Not guaranteed: that an edit inside a line, in place, which is followed
by an append is noticed in the table.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from agentdistill.catalog import cache_folder
from agentdistill.errors import RunDirectoryError, UsageError
from agentdistill.runs import as_trajectory, iter_scores, read_run_json
from agentdistill.types import Json, Score, Trajectory
from agentdistill.visible import visible_line

KEPT_FROM = 8_000_000
"""Bytes of trajectories.jsonl from which on an index is kept: less is read in a tenth of a second."""
KEPT = 20
"""How many indexes are kept."""

_FORMAT = 1
_BATCH = 200
_EDGE = 4096
"""Bytes at the file's beginning and at the end of what was read that must be the same to go on."""
_QUESTION, _ANSWER = 200, 80
"""Characters that a row keeps."""

_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value);
CREATE TABLE attempts (n INTEGER PRIMARY KEY, start, size, id, task, digest, question, gold, source, sample,
    answer, steps, errors, tokens_in, tokens_out, seconds, stop, problem);
CREATE TABLE scores (attempt PRIMARY KEY, correct, method, detail) WITHOUT ROWID;
"""

Notify = Callable[[int, int], None]
"""Is told how many bytes have been read, and how many there are."""


class RunIndex:
    """The attempts of one RUN. Safe to query from one thread while another one fills it.

    Raises UsageError where there is no such folder, RunDirectoryError where it is no RUN.
    """

    def __init__(self, run: Path) -> None:
        if not run.is_dir():
            raise UsageError(f"{run} is not there" if not run.exists() else f"{run} is no RUN folder")
        self.run = run
        self.path = run / "trajectories.jsonl"
        if not self.path.exists():
            read_run_json(run)  # says so if this is no RUN at all
        self.problems: list[str] = []
        self.from_kept = False
        self._lock = threading.RLock()
        self._work = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._work.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8000")
        self._work.create_function("holds", -1, _holds, deterministic=True)
        self._kept = cache_folder() / "inspect" / f"{_digest(str(self.path.resolve()).encode())}.sqlite"
        with self._lock:
            self._load_kept()

    def fill(self, notify: Notify | None = None, stop: threading.Event | None = None) -> None:
        """Read what is new: all of it at first, later what was appended. Raises RunDirectoryError."""
        self.problems = []
        try:
            scored = False
            for done, of in self._read_attempts(stop):
                if notify is not None:
                    notify(done, of)
                if not scored:  # the first rows need not wait for the verdicts on all
                    self._read_scores()
                    scored = True
            if not scored:
                self._read_scores()
        except OSError as error:
            raise RunDirectoryError(f"cannot read {self.run}: {error.strerror or error}") from error

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._work.execute(sql, parameters).fetchall()

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """The same one by one; not while the index is filled."""
        yield from self._work.execute(sql)

    def replace_table(self, name: str, columns: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
        """A table of the caller's own beside the others, in place of one of that name."""
        with self._lock:
            self._work.execute(f"DROP TABLE IF EXISTS {name}")
            self._work.execute(f"CREATE TABLE {name} ({', '.join(columns)})")
            marks = ", ".join("?" * len(columns))
            self._work.execute("BEGIN")
            self._work.executemany(f"INSERT INTO {name} VALUES ({marks})", rows)  # noqa: S608 - our own names
            self._work.execute("COMMIT")

    def count(self) -> int:
        """How many lines have been read: they are numbered without a gap."""
        return int(self.query("SELECT max(n) FROM attempts")[0][0] or 0)

    def trajectory(self, n: int) -> Trajectory:
        """The attempt of line n (from 1), read from the file. Raises RunDirectoryError."""
        found = self.query("SELECT start, size, id FROM attempts WHERE n = ?", (n,))
        if not found:
            raise RunDirectoryError(f"{self.path} has no line {n}")
        start, size, name = found[0]
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                line = file.read(size)
            trajectory = as_trajectory(_object(line), self.path, n)
        except OSError as error:
            raise RunDirectoryError(f"cannot read {self.path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise RunDirectoryError(f"{self.path} line {n} is damaged: {error}") from error
        if _storable(trajectory.id) != name:
            raise RunDirectoryError(f"{self.path} has changed since it was read", "read it again")
        return trajectory

    def score(self, attempt: str) -> Score | None:
        """The verdict on an attempt, None where it was not graded."""
        found = self.query(
            "SELECT correct, method, detail FROM scores WHERE attempt = ?", (_storable(attempt),)
        )
        return Score(attempt, bool(found[0][0]), found[0][1], found[0][2]) if found else None

    def close(self) -> None:
        with self._lock:
            self._work.close()

    # ------------------------------------------------------------------ reading

    def _read_scores(self) -> None:
        signature = _signature(self.run / "scores.jsonl")
        if signature == self._about("scores"):
            return
        with self._lock:
            self._work.execute("DELETE FROM scores")
            self._note(scores="")  # said again below, if all of it could be read
        if not signature:
            return
        batch: list[tuple[Any, ...]] = []
        try:
            for score in iter_scores(self.run):
                batch.append(_score_row(score))
                if len(batch) == 10 * _BATCH:
                    self._insert("scores", batch)
                    batch = []
        except RunDirectoryError as error:
            self.problems.append(f"{error}; verdicts after it are not shown")
            signature = ""
        self._insert("scores", batch)
        self._note(scores=signature)

    def _read_attempts(self, stop: threading.Event | None) -> Iterator[tuple[int, int]]:
        """Reads what is new, in pieces: how many bytes have been read after each, and how many there are."""
        if not self.path.exists():
            self._forget()
            return
        with self.path.open("rb", buffering=1 << 20) as file:
            signature = _signature(self.path)
            if signature == self._about("file"):
                return
            end, n = self._resumed(file)
            lines = _whole_lines(file, end)
            while batch := list(islice(lines, _BATCH)):
                rows = [_facts(n + i, start, line) for i, (start, line) in enumerate(batch, 1)]
                n += len(rows)
                end = batch[-1][0] + len(batch[-1][1])
                self._insert("attempts", rows)
                yield end, os.fstat(file.fileno()).st_size
                if stop is not None and stop.is_set():
                    break
            self._note(end=end, lines=n, edges=_edges(file, end), inode=_inode(file))
            if stop is None or not stop.is_set():
                self._note(file=signature)
                self._keep(end)

    def _insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            with self._lock:
                self._work.execute("BEGIN")
                self._work.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", rows)  # noqa: S608
                self._work.execute("COMMIT")

    def _resumed(self, file: BinaryIO) -> tuple[int, int]:
        """From where on the file is new, and the lines before; 0 where what was read is gone."""
        end, lines = int(self._about("end") or 0), int(self._about("lines") or 0)
        grown = os.fstat(file.fileno()).st_size > end
        if (
            grown
            and end
            and self._about("inode") == _inode(file)
            and self._about("edges") == _edges(file, end)
        ):
            return end, lines
        self._forget()
        return 0, 0

    def _forget(self) -> None:
        with self._lock:
            self._work.execute("DELETE FROM attempts")
            self._note(file="", end=0, lines=0)

    def _about(self, name: str) -> Any:
        found = self.query("SELECT value FROM about WHERE name = ?", (name,))
        return found[0][0] if found else None

    def _note(self, **values: str | int) -> None:
        with self._lock:
            self._work.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", values.items())

    # ------------------------------------------------------------------ keeping

    def _load_kept(self) -> None:
        """Take over the kept index if it is one of this format, else start with empty tables."""
        try:
            with closing(sqlite3.connect(f"{self._kept.as_uri()}?mode=ro&immutable=1", uri=True)) as kept:
                if kept.execute("SELECT value FROM about WHERE name = 'format'").fetchone() == (_FORMAT,):
                    kept.backup(self._work)
                    self.from_kept = True
                    return
        except sqlite3.Error:
            pass  # there is none, or it is damaged: it is only a copy of what the RUN says
        # A backup that broke off leaves a database that is none.
        self._work.executescript("PRAGMA writable_schema=RESET; DROP TABLE IF EXISTS about")
        self._work.executescript(_TABLES)
        self._note(format=_FORMAT)

    def _keep(self, end: int) -> None:
        """Store the index for the next time. Where that cannot be done, the next time takes as long."""
        if end < KEPT_FROM:
            return
        incoming = self._kept.with_suffix(f".{os.getpid()}")
        try:
            self._kept.parent.mkdir(parents=True, exist_ok=True)
            incoming.unlink(missing_ok=True)
            with self._lock:
                for table in ("pairs", "own", "others"):  # a listing's
                    self._work.execute(f"DROP TABLE IF EXISTS {table}")
                self._work.execute("VACUUM INTO ?", (str(incoming),))
            incoming.replace(self._kept)
            indexes = sorted(self._kept.parent.iterdir(), key=lambda file: file.stat().st_mtime)
            for old in indexes[:-KEPT]:
                old.unlink(missing_ok=True)
        except (OSError, sqlite3.Error) as error:
            self.problems.append(f"the index cannot be kept in {self._kept.parent}: {error}")
            with suppress(OSError):
                incoming.unlink(missing_ok=True)


def _whole_lines(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """Where each line begins, and the line; not what comes after the last newline."""
    file.seek(start)
    for line in file:
        if not line.endswith(b"\n"):
            return
        yield start, line
        start += len(line)


def _object(line: bytes) -> dict[str, Json]:
    """The object of a line. Raises ValueError or RecursionError."""
    try:
        row = from_json(line)  # twice as fast as json, and stricter with what json reads too
    except ValueError:
        row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("it is no JSON object")
    return row


def _facts(n: int, start: int, line: bytes) -> tuple[Any, ...]:
    """The row of a line in `attempts`: what a table shows, checked as far as it is shown."""
    try:
        row = _object(line)
        task, usage = row["task"], row.get("usage") or {}
        steps = [step for step in row["steps"] if isinstance(step, dict)]
        question = _text(task["question"])
        return (
            *(n, start, len(line), _text(row["id"]), _text(task["id"]), _digest(question.encode())),
            *(visible_line(question, _QUESTION), visible_line(_text(task["answer"]), _ANSWER)),
            *(_text(task.get("source") or "tasks"), _number(row.get("sample"))),
            None if row["answer"] is None else visible_line(_text(row["answer"]), _ANSWER),
            *(len(steps), sum(1 for step in steps if step.get("error_kind"))),
            *(_number(usage.get(name)) for name in ("tokens_in", "tokens_out", "seconds")),
            *(_text(row["stop_reason"]), None),
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        problem = f"line {n} is damaged: {type(error).__name__} {visible_line(str(error), 200)}"
        nothing = ("", "", "", "", "", "", 0, None, 0, 0, 0, 0, 0, "")
        return (n, start, len(line), *nothing, _storable(problem))


def _score_row(score: Score) -> tuple[Any, ...]:
    return (
        _storable(score.attempt),
        int(score.correct),
        _storable(str(score.method)),
        _storable(str(score.detail)),
    )


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is no text")
    return _storable(value)


def _storable(text: str) -> str:
    """Half surrogates as in any file of a RUN: a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _number(value: Json) -> float:
    # What SQLite cannot hold is no count of anything.
    return value if isinstance(value, (int, float)) and abs(value) < 2**62 else 0


def _holds(needle: str, *texts: str | None) -> bool:
    return any(text is not None and needle in text.casefold() for text in texts)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _signature(path: Path) -> str:
    """What changes when a file does; empty where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ""
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def _inode(file: BinaryIO) -> str:
    found = os.fstat(file.fileno())
    return f"{found.st_dev}:{found.st_ino}"


def _edges(file: BinaryIO, end: int) -> str:
    head = os.pread(file.fileno(), min(_EDGE, end), 0)
    return _digest(head + os.pread(file.fileno(), min(_EDGE, end), max(0, end - _EDGE)))
