"""Looking after a knowledge base: the leak audit, duplicates, and what its entries did (METHOD 2).

Guaranteed: nothing is retired by itself, it is proposed; a locked entry is never changed by a merge. Not
guaranteed: that a flip was the entry's doing. Two runs differ by chance, too; the counts over many tasks say
more than those of one entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentdistill.errors import UsageError
from agentdistill.knowledge.distill import leak
from agentdistill.knowledge.encoder import TextEncoder
from agentdistill.knowledge.entry import Entry, Use, question_hash
from agentdistill.knowledge.folder import EntryFolder
from agentdistill.knowledge.merge import Duplicates, conflict, merged
from agentdistill.runs import locked, read_scores, read_trajectories
from agentdistill.types import Task, Trajectory


@dataclass(frozen=True, slots=True)
class Leak:
    """An entry that gives the answer to a task away, or repeats its question, and the task."""

    entry: str
    task: str
    reason: str


def audit(entries: Sequence[Entry], tasks: Iterable[Task]) -> list[Leak]:
    """Every entry held against the tasks it was made from."""
    by_question: dict[str, list[Entry]] = {}
    for entry in entries:
        for question in entry.questions:
            by_question.setdefault(question, []).append(entry)
    return [
        Leak(entry.id, task.id, reason.value)
        for task in tasks
        for entry in by_question.get(question_hash(task.question), [])
        if (reason := leak(entry, task)) is not None
    ]


def merge_all(
    folder: EntryFolder, encoder: TextEncoder | None
) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    """Make entries that say the same one. (kept, gone) pairs, and (one, other, reason) of those that a person
    must settle. Raises EntryFileError."""
    done: list[tuple[str, str]] = []
    left: list[tuple[str, str, str]] = []
    known = Duplicates([], encoder)
    with locked(folder.folder):
        for entry in folder.entries():
            same = known.of(entry)
            why = None if same is None else conflict(same, entry) or conflict(entry, same)
            if same is None or why is not None:
                if same is not None and why is not None:
                    left.append((same.id, entry.id, why.value))
                known.put([entry])
                continue
            both = merged(same, entry)
            folder.save(both)
            folder.path(entry.id).unlink()
            known.put([both])
            done.append((same.id, entry.id))
    return done, left


@dataclass(frozen=True, slots=True)
class EntryUse:
    """What an entry did: tasks it was given for, and verdicts that were another one without the KB."""

    entry: str
    retrieved: int
    wrong_to_right: int
    right_to_wrong: int

    @property
    def harms(self) -> bool:
        """Proposed to be retired. Ours: two more verdicts spoilt than won, so that chance alone (one flip)
        retires nothing."""
        return self.right_to_wrong - self.wrong_to_right >= 2


@dataclass(frozen=True, slots=True)
class UseSummary:
    """Attempts of both RUNs at the same task and sample. `given` are pairs in which an entry was given; the
    other two count flips over all pairs."""

    pairs: int
    given: int
    wrong_to_right: int
    right_to_wrong: int
    entries: tuple[EntryUse, ...]


def use(with_kb: Path, without: Path) -> UseSummary:
    """What the entries did in a graded RUN, held against the same tasks without them.

    A RUN's entries are those that stood in the prompt and those that `recall` gave. Raises RunDirectoryError,
    UsageError when the RUNs have no task in common or the first used no KB.
    """
    before = _verdicts(without)
    retrieved: Counter[str] = Counter()
    gained: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    pairs = given = won = spoilt = 0
    scores = read_scores(with_kb)
    delivered = False
    for attempt in read_trajectories(with_kb):
        delivered = delivered or attempt.knowledge.delivery != "off"
        key = attempt.task.id, attempt.task.question, attempt.sample
        if attempt.id not in scores or key not in before:
            continue
        pairs += 1
        right, was_right = scores[attempt.id].correct, before[key]
        won += right and not was_right
        spoilt += was_right and not right
        entries = entries_given(attempt)
        given += bool(entries)
        retrieved.update(entries)
        gained.update(entries if right and not was_right else ())
        lost.update(entries if was_right and not right else ())
    if not delivered:
        raise UsageError(f"{with_kb} was made without a knowledge base", "give the RUN made with --kb first")
    if not pairs:
        raise UsageError(f"{with_kb} and {without} have no graded task in common")
    uses = (EntryUse(id, retrieved[id], gained[id], lost[id]) for id in sorted(retrieved))
    ordered = sorted(uses, key=lambda one: (one.wrong_to_right - one.right_to_wrong, one.entry))
    return UseSummary(pairs, given, won, spoilt, tuple(ordered))


def entries_given(attempt: Trajectory) -> list[str]:
    """Ids of the entries that an attempt was given, in its prompt or by its calls of `recall`."""
    found = list(attempt.knowledge.entries) if attempt.knowledge.injected else []
    for step in attempt.steps:
        for call in step.tool_calls:
            if call.name == "recall" and isinstance(call.result, dict):
                found += [str(id) for id in call.result.get("entries", ())]
    return list(dict.fromkeys(found))


def note_use(folder: EntryFolder, entries: Iterable[EntryUse]) -> int:
    """Write these counts into the entries' files, in place of those that stand there; how many are written.
    Entries that are gone are left out."""
    known = {entry.id: entry for entry in folder.entries()}
    written = 0
    for one in entries:
        if one.entry in known:
            counts = Use(
                retrieved=one.retrieved, wrong_to_right=one.wrong_to_right, right_to_wrong=one.right_to_wrong
            )
            folder.save(known[one.entry].model_copy(update={"use": counts}))
            written += 1
    return written


def _verdicts(run: Path) -> dict[tuple[str, str, int], bool]:
    scores = read_scores(run)
    return {
        (attempt.task.id, attempt.task.question, attempt.sample): scores[attempt.id].correct
        for attempt in read_trajectories(run)
        if attempt.id in scores
    }
