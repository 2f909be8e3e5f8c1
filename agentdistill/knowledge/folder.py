"""The folder of a knowledge base: files are the truth.

    KB/entries/ID.yaml    the entries
    KB/review/ID.yaml     proposals that wait for a person: nothing here is ever given to a model
    KB/log.jsonl          what `kb build` has done, one failed attempt a line
    KB/.index.sqlite      made from the entries, can be deleted at any time (store.py)

Guaranteed: an entry's file is replaced as a whole; a file that cannot be read as an entry, a name that is not
its id, an id that is there twice and anything in these folders that is no .yaml file are told with file and
line, never skipped. Not guaranteed: order between two who save the same entry; the later one wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from agentdistill.errors import EntryFileError, KnowledgeBaseError
from agentdistill.knowledge.entry import Entry, Problem, read_entry, write_entry
from agentdistill.runs import write_atomic

ENTRIES, REVIEW = "entries", "review"
_IGNORED = ".index.sqlite*\n.lock\n"


class EntryFolder:
    """A KB folder. With `create` it is made if need be. Raises EntryFileError, KnowledgeBaseError."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder
        if create:
            try:
                for name in (ENTRIES, REVIEW):
                    (folder / name).mkdir(parents=True, exist_ok=True)
                if not (folder / ".gitignore").exists():
                    (folder / ".gitignore").write_text(_IGNORED)
            except OSError as error:
                raise KnowledgeBaseError(f"cannot write {folder}: {error.strerror}") from error
        if not (folder / ENTRIES).is_dir():
            raise EntryFileError(
                f"{folder} is no knowledge base: it has no folder {ENTRIES}",
                "`agentdistill kb build` or `kb import` make one",
            )

    def path(self, id: str, *, review: bool = False) -> Path:
        return self.folder / (REVIEW if review else ENTRIES) / f"{id}.yaml"

    def files(self, part: str) -> Iterator[Path]:
        """The files of entries/ or review/, hidden ones left out: editors keep theirs there."""
        folder = self.folder / part
        if folder.is_dir():
            yield from sorted(path for path in folder.iterdir() if not path.name.startswith("."))

    def check(self) -> tuple[list[Entry], list[Entry], list[Problem]]:
        """The entries, those in review, and everything that is wrong in the folder."""
        problems: list[Problem] = []
        found = {part: list(self._read(part, problems)) for part in (ENTRIES, REVIEW)}
        problems += twice([(str(path), entry.id) for part in found.values() for path, entry in part])
        entries, review = ([entry for _, entry in part] for part in found.values())
        return entries, review, problems

    def entries(self) -> list[Entry]:
        """All entries, by id. Raises EntryFileError naming the first thing that is wrong."""
        problems: list[Problem] = []
        found = list(self._read(ENTRIES, problems))
        refuse(self.folder, problems + twice([(str(path), entry.id) for path, entry in found]))
        return [entry for _, entry in found]

    def entry(self, id: str) -> tuple[Entry, Path]:
        """An entry by its id, from entries/ or review/, and its file. Raises EntryFileError."""
        for review in (False, True):
            path = self.path(id, review=review)
            if path.exists():
                entry, problems = read_file(path)
                refuse(self.folder, problems)
                if entry is not None:
                    return entry, path
        raise EntryFileError(f"{self.folder} has no entry {id!r}", "`agentdistill kb search` finds ids")

    def save(self, entry: Entry, *, review: bool = False) -> Path:
        """Write an entry in canonical form; says where."""
        path = self.path(entry.id, review=review)
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, write_entry(entry))
        return path

    def _read(self, part: str, problems: list[Problem]) -> Iterator[tuple[Path, Entry]]:
        for path in self.files(part):
            entry, wrong = read_file(path)
            problems += wrong
            if entry is not None:
                yield path, entry


def read_file(path: Path) -> tuple[Entry | None, list[Problem]]:
    """The entry of a file of a KB folder, or what is wrong with it. Raises OSError where it is not there."""
    if path.suffix != ".yaml" or not path.is_file():
        return None, [Problem(str(path), 1, "is no .yaml file: entries alone stand in this folder")]
    entry, problems = read_entry(path.read_bytes(), str(path))
    return entry, problems + ([wrong] if entry and (wrong := misnamed(entry, path)) else [])


def misnamed(entry: Entry, path: Path) -> Problem | None:
    """What is wrong with a file whose name is not its entry's id."""
    if path.stem == entry.id:
        return None
    return Problem(str(path), 1, f"has the id {entry.id!r}: name it {entry.id}.yaml, or change the id")


def twice(named: Iterable[tuple[str, str]]) -> list[Problem]:
    """A problem for each (file, id) whose id an earlier one has."""
    first: dict[str, str] = {}
    return [
        Problem(file, 1, f"the id {id!r} is that of {first[id]}, too")
        for file, id in named
        if first.setdefault(id, file) != file
    ]


def refuse(folder: Path, problems: list[Problem]) -> None:
    """Raise EntryFileError for the first problem, if there is one."""
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise EntryFileError(f"{problems[0]}{more}", f"`agentdistill kb lint {folder}` names all")
