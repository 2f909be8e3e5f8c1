"""A RUN or curated DATA in, one file for other tools out.

Guaranteed: every attempt of the source is a row, or counted under the reason it is none; what stands at `out`
is replaced only when asked for, and as a whole. An attempt without a verdict is exported with the verdict
null. Not guaranteed: room for a source that does not fit into memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from agentdistill.errors import RunDirectoryError, UsageError
from agentdistill.exports import dataset
from agentdistill.exports.atif import to_atif
from agentdistill.exports.conversations import to_messages, to_sharegpt
from agentdistill.exports.sample import Sample, from_attempt, from_row
from agentdistill.runs import read_run_json, read_scores, read_trajectories, write_atomic
from agentdistill.stages.curate import read_data
from agentdistill.types import Json


class ExportFormat(StrEnum):
    """What can be written. All are JSON Lines but `hf`, which is a folder."""

    MESSAGES = "messages"
    HF = "hf"
    ATIF = "atif"
    SHAREGPT = "sharegpt"


_ROWS: dict[ExportFormat, Callable[[Sample], Json]] = {
    ExportFormat.MESSAGES: to_messages,
    ExportFormat.HF: to_messages,
    ExportFormat.ATIF: to_atif,
    ExportFormat.SHAREGPT: to_sharegpt,
}


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What was written: rows, how many of them are correct, how many have no verdict, what was left out."""

    out: str
    format: str
    rows: int
    correct: int
    ungraded: int
    left_out: dict[str, int]
    pushed: str | None = None


def export(
    source: Path,
    out: Path,
    format: ExportFormat | str = ExportFormat.MESSAGES,
    *,
    correct_only: bool = False,
    force: bool = False,
    push: str | None = None,
) -> ExportSummary:
    """Write the attempts of a RUN, or the rows of DATA, as `format` to `out`.

    `push` names a repository of the hub that an `hf` data set also goes to (a new one is private).

    Raises UsageError when `out` exists and `force` is not given, RunDirectoryError when the source cannot be
    read, has nothing to export or (with `correct_only`) no verdicts, InfrastructureError when the hub fails.
    """
    if format not in tuple(ExportFormat):
        raise UsageError(f"format {format!r} is not known: give one of {', '.join(ExportFormat)}")
    format = ExportFormat(format)
    if push is not None:
        if format is not ExportFormat.HF:
            raise UsageError("--push sends a data set", "use it with --format hf")
        dataset.check_push(push)
    _check_free(out, format, force)
    rows: list[Json] = []  # lines of text, but for a data set: half the memory
    verdicts: Counter[bool | None] = Counter()
    left_out: Counter[str] = Counter()
    for sample in _samples(source, correct_only):
        if _usable(sample, correct_only, left_out):
            row = _ROWS[format](sample)
            rows.append(row if format is ExportFormat.HF else json.dumps(row, ensure_ascii=False) + "\n")
            verdicts[sample.columns["correct"]] += 1
    if not rows:
        raise RunDirectoryError(f"{source} has nothing to export: {_reasons(left_out)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot write {out}: {error.strerror}") from error
    if format is ExportFormat.HF:
        table = dataset.make(rows, str(source))
        dataset.save(table, out)
        if push is not None:
            dataset.push(table, push, out)
    else:
        write_atomic(out, "".join(rows))
    return ExportSummary(
        str(out), format.value, len(rows), verdicts[True], verdicts[None], dict(left_out), push
    )


def _samples(source: Path, needs_scores: bool) -> Iterator[Sample]:
    if (source / "data.json").exists():
        yield from _curated(source)
        return
    if not (source / "run.json").exists():
        raise RunDirectoryError(f"{source} is neither a RUN nor DATA: it has no run.json and no data.json")
    version = _version(read_run_json(source))
    graded = needs_scores or (source / "scores.jsonl").exists()
    scores = read_scores(source) if graded else {}
    for attempt in read_trajectories(source):
        try:
            yield from_attempt(attempt, scores.get(attempt.id), source.name, version)
        except ValueError as error:
            raise RunDirectoryError(f"{source}: attempt {attempt.id!r} has {error}") from error


def _curated(source: Path) -> Iterator[Sample]:
    rows, _ = read_data(source)
    record = json.loads((source / "data.json").read_text(encoding="utf-8"))
    for number, row in enumerate(rows, 1):
        try:
            version = next(_version(run) for run in record["runs"] if run["run"] == row["run"])
            yield from_row(row, version)
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise RunDirectoryError(
                f"{source / 'rows.jsonl'} row {number} is no row of it: {error!r}", "curate again"
            ) from error


def _version(record: dict[str, Json]) -> str:
    return str(record.get("versions", {}).get("agentdistill", "unknown"))


def _usable(sample: Sample, correct_only: bool, left_out: Counter[str]) -> bool:
    """Whether a sample is exported; if not, it is counted."""
    verdict = sample.columns["correct"]
    if not any(message["role"] == "assistant" for message in sample.messages):
        left_out["no turn of the model"] += 1
    elif correct_only and not verdict:
        left_out["not graded" if verdict is None else "wrong answer"] += 1
    else:
        return True
    return False


def _check_free(out: Path, format: ExportFormat, force: bool) -> None:
    if not out.exists():
        return
    replaceable = dataset.is_dataset(out) if format is ExportFormat.HF else out.is_file()
    if not replaceable:
        wanted = "the folder of a data set" if format is ExportFormat.HF else "a file"
        raise UsageError(f"{out} exists and is not {wanted}", "give another -o")
    if not force:
        raise UsageError(f"{out} exists", "--force replaces it")


def _reasons(left_out: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "it is empty"
