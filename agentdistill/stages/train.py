"""Training rows in, CHECKPOINT out, exported to GGUF for serving.

    DATA/rows.jsonl    what SFT and Masked Thought learn from
    DATA/pairs.jsonl   what REDI learns from: task, chosen and rejected (a row's id, run and messages each)
    CHECKPOINT/        what training/sft.py writes, model-q8_0.gguf, report.html with the curves

Guaranteed: validation tasks are never trained on, and the same DATA, share and seed give the same ones.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentdistill import catalog
from agentdistill.errors import ExportError, TrainingError, UnknownModelError
from agentdistill.models.spec import CHECKPOINT_GGUF
from agentdistill.stages.curate import read_data
from agentdistill.stages.pairs import read_pairs
from agentdistill.stages.progress import Progress, Silent
from agentdistill.stages.training_report import write_training_report
from agentdistill.training.rows import Encoded, Row, encode_rows
from agentdistill.training.sft import SftConfig, TrainResult, is_main_process, load_student_tokenizer
from agentdistill.training.sft import train as fit

if TYPE_CHECKING:
    from agentdistill.training.trainer import Progress as Tick


@dataclass(frozen=True)
class Prepared:
    """Rows ready to train on, the tokenizer they were made with and the prompts they carry."""

    encoded: Encoded
    tokenizer: Any
    prompts: str
    runs: dict[str, str]
    """Row id to the name of the RUN it came from."""
    tasks: dict[str, str]
    """Row id to its task's."""


def student_base(spec: str) -> Path:
    """What a student SPEC trains from: a catalog name, llamacpp:FILE.gguf, hf:DIR or a folder."""
    kind, _, rest = spec.partition(":")
    if any(entry.name == spec for entry in catalog.ENTRIES):
        return catalog.fetch(spec)
    path = Path(rest if kind in ("llamacpp", "hf") and rest else spec)
    if not path.exists():
        raise UnknownModelError(
            f"no student {spec!r}", "give a catalog name, llamacpp:FILE.gguf, hf:DIR or a checkpoint folder"
        )
    return path


def prepare(data: Path, base: Path, max_length: int, *, split_long: bool = False) -> Prepared:
    """Encode the rows of a DATA folder. Rows over `max_length` tokens are left out, or with `split_long`
    split at a step; `encoded` names both."""
    rows, prompts = read_data(data)
    if not rows:
        raise TrainingError(f"{data} has no rows", "curate a RUN that has correct trajectories")
    tokenizer = load_student_tokenizer(base)
    conversations = [(row["id"], row["messages"]) for row in rows]
    encoded = encode_rows(conversations, tokenizer, max_length, split_long=split_long)
    runs = {row["id"]: row["run"] for row in rows}
    return Prepared(encoded, tokenizer, prompts, runs, {row["id"]: row["task"] for row in rows})


def prepare_pairs(data: Path, base: Path, max_length: int) -> Prepared:
    """Encode the pairs of a DATA folder as rows `N+`, `N-`. One with a row over `max_length` is left out."""
    _, prompts = read_data(data)
    pairs = read_pairs(data)
    tokenizer = load_student_tokenizer(base)
    rows: list[Row] = []
    too_long: list[str] = []
    runs: dict[str, str] = {}
    tasks: dict[str, str] = {}
    for number, pair in enumerate(pairs):
        both = [(f"{number}{mark}", pair[side]) for mark, side in (("+", "chosen"), ("-", "rejected"))]
        encoded = encode_rows([(name, side["messages"]) for name, side in both], tokenizer, max_length)
        if encoded.too_long:
            too_long.append(str(number))
            continue
        rows += encoded.rows
        for name, side in both:
            runs[name], tasks[name] = side["run"], pair["task"]
    return Prepared(Encoded(tuple(rows), tuple(too_long)), tokenizer, prompts, runs, tasks)


def split_off(prepared: Prepared, share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Training and validation rows: about `share` of the tasks with all their rows, drawn by hash. Of pairs
    only the right side validates. Raises TrainingError when one of the two would be empty."""
    if not share:
        return list(prepared.encoded.rows), []

    def task(row: Row) -> str:
        return prepared.tasks.get(row.id) or prepared.tasks[row.id.rpartition("#")[0]]  # a piece: `id#2`

    def drawn(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode()).digest()

    tasks = sorted({task(row) for row in prepared.encoded.rows}, key=drawn)
    held = set(tasks[: max(1, round(share * len(tasks)))])
    rows = [row for row in prepared.encoded.rows if task(row) not in held]
    looked_at = [row for row in prepared.encoded.rows if task(row) in held and not row.id.endswith("-")]
    if not rows:
        raise TrainingError(f"{len(tasks)} tasks are too few to hold some back", "leave out --validation")
    return rows, looked_at


def train(
    data: Path,
    out: Path,
    student: str,
    config: SftConfig,
    *,
    split_long: bool = False,
    validation: float = 0.0,
    progress: Progress | None = None,
    stage: str = "train",
) -> TrainResult:
    """Train `student` on DATA into the checkpoint `out`, with a GGUF export beside it. Resumes by itself.

    `validation` is the share of tasks held back for early stopping. Raises TrainingError, RunMismatchError
    when `out` was trained otherwise, UnknownModelError.
    """
    from agentdistill.training.export import export_gguf

    progress = progress or Silent()
    base = student_base(student)
    if config.objective == "redi":
        prepared = prepare_pairs(data, base, config.max_length)
    else:
        prepared = prepare(data, base, config.max_length, split_long=split_long)
    for ids, fate in ((prepared.encoded.too_long, "left out"), (prepared.encoded.split, "split at a step")):
        if ids:
            progress.message(f"{len(ids)} rows are longer than {config.max_length} tokens and {fate}")
    rows, looked_at = split_off(prepared, validation, config.seed)
    begun = False

    def tick(now: Tick) -> None:
        nonlocal begun
        if not begun:
            progress.begin(stage, now.total)
            begun = True
        progress.update(now.step, f"loss {now.loss:.3f}, {now.tokens_per_second:.0f} tokens/s")

    try:
        result = fit(
            rows,
            config,
            out,
            base,
            validation=looked_at,
            prompts=prepared.prompts,
            provenance={"student": student, "validation": validation, **_origin(data)},
            progress=tick,
        )
    finally:
        if begun:
            progress.end()
    if not is_main_process():
        return result
    if not (out / CHECKPOINT_GGUF).exists():
        try:
            export_gguf(out, out / CHECKPOINT_GGUF, "q8_0")
        except ExportError as error:
            progress.message(f"no GGUF beside the checkpoint, transformers will serve it: {error}")
    write_training_report(out)
    return result


def _origin(data: Path) -> dict[str, Any]:
    """What data.json says of the rows, without the prompts: those are in prompts.yaml."""
    record = json.loads((data / "data.json").read_text(encoding="utf-8"))
    return {"data": {name: value for name, value in record.items() if name != "prompts"}}
