"""What an index consists of: `manifest.json`, the only file that is ever replaced, names all others.

Guaranteed: a folder without a manifest is no index; the manifest is written last and at once, so every reader
sees the index as it was before a change or as it is after. Files it names never change. `read` looks whether
all of them are there in their full size; `verify` compares every checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

FORMAT, VERSION = "agentdistill index", 1
NAME = "manifest.json"


class BadIndex(Exception):
    """An index is damaged, unfinished, foreign, of another version, or lacks what was asked for: one line."""


@dataclass(frozen=True)
class File:
    size: int
    sha256: str


@dataclass(frozen=True)
class Segment:
    """A folder of files that were written together. `digest` stands for its passages, in their order."""

    name: str
    passages: int
    digest: str
    files: dict[str, File]
    removed: int = 0
    removed_file: str = ""


@dataclass(frozen=True)
class Manifest:
    """`encoder` has name, sha256 and dimension; it is None for an index without vectors."""

    encoder: dict[str, Any] | None
    segments: tuple[Segment, ...]
    next_name: int = 1
    made_with: dict[str, str] = field(default_factory=dict)

    @property
    def passages(self) -> int:
        return sum(segment.passages - segment.removed for segment in self.segments)

    @property
    def size(self) -> int:
        return sum(file.size for segment in self.segments for file in segment.files.values())

    @property
    def fingerprint(self) -> str:
        """Of the content: passages, what was removed, the encoder. The same for the same build elsewhere."""
        encoder = self.encoder["sha256"] if self.encoder else None
        removed = [s.files[s.removed_file].sha256 if s.removed_file else None for s in self.segments]
        content = [VERSION, encoder, [s.digest for s in self.segments], removed]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def with_segments(self, segments: Iterator[Segment] | list[Segment]) -> Manifest:
        return replace(self, segments=tuple(segments))


def read(folder: Path) -> Manifest:
    try:
        row = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if not isinstance(row, dict) or row.get("format") != FORMAT:
            raise BadIndex(f"{folder} is no index of agentdistill: its {NAME} is somebody else's")
        if row["version"] != VERSION:
            raise BadIndex(
                f"{folder} is of version {row['version']}, this program reads {VERSION}: build it again"
            )
        manifest = Manifest(
            row["encoder"], tuple(_segment(s) for s in row["segments"]), row["next_name"], row["made_with"]
        )
    except (FileNotFoundError, NotADirectoryError):
        raise BadIndex(_missing(folder)) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadIndex(
            f"{folder / NAME} is damaged ({type(error).__name__}: {error}): build it again"
        ) from error
    for path, file in _files(folder, manifest):
        try:
            size = path.stat().st_size
        except OSError:
            raise BadIndex(
                f"{folder} is damaged: {path.relative_to(folder)} is missing; build it again"
            ) from None
        if size != file.size:
            name = path.relative_to(folder)
            raise BadIndex(f"{folder} is damaged: {name} has {size} of {file.size} bytes; build it again")
    return manifest


def _segment(row: dict[str, Any]) -> Segment:
    return Segment(**row | {"files": {name: File(**file) for name, file in row["files"].items()}})


def _missing(folder: Path) -> str:
    if not folder.exists():
        if building_folder(folder).exists():
            return f"{folder} is not finished: run the same `index build` again, it goes on where it stopped"
        return f"there is no index at {folder}: make one with `agentdistill index build`"
    return f"{folder} is no index of agentdistill: it has no {NAME}"


def building_folder(index: Path) -> Path:
    """Where an index grows until it is finished."""
    return index.with_name(index.name + ".building")


def write(folder: Path, manifest: Manifest) -> None:
    """At once: this is the moment in which a change happens."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **asdict(manifest)}, indent=1)
    incoming = folder / (NAME + ".incoming")
    with incoming.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    incoming.replace(folder / NAME)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_of(path: Path) -> File:
    """Its size and checksum, once it is safely on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def verify(folder: Path, manifest: Manifest, progress: Callable[[int, int], None]) -> None:
    """BadIndex if a checksum is wrong. Reads everything."""
    done = 0
    for path, file in _files(folder, manifest):
        try:
            found = file_of(path)
        except OSError as error:
            raise BadIndex(f"{path} cannot be read: {error}") from error
        if found != file:
            name = path.relative_to(folder)
            raise BadIndex(f"{folder} is damaged: {name} has another checksum; build it again")
        done += file.size
        progress(done, manifest.size)


def _files(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, File]]:
    for segment in manifest.segments:
        for name, file in segment.files.items():
            yield folder / segment.name / name, file
