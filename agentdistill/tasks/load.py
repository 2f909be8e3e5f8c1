"""TASKS in, Tasks out: from a file, or a benchmark by its name.

A file is JSON Lines or JSON (a list, one object, or `{"metadata": ..., "examples": [...]}`), in UTF-8. A row
needs `question` and `answer`; `id, kind, source, split, meta` are taken as they are, every other field goes
into `meta`. GSM8K solutions (`... #### 42`) are split into answer and `meta["solution"]`. A benchmark is
looked for in the folder AGENTDISTILL_DATA, then on the hub (`benchmarks.py` has the names). Either may be
followed by a filter, `math500@level=1-2` (`filter.py`). A file whose name is like that of a benchmark is
the file.

Guaranteed: whatever a file holds, either Tasks come back or one TaskFileError that names file and row; no
row is left out silently; ids are unique; every Task can be written back with `write_tasks`. With a `limit`
reading stops there: rows after it are not looked at, so they cannot fail. Not guaranteed: that an answer is
right, or that a guessed kind is. Ids come from the file: never use one as a path.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from agentdistill.errors import TaskFileError
from agentdistill.tasks.benchmarks import ENVIRONMENT, Choice, choose, files_of
from agentdistill.tasks.filter import Filter, split_filter
from agentdistill.tasks.hub import hub_rows
from agentdistill.tasks.rows import BadRow, Origin, task_of
from agentdistill.types import Json, Task, to_json

_NAMED = 3  # bad rows spelt out in an error; the rest is counted
_SKIP = "correct the file, or leave such rows out with --skip-bad-rows"

Rows = Iterable[tuple[int, Json | BadRow]]


@dataclass(frozen=True, slots=True)
class TaskSet:
    """The tasks of one TASKS, in its order. `skipped` has a line for each row that was left out.

    `source` is the file, or the benchmark's full name. `sha256` is of the file's bytes; of a benchmark of
    several files, of their hashes; of one from the hub, of its rows as JSON.
    """

    tasks: tuple[Task, ...]
    skipped: tuple[str, ...]
    source: str
    sha256: str


def load_tasks(path_or_name: str | Path, *, limit: int | None = None, skip_bad_rows: bool = False) -> TaskSet:
    """The tasks of a file or a benchmark, at most `limit` of those that its filter lets through.

    Raises TaskFileError; DownloadError when a benchmark is on the hub only and cannot be had from there.
    """
    text = os.fspath(path_or_name)
    if _is_there(text):
        wanted, condition = text, Filter()
    else:
        wanted, condition = split_filter(text)
    reader = _Reader(condition, limit, skip_bad_rows)
    choice = None if _is_there(wanted) else choose(wanted)
    if choice is None:
        path = Path(wanted)
        raw = _read(path)
        reader.read(str(path), _rows(path, raw), Origin(path.stem))
        return reader.result(text, hashlib.sha256(raw).hexdigest())
    return _load_benchmark(choice, reader)


def _is_there(path: str) -> bool:
    try:
        # A folder is not: the one of a benchmark's subsets may be the current folder's `bbh`.
        return Path(path).exists() and not Path(path).is_dir()
    except (OSError, ValueError):  # a name too long, a null byte
        return False


def _load_benchmark(choice: Choice, reader: _Reader) -> TaskSet:
    files = files_of(choice)
    hashes = hashlib.sha256()
    for path, origin in files:
        raw = _read(path)
        hashes.update(hashlib.sha256(raw).digest())
        reader.read(str(path), _rows(path, raw), origin)
    if not files:
        for name, rows, origin in hub_rows(choice):
            reader.read(name, _hashed(rows, hashes), origin)
            if reader.full:
                break
    digest = hashlib.sha256(_read(files[0][0])).hexdigest() if len(files) == 1 else hashes.hexdigest()
    return reader.result(str(choice) + reader.condition.text, digest)


def _hashed(rows: Iterable[Json], hashes: hashlib._Hash) -> Iterator[tuple[int, Json]]:
    for number, row in enumerate(rows, start=1):
        hashes.update(json.dumps(row, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
        yield number, row


class _Reader:
    """Rows of one or more files into one list of tasks."""

    def __init__(self, condition: Filter, limit: int | None, skip_bad_rows: bool) -> None:
        self.condition = condition
        self._limit = limit
        self._skip_bad_rows = skip_bad_rows
        self._tasks: list[Task] = []
        self._skipped: list[str] = []
        self._seen: set[str] = set()
        self._fields: set[str] = set()

    @property
    def full(self) -> bool:
        return self._limit is not None and len(self._tasks) >= self._limit

    def read(self, name: str, rows: Rows, origin: Origin) -> None:
        """Take the rows of one file. Raises TaskFileError for bad ones unless they are to be skipped."""
        bad: list[tuple[int, str]] = []
        for number, row in rows:
            if self.full:
                break
            try:
                task = task_of(row, number, origin, self._seen)
            except BadRow as error:
                bad.append((number, str(error)))
                continue
            self._seen.add(task.id)
            self._fields.update(task.meta)
            if self.condition.lets_through(task):
                self._tasks.append(task)
        if bad and not self._skip_bad_rows:
            _refuse(name, bad)
        self._skipped += [f"{name}: row {number}: {why}" for number, why in bad]

    def result(self, source: str, sha256: str) -> TaskSet:
        if not self._tasks and self._limit != 0:
            if self._seen:
                raise TaskFileError(
                    f"{source}: none of {len(self._seen)} tasks is let through",
                    f"their fields are {', '.join(sorted(self._fields)) or 'none'}",
                )
            if self._skipped:
                raise TaskFileError(f"{source}: no usable row of {len(self._skipped)}; {self._skipped[0]}")
            raise TaskFileError(
                f"{source}: no rows", "a task file needs at least one row with question and answer"
            )
        return TaskSet(tuple(self._tasks), tuple(self._skipped), source, sha256)


def write_tasks(path: str | Path, tasks: Iterable[Task]) -> None:
    """Write JSON Lines that `load_tasks` reads back as equal tasks. All or nothing: `path` is replaced at
    the end, by a file that has reached the disk."""
    path = Path(path)
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".part")
        part = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            for task in tasks:
                file.write(json.dumps(to_json(task), ensure_ascii=False, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files only their owner can read; a task file is an ordinary file.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    except OSError as error:
        raise TaskFileError(f"{path}: cannot write it: {error.strerror or error}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise TaskFileError(
            f"{path}: no such task file or benchmark",
            "give a JSON or JSONL file, or a name of `agentdistill tasks list`; "
            "`agentdistill tasks make FAMILY -n N -o FILE` writes a file",
        ) from None
    except IsADirectoryError:
        raise TaskFileError(
            f"{path}: is a directory", f"give a file of tasks; {ENVIRONMENT} names a folder of benchmarks"
        ) from None
    except (OSError, ValueError) as error:
        raise TaskFileError(f"{path}: cannot read it: {getattr(error, 'strerror', None) or error}") from None
    if not raw.strip():
        raise TaskFileError(f"{path}: empty file", "it needs at least one row with question and answer")
    return raw


def _refuse(name: str, bad: list[tuple[int, str]]) -> NoReturn:
    named = "; ".join(f"row {number}: {why}" for number, why in bad[:_NAMED])
    if len(bad) == 1:
        raise TaskFileError(f"{name}: {named}", _SKIP)
    more = ", ".join(str(number) for number, _ in bad[_NAMED : _NAMED + 20])
    more = f"; also rows {more}{', ...' if len(bad) > _NAMED + 20 else ''}" if more else ""
    raise TaskFileError(f"{name}: {len(bad)} bad rows: {named}{more}", _SKIP)


def _rows(path: Path, raw: bytes) -> Iterator[tuple[int, Json | BadRow]]:
    """The rows with their numbers: the line in JSON Lines, the place in a list. A line that is no JSON
    comes out as a BadRow; a whole document that is none is an error."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskFileError(
            f"{path}: byte {error.start} is not UTF-8", "convert the file to UTF-8 text, JSON or JSON Lines"
        ) from None
    try:
        document = _parse(text)
    except BadRow as error:
        first_line = text.lstrip().split("\n", 1)[0]
        if first_line.startswith("[") or ("\n" in text.strip() and first_line.strip() == "{"):
            raise TaskFileError(f"{path}: {error}", "the file must be JSON or JSON Lines") from None
    else:
        yield from enumerate(_examples(path, document), start=1)
        return
    # Not splitlines(): U+2028 and its like are ordinary characters inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, _parse(line)
            except BadRow as error:
                yield number, error


def _examples(path: Path, document: Json) -> list[Json]:
    if isinstance(document, dict) and "examples" in document and "question" not in document:
        document = document["examples"]
        if not isinstance(document, list):
            raise TaskFileError(f"{path}: `examples` is not a list")
    elif isinstance(document, dict):
        document = [document]
    if not isinstance(document, list):
        raise TaskFileError(
            f"{path}: holds a JSON {type(document).__name__}, not a list of rows",
            'write one {"question": ..., "answer": ...} object a line',
        )
    return document


def _parse(text: str) -> Json:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise BadRow(f"not JSON: {error.msg} at {where}column {error.colno}") from None
    except RecursionError:
        raise BadRow("not JSON that can be read: nested too deep") from None
    except ValueError as error:  # a number of more digits than Python reads, NaN
        raise BadRow(f"not JSON that can be read: {str(error)[:100]}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
