"""A person changes an entry: in an editor, two at a time, or from another KB's JSON Lines.

Guaranteed: an edited text that is no entry is kept beside the entry, and opened again by the next edit; an
entry that somebody else has changed meanwhile is not overwritten; an import writes all of its entries or
none. Not guaranteed: comments in a file that a merge or an import writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agentdistill.errors import EntryFileError, UsageError
from agentdistill.knowledge.entry import Entry, as_json, read_entry, validated
from agentdistill.knowledge.folder import ENTRIES, EntryFolder
from agentdistill.knowledge.merge import merged
from agentdistill.runs import write_atomic

_TEMPLATE = """\
id: {id}
status: draft          # draft, active or retired: only active entries are given to a model
kind: procedure        # procedure, fact, pitfall or tool_usage
title: what it is about
trigger: when to use it
learning_summary:
- how to think about such a task
supplementary_knowledge:
- a formula, definition or technique
task_kinds: []         # math, qa, choice, code; empty is all
families: []           # e.g. gsm8k or object_counting; empty is all
provenance:
- author: {author}
"""


@dataclass(frozen=True, slots=True)
class Draft:
    """A text on its way into a KB: where it is edited, and what the entry's file held before ("" if new)."""

    id: str
    path: Path
    before: str


def begin(folder: EntryFolder, id: str, *, new_author: str = "") -> Draft:
    """Put an entry, a new one, or what an earlier edit has left broken, where it can be edited."""
    path = folder.path(id).with_name(f".{id}.edited.yaml")
    if new_author:
        if folder.path(id).exists() or folder.path(id, review=True).exists():
            raise UsageError(f"{folder.folder} has an entry {id!r}", "edit it without --new")
        before, text = "", _TEMPLATE.format(id=id, author=json.dumps(new_author, ensure_ascii=False))
    else:
        _check_there(folder, id)
        before = text = folder.path(id).read_text(encoding="utf-8", errors="replace")
    if not path.exists():
        path.write_text(text, encoding="utf-8")
    return Draft(id, path, before)


def finish(folder: EntryFolder, draft: Draft) -> bool:
    """Take what stands in the draft, if it is an entry; False if nothing was changed.

    Raises EntryFileError, and the draft stays, where it is none or the entry has changed meanwhile.
    """
    path = folder.path(draft.id)
    text = draft.path.read_bytes()
    kept = f"your text is kept in {draft.path}; `agentdistill kb edit` goes on with it"
    entry, problems = read_entry(text, str(draft.path))
    if problems:
        told = "; ".join(f"line {problem.line}: {problem.what}" for problem in problems[:5])
        raise EntryFileError(f"{draft.id} is not saved: {told}", kept)
    if entry is None or entry.id != draft.id:
        raise EntryFileError(f"{draft.id} is not saved: its id must stay {draft.id!r}", kept)
    now = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    if now != draft.before:
        raise EntryFileError(f"{draft.id} is not saved: {path} was changed meanwhile", kept)
    changed = text.decode() != draft.before
    if changed:
        write_atomic(path, text.decode())
    draft.path.unlink()
    return changed


def merge_pair(folder: EntryFolder, target: str, other: str) -> Entry:
    """Put what `other` adds into `target`, whatever the two are, and remove `other`: a person has decided.
    Raises UsageError, EntryFileError where the two together are too long."""
    if target == other:
        raise UsageError(f"{target!r} cannot be merged with itself")
    first, path = folder.entry(target)
    second, gone = folder.entry(other)
    if path.parent.name != ENTRIES:
        raise UsageError(
            f"{target!r} stands in review", f"name the entry first: kb merge KB {other} {target}"
        )
    both = validated(as_json(merged(first, second)), str(path), 1)
    folder.save(both)
    gone.unlink()
    return both


def export_lines(entries: Sequence[Entry]) -> str:
    return "".join(json.dumps(as_json(entry), ensure_ascii=False) + "\n" for entry in entries)


def import_lines(folder: EntryFolder, file: Path, *, replace: bool = False) -> tuple[int, int]:
    """Entries of a JSON Lines file: how many were written, and how many were there already.

    Raises EntryFileError naming the line, with nothing written; so does an id that is there with another
    content, unless `replace` is given and the entry is not locked.
    """
    known = {entry.id: entry for entry in folder.entries()}
    seen: dict[str, int] = {}
    new: list[Entry] = []
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EntryFileError(f"{file} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EntryFileError(f"{file} line {number}: is no JSON: {error}") from error
        entry = validated(row, str(file), number)
        if entry.id in seen:
            raise EntryFileError(
                f"{file} line {number}: the id {entry.id!r} is that of line {seen[entry.id]}"
            )
        seen[entry.id] = number
        old = known.get(entry.id)
        if old == entry:
            continue
        if old is not None and (old.locked or not replace):
            remedy = "it is locked" if old.locked else "--replace takes the file's"
            raise EntryFileError(f"{file} line {number}: {entry.id!r} is there with another content", remedy)
        new.append(entry)
    for entry in new:
        folder.save(entry)
    return len(new), len(seen) - len(new)


def _check_there(folder: EntryFolder, id: str) -> None:
    if not folder.path(id).exists():
        raise EntryFileError(
            f"{folder.folder} has no entry {id!r}", "--new makes one, `agentdistill kb search` finds ids"
        )
