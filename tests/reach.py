"""A folder that only its owner may enter, opened inside an outer bubblewrap."""

from __future__ import annotations

from pathlib import Path


def reachable(*paths: str) -> list[str]:
    """Arguments that let everybody read what lies below a folder like /root: on a tmpfs in its place."""
    words: list[str] = []
    for path in map(Path, paths):
        closed = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & 1]
        if closed:
            if str(closed[0]) not in words:
                words += ["--perms", "0755", "--tmpfs", str(closed[0])]
            for folder in reversed(path.parents):
                if closed[0] in folder.parents:
                    words += ["--perms", "0755", "--dir", str(folder)]
            words += ["--ro-bind", str(path), str(path)]
    return words
