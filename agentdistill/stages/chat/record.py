"""A conversation on disk: ordinary RUNs, and which of their attempts make up the conversation.

    FOLDER/              the RUN of the first turn (runs.py), stage "chat"
    FOLDER-2/ ...        RUNs of turns that other settings have shaped: a RUN is bound to one shape
    FOLDER/chat.json     the turns in order (folder, attempt id), what was confirmed of them, the next number

Guaranteed: a turn is stored when it has ended, and stays stored when it is undone; chat.json is replaced as a
whole. `save` writes what the conversation is now, without what was undone, with the confirmed answers as gold
answers. A turn without one is saved too; `grade` counts it as wrong, there is nothing to compare it with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agentdistill.errors import RunDirectoryError, UsageError
from agentdistill.runs import RunWriter, read_run_json, read_trajectories, write_atomic
from agentdistill.types import Json, Task, Trajectory, Usage, to_json

STAGE = "chat"
TURNS = "chat.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation: what was done, what shaped it, and the answer the person has confirmed.

    `folder` is the RUN it is stored in, None if it is not. `states` is how many sandbox states it has left,
    in the session of number `generation`.
    """

    trajectory: Trajectory
    shape: Mapping[str, Json]
    folder: Path | None = None
    right: str | None = None
    states: int = 0
    generation: int = -1


class Record:
    """Where a conversation is kept; nowhere without a folder. Raises RunDirectoryError and UsageError."""

    def __init__(self, folder: Path | None, asked: Mapping[str, Json] | None = None) -> None:
        self.folder = folder
        self.next_number = 1
        self._asked = dict(asked or {})
        self._writers: dict[Path, RunWriter] = {}

    def open(self, shape: Mapping[str, Json]) -> RunWriter | None:
        """The RUN of attempts of this shape."""
        if self.folder is None:
            return None
        plain = json.loads(json.dumps(to_json(shape)))
        for writer in self._writers.values():
            if writer.shape == plain:
                return writer
        path = next(
            path for path in _numbered(self.folder) if path not in self._writers and _takes(path, plain)
        )
        self._writers[path] = RunWriter(path, stage=STAGE, shape=shape, asked=self._asked)
        return self._writers[path]

    def append(self, turn: Turn) -> Turn:
        """Store a turn's attempt; the turn, with its folder."""
        writer = self.open(turn.shape)
        if writer is None:
            return turn
        writer.append(turn.trajectory)
        return replace(turn, folder=writer.folder)

    def failed(
        self, shape: Mapping[str, Json], key: str, task: Task, error: BaseException, usage: Usage
    ) -> None:
        """Note a turn that broken machinery has ended."""
        writer = self.open(shape)
        if writer is not None:
            writer.append_failure(key, task, error, 1, usage)

    def note(self, turns: Sequence[Turn]) -> None:
        """Say which turns the conversation has now."""
        if self.folder is not None and self.folder.is_dir():
            _write_turns(self.folder, turns, self.next_number)

    def known(self, key: str) -> bool:
        """Whether an attempt with this key is stored already."""
        return any(key in writer.finished for writer in self._writers.values())

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def save(turns: Sequence[Turn], folder: Path, asked: Mapping[str, Json] | None = None) -> list[Path]:
    """Write the conversation as new RUNs; their folders. UsageError if there is something there already."""
    if not turns:
        raise UsageError("there is nothing to save yet")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists", "give another folder")
    record = Record(folder, asked)
    try:
        saved = [record.append(replace(turn, trajectory=_with_gold(turn))) for turn in turns]
        record.next_number = len(turns) + 1
        record.note(saved)
    finally:
        record.close()
    return list(dict.fromkeys(turn.folder for turn in saved if turn.folder is not None))


def save_as_one(turns: Sequence[Turn], folder: Path) -> None:
    """Write the conversation as one RUN whatever has shaped its turns: for exports, which have no use for
    that."""
    with RunWriter(folder, stage=STAGE, shape={}, asked={}) as writer:
        writer.append(*(_with_gold(turn) for turn in turns))


def load(folder: Path) -> tuple[list[Turn], int]:
    """The turns of a stored conversation, and the number of its next one.

    Raises RunDirectoryError if it cannot be read, UsageError for a RUN that is no conversation.
    """
    if read_run_json(folder)["stage"] != STAGE:
        raise UsageError(f"{folder} is a RUN, but no conversation", f"agentdistill inspect {folder}")
    path = folder / TURNS
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        rows = [(str(row["run"]), str(row["id"]), row.get("right")) for row in noted["turns"]]
        number = int(noted["next"])
    except FileNotFoundError:
        rows = [(folder.name, trajectory.id, None) for trajectory in read_trajectories(folder)]
        number = len(rows) + 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunDirectoryError(
            f"{path} cannot be read: {error}", "remove it: all turns are then loaded"
        ) from error
    stored: dict[str, tuple[dict[str, Trajectory], Mapping[str, Json]]] = {}
    turns = []
    for name, key, right in rows:
        if Path(name).name != name or name in ("", ".", ".."):
            raise RunDirectoryError(f"{path} names {name!r}, which is no folder beside it")
        run = folder.parent / name if name != folder.name else folder
        if name not in stored:
            found = {trajectory.id: trajectory for trajectory in read_trajectories(run)}
            stored[name] = found, read_run_json(run)["shape"]
        attempts, shape = stored[name]
        if key not in attempts:
            raise RunDirectoryError(f"{path} names a turn {key!r} that {run} does not hold")
        turns.append(Turn(attempts[key], shape, run, None if right is None else str(right)))
    return turns, number


def _with_gold(turn: Turn) -> Trajectory:
    if turn.right is None:
        return turn.trajectory
    return replace(turn.trajectory, task=replace(turn.trajectory.task, answer=turn.right))


def _write_turns(folder: Path, turns: Sequence[Turn], next_number: int) -> None:
    rows = [
        {"run": turn.folder.name, "id": turn.trajectory.id, "right": turn.right}
        for turn in turns
        if turn.folder is not None
    ]
    text = json.dumps({"format": FORMAT, "next": next_number, "turns": rows}, ensure_ascii=False, indent=2)
    write_atomic(folder / TURNS, text + "\n")


def _numbered(folder: Path) -> list[Path]:
    """FOLDER, FOLDER-2, ...: one for each shape."""
    return [folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 1000))]


def _takes(path: Path, shape: Json) -> bool:
    """Whether this folder is free, or a RUN of chats of this shape."""
    if not (path / "run.json").exists():
        return not (path / "trajectories.jsonl").exists()
    record = read_run_json(path)
    return record["stage"] == STAGE and bool(record["shape"] == shape)
