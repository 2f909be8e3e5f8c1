"""`@file` in a question: which files of the person's it names, and what they are called in the sandbox.

Guaranteed: only regular files inside `base` are read, links followed first, none whose name or folder begins
with a dot (a pasted text must not fetch `.env`), none that is too large. A word with an @ that names no file
is text like any other: a decorator in pasted code, somebody's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from agentdistill.errors import UsageError
from agentdistill.stages.chat.sandbox import FILE_BYTES

_MENTION = re.compile(r"(?<!\S)@(?:\"([^\"\n]+)\"|(\S+))")
MOST = 10
"""Files in one question."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to put into the sandbox under `name`."""

    name: str
    data: bytes


def attached(text: str, base: Path) -> tuple[str, list[File]]:
    """The question as the agent reads it, with file names for mentions, and the files.

    Raises UsageError for a file that is there and may not be put into the sandbox.
    """
    files: dict[str, tuple[Path, File]] = {}

    def named(found: re.Match[str]) -> str:
        mention = found[1] or found[2]
        path, rest = _existing(mention, base)
        if path is None:
            return found[0]
        name = re.sub(r"[^\w.-]", "_", path.name)
        if name in files and files[name][0] != path:
            raise UsageError(f"@{mention}: another file called {name} is in this question", "rename one")
        if name not in files:
            files[name] = path, File(name, _read(mention, path, base))
        return name + rest

    question = _MENTION.sub(named, text)
    if len(files) > MOST:
        raise UsageError(f"{len(files)} files in one question, {MOST} at most")
    if files:
        question += f"\nFiles in the working folder: {', '.join(files)}"
    return question, [file for _, file in files.values()]


def _existing(mention: str, base: Path) -> tuple[Path | None, str]:
    """The file that a mention names, and what follows its name: "data.csv," may end a clause."""
    for name in dict.fromkeys((mention, mention.rstrip(".,;:!?)"))):
        path = base / Path(name).expanduser()
        try:
            if name and path.exists():
                return path.resolve(), mention[len(name) :]
        except OSError:  # a name that is too long, or a folder that may not be looked into
            continue
    return None, ""


def _read(mention: str, path: Path, base: Path) -> bytes:
    try:
        inside = path.relative_to(base.resolve())
    except ValueError:
        raise UsageError(f"@{mention} lies outside {base}", "copy it here, or start chat there") from None
    if any(part.startswith(".") for part in inside.parts):
        raise UsageError(f"@{mention} is hidden: such files often hold keys", "copy it under another name")
    if not path.is_file():
        raise UsageError(f"@{mention} is no file")
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"@{mention} cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES:
        raise UsageError(f"@{mention} is larger than {FILE_BYTES >> 20} MiB", "cut it to what matters")
    return data
