"""A graded RUN's failures in, entries of a knowledge base out (METHOD 2). Resumes by itself.

Guaranteed: a failed attempt that has been turned into an entry, or into a reason for none, is never paid for
again by the same teacher and prompt; every one of them stands in KB/log.jsonl with what became of it and what
it has cost, replies that were refused among them; budgets hold as in `generate`. Entries of people are not
touched: what repeats a locked or retired entry, or contradicts one, goes to KB/review. Not guaranteed: the
same entries whatever the concurrency; which of two that say the same comes first decides whose title stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agentdistill.errors import UsageError
from agentdistill.knowledge.distill import (
    DistillPrompt,
    Refusal,
    leak,
    load_distill_prompt,
    read_reply,
)
from agentdistill.knowledge.encoder import TextEncoder
from agentdistill.knowledge.entry import Entry, FromTrajectory, Status, question_hash
from agentdistill.knowledge.folder import EntryFolder
from agentdistill.knowledge.merge import Duplicates, conflict, merged
from agentdistill.models.base import BaseModel
from agentdistill.runs import (
    Appender,
    canonical_hash,
    json_lines,
    locked,
    read_scores,
    read_trajectories,
)
from agentdistill.stages.pool import Job, run_jobs
from agentdistill.stages.progress import Progress, Silent
from agentdistill.stages.spending import Account, Budget, Meter, MeteredModel, Price
from agentdistill.types import Json, Sampling, Task, Trajectory, Usage, to_json

LOG = "log.jsonl"
TRIES = (0.0, 0.7)
"""Temperatures: a reply that is refused is asked for once more, differently."""
REPLY_TOKENS = 400


class Outcome(StrEnum):
    """What became of a failed attempt."""

    ADDED = "added"
    MERGED = "merged"
    QUEUED = "queued"
    REFUSED = "refused"
    FAILED = "failed"  # on infrastructure: tried again by the next call


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """`failures` are the RUN's failed attempts, one a task, of which `skipped` were dealt with before.

    `refused` and `queued` are counted by reason; `remaining` were not come to because of the budget.
    """

    folder: str
    failures: int
    skipped: int
    added: int
    merged: int
    queued: dict[str, int]
    refused: dict[str, int]
    parked: int
    remaining: int
    usage: Usage
    whole_usage: Usage


@dataclass(frozen=True, slots=True)
class _Distilled:
    key: str
    failed: Trajectory
    found: Entry | Refusal
    reply: str
    usage: Usage


def build(
    run: Path,
    out: Path,
    teacher: BaseModel,
    *,
    encoder: TextEncoder | None = None,
    prompt: DistillPrompt | None = None,
    limit: int | None = None,
    concurrency: int = 4,
    price: Price | None = None,
    budget: Budget | None = None,
    progress: Progress | None = None,
) -> BuildSummary:
    """Let `teacher` write an entry for each task that RUN has failed, into the KB `out`.

    Without an `encoder` only entries that say exactly the same are merged. Raises RunDirectoryError when RUN
    is not graded, EntryFileError when `out` holds a broken entry, UsageError, and what `run_jobs` raises.
    """
    Account(price, budget, model_id=teacher.model_id)  # a wrong budget is said before a folder is made
    prompt = prompt or load_distill_prompt()
    shape = canonical_hash([to_json(teacher.fingerprint()), prompt.sha256])
    attempts = list(read_trajectories(run))
    failures = _failures(attempts, run)[:limit]
    if not attempts:
        raise UsageError(f"{run} has no attempts")
    folder = EntryFolder(out, create=True)
    by_key = {f"{failed.id}@{shape}": failed for failed in failures}

    def attempt(job: Job, meter: Meter) -> _Distilled:
        return _distilled(job.key, by_key[job.key], MeteredModel(teacher, meter), prompt, meter)

    with ExitStack() as opened:
        opened.enter_context(locked(out))
        writer = opened.enter_context(closing(_Writer(folder, encoder, [one.task for one in attempts])))
        writer.find(by_key, teacher.model_id, prompt)
        account = Account(price, budget, writer.paid, writer.lost, teacher.model_id)
        result = run_jobs(
            [Job(failed.task, failed.sample, key) for key, failed in by_key.items()],
            attempt,
            writer,
            concurrency=concurrency,
            progress=progress or Silent(),
            stage="kb build",
            account=account,
            in_flight_limit=lambda: teacher.in_flight_limit,
        )
    counts = writer.counts
    return BuildSummary(
        folder=str(out),
        failures=len(failures),
        skipped=result.skipped,
        added=counts[Outcome.ADDED, ""],
        merged=counts[Outcome.MERGED, ""],
        queued={reason: n for (outcome, reason), n in counts.items() if outcome is Outcome.QUEUED},
        refused={reason: n for (outcome, reason), n in counts.items() if outcome is Outcome.REFUSED},
        parked=result.parked,
        remaining=result.remaining,
        usage=result.usage,
        whole_usage=result.run_usage,
    )


def _failures(attempts: Iterable[Trajectory], run: Path) -> list[Trajectory]:
    """The first failed attempt at every task that has one. An attempt without a verdict is an error."""
    scores = read_scores(run)
    found: dict[tuple[str, str], Trajectory] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.sample):
        if attempt.id not in scores:
            raise UsageError(f"{run}: attempt {attempt.id} is not graded", f"agentdistill grade {run}")
        if not scores[attempt.id].correct:
            found.setdefault((attempt.task.id, attempt.task.question), attempt)
    return list(found.values())


def _distilled(
    key: str, failed: Trajectory, teacher: BaseModel, prompt: DistillPrompt, meter: Meter
) -> _Distilled:
    messages = prompt.messages(failed)
    for number, temperature in enumerate(TRIES):
        sampling = Sampling(temperature, 0.95, REPLY_TOKENS, number)
        reply = teacher.sample(messages, sampling=sampling)[0].text
        found = read_reply(reply, failed, failed.model, teacher.model_id, prompt)
        if isinstance(found, Entry):
            found = leak(found, failed.task) or found
        if isinstance(found, Entry):
            break
    return _Distilled(key, failed, found, reply, meter.usage())


class _Writer:
    """The Store of a build: entries first, then the line in the log."""

    def __init__(self, folder: EntryFolder, encoder: TextEncoder | None, tasks: Sequence[Task]) -> None:
        self._folder = folder
        self._log = Appender(folder.folder / LOG)
        self.finished: set[str] = set()
        self.paid: list[Usage] = []
        self.lost: list[Usage] = []
        self.counts: Counter[tuple[Outcome, str]] = Counter()
        self._tasks = {question_hash(task.question): task for task in tasks}
        self._entries = folder.entries()
        self._duplicates = Duplicates(self._entries, encoder)
        for row in json_lines(folder.folder / LOG):
            failed = row["outcome"] == Outcome.FAILED
            (self.lost if failed else self.paid).append(Usage(**row["usage"]))
            if not failed:
                self.finished.add(row["key"])

    def find(self, failures: dict[str, Trajectory], teacher: str, prompt: DistillPrompt) -> None:
        """Log entries that a kill has kept from the log."""
        made = {
            (source.trajectory, source.teacher, source.prompt): entry.id
            for entry in self._entries
            for source in entry.provenance
            if isinstance(source, FromTrajectory)
        }
        for key, failed in failures.items():
            id = made.get((failed.id, teacher, prompt.sha256[:12]))
            if id is not None and key not in self.finished:
                self._note(key, failed.task, Outcome.ADDED, "found again", id, "", Usage())

    def append(self, *made: _Distilled) -> None:
        for one in made:
            outcome, reason, id = self._settled(one)
            reply = one.reply if outcome is Outcome.REFUSED else ""
            self.counts[outcome, reason] += 1
            self._note(one.key, one.failed.task, outcome, reason, id, reply, one.usage)

    def append_failure(
        self, key: str, task: Task, error: BaseException, tries: int, usage: Usage | None = None
    ) -> None:
        self._note(key, task, Outcome.FAILED, str(error), "", "", usage or Usage())

    def close(self) -> None:
        self._log.close()

    def _settled(self, one: _Distilled) -> tuple[Outcome, str, str]:
        if isinstance(one.found, Refusal):
            return Outcome.REFUSED, one.found.value, ""
        same = self._duplicates.of(one.found)
        if same is None:
            self._keep(one.found)
            return Outcome.ADDED, "", one.found.id
        same, _ = self._folder.entry(same.id)  # as it is now: a person may have edited it meanwhile
        why = conflict(same, one.found)
        if why is not None:
            self._folder.save(one.found.model_copy(update={"status": Status.DRAFT}), review=True)
            return Outcome.QUEUED, why.value, one.found.id
        both = merged(same, one.found)
        if any(leak(both, self._tasks[question]) for question in both.questions & self._tasks.keys()):
            return Outcome.REFUSED, Refusal.MERGED.value, same.id
        self._keep(both)
        return Outcome.MERGED, "", same.id

    def _keep(self, entry: Entry) -> None:
        self._folder.save(entry)
        self._duplicates.put([entry])

    def _note(
        self, key: str, task: Task, outcome: Outcome, reason: str, entry: str, reply: str, usage: Usage
    ) -> None:
        row: dict[str, Json] = {"key": key, "task": task.id, "outcome": outcome.value, "reason": reason}
        self._log.append([row | {"entry": entry, "reply": reply, "usage": to_json(usage)}])
        if outcome is not Outcome.FAILED:
            self.finished.add(key)
