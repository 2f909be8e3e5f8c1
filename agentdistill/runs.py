"""RUN directories: append-only, resumable, one writer.

    RUN/run.json             what was asked and what shapes every attempt
    RUN/trajectories.jsonl   one finished attempt a line, flushed and fsynced
    RUN/failures.jsonl       attempts that failed on infrastructure, to be tried again, and what they had cost
    RUN/scores.jsonl         one verdict a line, replaced as a whole

Guaranteed: `trajectories.jsonl` holds one line a key, ever; `kill -9` or a full disk loses at most the
attempts in flight; a torn last line is ignored by readers and cut away by the next writer; a bad inner line
is an error with its number. Writers lock, readers never do. Not guaranteed: safety against two machines on
one network file system that does not honour flock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from agentdistill.errors import RunDirectoryError, RunMismatchError
from agentdistill.types import Json, Score, Task, Trajectory, Usage, to_json

FORMAT = 1
_RESTORE = "restore that line, or remove it"
_PACKAGES = ("agentdistill", "smolagents", "transformers", "trl", "peft", "torch", "xllamacpp", "openai")


def canonical_hash(value: Json) -> str:
    """SHA-256 of a JSON value with sorted keys, first 12 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # "surrogatepass": half a surrogate pair (from a file name that is not UTF-8) must not end the run.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def attempt_id(task: Task, sample: int, shape: Mapping[str, Json]) -> str:
    """The key of an attempt: task id, sample index and a hash of what shapes it (the question included)."""
    # The id as it can be stored: what is read back at the next start must be the same key.
    name = task.id.encode("utf-8", "replace").decode()
    return f"{name}#{sample}@{canonical_hash([task.question, task.kind, shape])}"


def versions() -> dict[str, str]:
    """Versions of what computes, for run.json and reports."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str | None:
    """The checkout's revision if this code runs from one, with "+" for uncommitted changes."""
    folder = Path(__file__).parent.parent
    if not (folder / ".git").exists():
        return None
    try:
        head = _git(folder, "rev-parse", "HEAD").strip()
        return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None  # no git on this machine, or a repository without commits


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class RunWriter:
    """The one writer of a RUN. Use as a context manager; `close` releases the lock.

    Opening repairs a torn last line, creates or checks run.json, and refuses a RUN of another shape or one
    that another process writes. Raises RunMismatchError or RunDirectoryError.
    """

    def __init__(
        self, folder: Path, *, stage: str, shape: Mapping[str, Json], asked: Mapping[str, Json]
    ) -> None:
        self.folder = folder
        self.shape = json.loads(json.dumps(to_json(shape)))
        with ExitStack() as opened:
            self._open(opened, stage, asked)
            self._opened = opened.pop_all()

    def _open(self, opened: ExitStack, stage: str, asked: Mapping[str, Json]) -> None:
        folder = self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            opened.enter_context(locked(folder))
            self._write_run_json(stage, asked)
            self._trajectories = opened.enter_context(closing(Appender(folder / "trajectories.jsonl")))
            self._failures = opened.enter_context(closing(Appender(folder / "failures.jsonl")))
            self.finished, self.usages = _stored(folder / "trajectories.jsonl")
        except OSError as error:
            raise RunDirectoryError(f"cannot write {folder}: {error.strerror or error}") from error

    def append(self, *trajectories: Trajectory) -> None:
        """Store finished attempts durably, those that end together with one fsync. A key that is there
        already is an error of ours."""
        for trajectory in trajectories:
            if trajectory.id in self.finished:
                raise RunDirectoryError(f"{self.folder}: attempt {trajectory.id} is stored already")
        self._trajectories.append(to_json(trajectory) for trajectory in trajectories)
        self.finished.update(trajectory.id for trajectory in trajectories)

    def append_failure(
        self, key: str, task: Task, error: BaseException, tries: int, usage: Usage | None = None
    ) -> None:
        """Note an attempt that failed on infrastructure, and what it had cost until then."""
        row = {"id": key, "task": task.id, "error": str(error), "type": type(error).__name__, "tries": tries}
        row |= {"usage": to_json(usage or Usage()), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        self._failures.append([row])

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_run_json(self, stage: str, asked: Mapping[str, Json]) -> None:
        path = self.folder / "run.json"
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        created = now
        if path.exists():
            before = read_run_json(self.folder)
            _same_shape(
                self.folder, {"stage": before["stage"], **before["shape"]}, {"stage": stage, **self.shape}
            )
            created = before.get("created", now)
        elif (self.folder / "trajectories.jsonl").exists():
            raise RunDirectoryError(f"{self.folder} holds trajectories but no run.json", "use another RUN")
        record = {
            "format": FORMAT,
            "stage": stage,
            "created": created,
            "updated": now,
            "shape": self.shape,
            "asked": to_json(asked),
            "versions": versions(),
            "git": git_revision(),
        }
        write_atomic(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the one writer of a folder. Raises RunDirectoryError where another process is."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunDirectoryError(
                f"another process is writing {folder}", "wait for it, or use another RUN"
            ) from error
        yield


def _stored(path: Path) -> tuple[set[str], list[Usage]]:
    """The keys of the finished attempts, and what each has cost, in order."""
    keys, usages = set(), []
    for number, row in enumerate(json_lines(path), 1):
        if not isinstance(row.get("id"), str):
            raise RunDirectoryError(f"{path} line {number} has no id", _RESTORE)
        keys.add(row["id"])
        usages.append(_usage(row, path, number))
    return keys, usages


def _usage(row: Mapping[str, Json], path: Path, number: int) -> Usage:
    try:
        usage = Usage(**(row.get("usage") or {}))
        _check_usage(usage)
    except TypeError as error:
        raise RunDirectoryError(f"{path} line {number} has a broken usage: {error}", _RESTORE) from error
    return usage


def _same_shape(folder: Path, before: Json, now: Json) -> None:
    changed = _differences(before, now)
    if changed:
        name, old, new = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise RunMismatchError(
            f"{folder} was made with {name} = {old!r}, not {new!r}{more}",
            "use another RUN, or the same settings",
        )


def _differences(before: Json, now: Json, name: str = "") -> list[tuple[str, Json, Json]]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted(before.keys() | now.keys()):
            path = f"{name}.{key}" if name else key
            found += _differences(before.get(key), now.get(key), path)
        return found
    return [] if before == now else [(name, before, now)]


class Appender:
    """One JSON line a write, fsynced together; a failed write is cut back so that no half line stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = _cut_torn_line(self._file)

    def append(self, rows: Iterable[Json]) -> None:
        end = self._end
        try:
            try:
                for row in rows:
                    text = json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
                    line = text.encode("utf-8", "replace")
                    if os.pwrite(self._file, line, end) != len(line):
                        raise OSError(28, "No space left on device")
                    end += len(line)
            finally:
                os.fsync(self._file)
                self._end = end  # lines that fitted stay where a later one did not
        except OSError as error:
            with suppress(OSError):  # if even this fails, the next writer cuts the half line away
                os.ftruncate(self._file, self._end)
            raise RunDirectoryError(
                f"cannot append to {self.path}: {error.strerror}",
                "free some space and run the same command again",
            ) from error

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _cut_torn_line(file: int) -> int:
    """Cut the file back to its last newline; its length afterwards."""
    end = os.fstat(file).st_size
    position = end
    while position > 0:
        start = max(0, position - 65536)
        newline = os.pread(file, position - start, start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position != end:
        os.ftruncate(file, position)
    return position


def write_atomic(path: Path, text: str) -> None:
    """Replace a file as a whole: readers see the old text or the new, never half of it."""
    incoming = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with incoming.open("w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        incoming.replace(path)
    except OSError as error:
        with suppress(OSError):
            incoming.unlink(missing_ok=True)
        raise RunDirectoryError(f"cannot write {path}: {error.strerror or error}") from error


def read_run_json(folder: Path) -> dict[str, Any]:
    """run.json of a RUN. Raises RunDirectoryError when the folder is no RUN or of a newer format."""
    path = folder / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{folder} is not a RUN: it has no run.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunDirectoryError(f"{path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("shape"), dict) or "stage" not in record:
        raise RunDirectoryError(f"{path} is not a run record")
    if record.get("format") != FORMAT:
        raise RunDirectoryError(f"{path} has format {record.get('format')}, this version reads {FORMAT}")
    return record


def read_trajectories(folder: Path) -> Iterator[Trajectory]:
    """The finished attempts of a RUN in the order they were stored. A torn last line is left out."""
    path = folder / "trajectories.jsonl"
    if not path.exists():
        read_run_json(folder)  # says so if this is no RUN at all
        return
    for number, row in enumerate(json_lines(path), 1):
        yield as_trajectory(row, path, number)


def as_trajectory(row: Mapping[str, Json], path: Path, number: int) -> Trajectory:
    """Line `number` of a trajectories.jsonl as a record. Raises RunDirectoryError if it is none."""
    try:
        trajectory = Trajectory.from_json(row)
        _check_types(trajectory)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunDirectoryError(
            f"{path} line {number} is not a trajectory: {type(error).__name__} {error}", _RESTORE
        ) from error
    return trajectory


def _check_types(trajectory: Trajectory) -> None:
    """What the stages compute with, in a row that was edited by hand. Raises TypeError naming the field."""
    task = trajectory.task
    texts = {"id": trajectory.id, "model": trajectory.model, "task.id": task.id}
    texts |= {"task.question": task.question, "task.answer": task.answer, "answer": trajectory.answer or ""}
    for i, message in enumerate(trajectory.messages):
        texts |= {f"messages.{i}.role": message["role"], f"messages.{i}.content": message["content"]}
    for i, step in enumerate(trajectory.steps):
        texts |= {f"steps.{i}.thought": step.thought, f"steps.{i}.observation": step.observation}
        texts |= {f"steps.{i}.code": step.code or "", f"steps.{i}.error": step.error or ""}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"{name} is not text")
    _check_usage(trajectory.usage)


def _check_usage(usage: Usage) -> None:
    for name, number in to_json(usage).items():
        if not isinstance(number, (int, float)) and not (name == "usd" and number is None):
            raise TypeError(f"usage.{name} is not a number")


def read_scores(folder: Path) -> dict[str, Score]:
    """Verdicts of a RUN by attempt id. Raises RunDirectoryError when it was not graded yet."""
    return {score.attempt: score for score in iter_scores(folder)}


def iter_scores(folder: Path) -> Iterator[Score]:
    """The same one by one, in the order of the file."""
    path = folder / "scores.jsonl"
    if not path.exists():
        raise RunDirectoryError(f"{folder} has no scores yet", f"agentdistill grade {folder}")
    for number, row in enumerate(json_lines(path), 1):
        try:
            score = Score(**row)
            if not isinstance(score.attempt, str) or not isinstance(score.correct, bool):
                raise TypeError("attempt must be text, and correct true or false")
        except TypeError as error:
            raise RunDirectoryError(
                f"{path} line {number} is not a score: {error}", f"agentdistill grade {folder}"
            ) from error
        yield score


def write_scores(folder: Path, scores: Iterable[Score]) -> None:
    """Replace scores.jsonl as a whole."""
    lines = [json.dumps(to_json(score), ensure_ascii=False) + "\n" for score in scores]
    write_atomic(folder / "scores.jsonl", "".join(lines))


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """Failures noted so far, in order; `usage` is a Usage."""
    path = folder / "failures.jsonl"
    if not path.exists():
        return []
    return [{**row, "usage": _usage(row, path, number)} for number, row in enumerate(json_lines(path), 1)]


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of an append-only file; a torn last line is left out. Raises RunDirectoryError."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return  # a torn last line: the attempt was in flight
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise RunDirectoryError(f"{path} line {number} is damaged: {error}", _RESTORE) from error
                if not isinstance(row, dict):
                    raise RunDirectoryError(f"{path} line {number} is not a JSON object", _RESTORE)
                yield row
    except OSError as error:
        raise RunDirectoryError(f"cannot read {path}: {error.strerror or error}") from error
