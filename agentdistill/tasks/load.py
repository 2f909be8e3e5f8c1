"""Task files in, Tasks out.

Reads JSON Lines and JSON (a list, one object, or `{"metadata": ..., "examples": [...]}`), in UTF-8. A row
needs `question` and `answer`; `id, kind, source, split, meta` are taken as they are, every other field goes
into `meta`. GSM8K solutions (`... #### 42`) are split into answer and `meta["solution"]`.

Guaranteed: whatever the file holds, either Tasks come back or one TaskFileError that names file and row; no
row is left out silently; ids are unique; every Task can be written back with `write_tasks`. With a `limit`
reading stops there: rows after it are not looked at, so they cannot fail. Not guaranteed: that an answer is
right, or that a guessed kind is (a `kind` in the row always wins). Ids come from the file: never use one as
a path.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from agentdistill.errors import TaskFileError
from agentdistill.types import Json, Task, TaskKind, to_json

_NAMED = 3  # bad rows spelt out in an error; the rest is counted
_SKIP = "correct the file, or leave such rows out with --skip-bad-rows"

_GSM8K_NOTE = re.compile(r"<<[^<>\n]*>>")
_OPTION = re.compile(r"\([A-Z]\)")
_NUMBER = re.compile(r"[-+]?\$?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?([eE][-+]?\d+)?%?")
_FORMULA = re.compile(r"[-+*/^=(),.\s\d]*([a-zA-Z]\b[-+*/^=(),.\s\d]*)*")
_MATH_SUBJECTS = frozenset(
    (
        *("Algebra", "Counting & Probability", "Geometry", "Intermediate Algebra", "Number Theory"),
        *("Prealgebra", "Precalculus"),
    )
)
_QA_FIELDS = ("answer_aliases", "supporting_titles", "supporting_facts", "decomposition")
_QA_SETS = ("hotpot", "musique", "bamboogle", "2wiki")
_TASK_FIELDS = frozenset(("id", "question", "answer", "kind", "source", "split", "meta"))


@dataclass(frozen=True, slots=True)
class TaskSet:
    """The tasks of one file, in its order. `skipped` has a line for each row that was left out."""

    tasks: tuple[Task, ...]
    skipped: tuple[str, ...]
    source: str
    sha256: str


class _BadRow(ValueError):
    """Why one row is no task; always reported with its file and number."""


def load_tasks(path_or_name: str | Path, *, limit: int | None = None, skip_bad_rows: bool = False) -> TaskSet:
    """The tasks of a file, at most `limit`. Raises TaskFileError, and nothing else."""
    path = Path(path_or_name)
    raw = _read(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TaskFileError(
            f"{path}: byte {error.start} is not UTF-8", "convert the file to UTF-8 text, JSON or JSON Lines"
        ) from None

    tasks: list[Task] = []
    seen: set[str] = set()
    bad: list[tuple[int, str]] = []
    for number, row in _rows(path, text):
        if limit is not None and len(tasks) >= limit:
            break
        try:
            task = _task(row, number, path.stem, seen)
        except _BadRow as error:
            bad.append((number, str(error)))
        else:
            seen.add(task.id)
            tasks.append(task)

    if bad and not skip_bad_rows:
        _refuse(path, bad)
    skipped = tuple(f"{path}: row {number}: {why}" for number, why in bad)
    if not tasks and limit != 0:
        if skipped:
            raise TaskFileError(f"{path}: no usable row of {len(bad)}; row {bad[0][0]}: {bad[0][1]}")
        raise TaskFileError(f"{path}: no rows", "a task file needs at least one row with question and answer")
    return TaskSet(tuple(tasks), skipped, str(path), hashlib.sha256(raw).hexdigest())


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
            f"{path}: no such task file",
            "give a JSON or JSONL file; `agentdistill tasks make FAMILY -n N -o FILE` writes one",
        ) from None
    except IsADirectoryError:
        raise TaskFileError(f"{path}: is a directory", "give a JSON or JSONL file of tasks") from None
    except (OSError, ValueError) as error:
        raise TaskFileError(f"{path}: cannot read it: {getattr(error, 'strerror', None) or error}") from None
    if not raw.strip():
        raise TaskFileError(f"{path}: empty file", "it needs at least one row with question and answer")
    return raw


def _refuse(path: Path, bad: list[tuple[int, str]]) -> NoReturn:
    named = "; ".join(f"row {number}: {why}" for number, why in bad[:_NAMED])
    if len(bad) == 1:
        raise TaskFileError(f"{path}: {named}", _SKIP)
    more = ", ".join(str(number) for number, _ in bad[_NAMED : _NAMED + 20])
    more = f"; also rows {more}{', ...' if len(bad) > _NAMED + 20 else ''}" if more else ""
    raise TaskFileError(f"{path}: {len(bad)} bad rows: {named}{more}", _SKIP)


def _rows(path: Path, text: str) -> Iterator[tuple[int, Json | _BadRow]]:
    """The rows with their numbers: the line in JSON Lines, the place in a list. A line that is no JSON
    comes out as a _BadRow; a whole document that is none is an error."""
    try:
        document = _parse(text)
    except _BadRow as error:
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
            except _BadRow as error:
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
        raise _BadRow(f"not JSON: {error.msg} at {where}column {error.colno}") from None
    except RecursionError:
        raise _BadRow("not JSON that can be read: nested too deep") from None
    except ValueError as error:  # a number of more digits than Python reads, NaN
        raise _BadRow(f"not JSON that can be read: {str(error)[:100]}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _task(row: Json | _BadRow, number: int, stem: str, seen: set[str]) -> Task:
    if isinstance(row, _BadRow):
        raise row
    if not isinstance(row, dict):
        raise _BadRow(f"is a JSON {type(row).__name__}, not an object with `question` and `answer`")
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise _BadRow("`question` is missing" if question is None else "`question` is empty or not text")
    answer = _answer(row)
    kind = _explicit_kind(row)
    meta = row.get("meta", {})
    if not isinstance(meta, dict):
        raise _BadRow("`meta` is not an object")
    meta = {**{key: value for key, value in row.items() if key not in _TASK_FIELDS}, **meta}

    solution, mark, final = answer.rpartition("####")
    if mark and kind in (None, TaskKind.MATH) and final.strip() and solution.rstrip(" ")[-1:] in ("", "\n"):
        answer = final.strip().replace(",", "")
        meta.setdefault("solution", _GSM8K_NOTE.sub("", solution.strip()))
        kind = TaskKind.MATH
    if "answer_aliases" in meta:
        aliases = meta.pop("answer_aliases")
        if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
            raise _BadRow("`answer_aliases` is not a list of texts")
        meta.setdefault("aliases", aliases)

    task = Task(
        id=_id(row, number, stem, seen),
        question=question.strip(),
        answer=answer,
        kind=kind or _kind(row, answer),
        source=_text(row, "source", _text(row, "dataset_name", stem)),
        split=_text(row, "split", ""),
        meta=meta,
    )
    try:  # what cannot be written to a run must not come in: half a surrogate pair, endless nesting
        json.dumps(to_json(task), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise _BadRow("holds half of a surrogate pair (\\ud800-\\udfff), which is no text") from None
    except RecursionError:
        raise _BadRow("nested too deep") from None
    return task


def _answer(row: Mapping[str, Json]) -> str:
    answer = row.get("answer")
    if answer is None:
        raise _BadRow("`answer` is null" if "answer" in row else "`answer` is missing")
    if isinstance(answer, float) and not math.isfinite(answer):
        raise _BadRow("`answer` is not a finite number")
    if not isinstance(answer, (str, int, float)):  # bool is an int and prints as True or False
        raise _BadRow(f"`answer` is a JSON {type(answer).__name__}, not text or a number")
    if not str(answer).strip():
        raise _BadRow("`answer` is empty")
    return str(answer).strip()


def _explicit_kind(row: Mapping[str, Json]) -> TaskKind | None:
    if row.get("kind") is None:
        return None
    try:
        return TaskKind(row["kind"])
    except ValueError:
        known = ", ".join(kind.value for kind in TaskKind)
        raise _BadRow(f"`kind` {str(row['kind'])[:40]!r} is not known: it can be {known}") from None


def _kind(row: Mapping[str, Json], answer: str) -> TaskKind:
    """A guess from what benchmarks look like; the marks of a data set beat the look of the answer."""
    dataset = str(row.get("dataset_name", "")).lower()
    if any(field in row for field in _QA_FIELDS) or any(name in dataset for name in _QA_SETS):
        return TaskKind.QA
    if dataset == "math" or str(row.get("type")) in _MATH_SUBJECTS:
        return TaskKind.MATH
    if _OPTION.fullmatch(answer):
        return TaskKind.CHOICE
    # Short enough that the patterns cannot backtrack for long; longer ones are prose.
    if any(mark in answer for mark in ("\\", "$")) or (
        len(answer) <= 60 and any(map(str.isdigit, answer)) and _looks_like_math(answer)
    ):
        return TaskKind.MATH
    return TaskKind.QA


def _looks_like_math(answer: str) -> bool:
    return bool(_NUMBER.fullmatch(answer) or _FORMULA.fullmatch(answer))


def _id(row: Mapping[str, Json], number: int, stem: str, seen: set[str]) -> str:
    """The row's id; files that number their rows (MATH) get the file's name before it, so that two such
    files do not share ids."""
    given = row.get("id")
    if isinstance(given, int) and not isinstance(given, bool):
        name = f"{stem}-{given}"
    elif isinstance(given, str) and given.strip():
        name = given
    elif given is None or given == "":
        name = f"{stem}-{number}"
    else:
        raise _BadRow("`id` is neither text nor a whole number")
    while name in seen:
        name = f"{name}#{number}"
    return name


def _text(row: Mapping[str, Json], field: str, default: str) -> str:
    value = row.get(field)
    if value is None:
        return default
    if not isinstance(value, str):
        raise _BadRow(f"`{field}` is not text")
    return value
