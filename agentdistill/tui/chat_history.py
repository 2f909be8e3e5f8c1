"""What was typed before: to go back to, and to search.

Guaranteed: a file of ours alone (mode 600), cut to its newest MOST entries; a line of it that cannot be read
is left out. What cannot be read or written at all is no history, never an end of the chat.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

MOST = 1_000
LONGEST = 10_000
"""Characters of an entry: what is longer was pasted."""


class History:
    """Entries, oldest first. `place` is where one has gone back to; the end is what is being typed."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self.entries = _read(file)[-MOST:] if file is not None else []
        self._place = len(self.entries)
        self._typed = ""

    def add(self, text: str) -> None:
        """Note what was sent; the same twice in a row is noted once."""
        if text.strip() and len(text) <= LONGEST and self.entries[-1:] != [text]:
            self.entries.append(text)
            self._write()
        self._place, self._typed = len(self.entries), ""

    def back(self, typed: str) -> str | None:
        """The entry before; None at the beginning. `typed` is what one comes back to."""
        if self._place == 0:
            return None
        if self._place == len(self.entries):
            self._typed = typed
        self._place -= 1
        return self.entries[self._place]

    def forward(self) -> str | None:
        """The entry after, at last what was being typed; None if one is there."""
        if self._place >= len(self.entries):
            return None
        self._place += 1
        return self.entries[self._place] if self._place < len(self.entries) else self._typed

    def search(self, words: str) -> list[str]:
        """Entries that hold all words, newest first, each once."""
        wanted = words.lower().split()
        found = (text for text in reversed(self.entries) if all(word in text.lower() for word in wanted))
        return list(dict.fromkeys(found))

    def _write(self) -> None:
        if self._file is None:
            return
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(text) + "\n" for text in self.entries[-MOST:]]
            incoming = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            handle = os.open(incoming, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w") as out:
                out.writelines(lines)
            incoming.replace(self._file)


def _read(file: Path) -> list[str]:
    entries = []
    with suppress(OSError):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, str):
                    entries.append(entry)
    return entries
