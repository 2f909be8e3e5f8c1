"""Training rows in, CHECKPOINT out, exported to GGUF for serving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentdistill import catalog
from agentdistill.errors import ExportError, TrainingError, UnknownModelError
from agentdistill.models.spec import CHECKPOINT_GGUF
from agentdistill.stages.curate import read_data
from agentdistill.stages.progress import Progress, Silent
from agentdistill.training.rows import Encoded, encode_rows
from agentdistill.training.sft import SftConfig, TrainResult, load_student_tokenizer
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
    return Prepared(encoded, tokenizer, prompts, {row["id"]: row["run"] for row in rows})


def train(
    data: Path,
    out: Path,
    student: str,
    config: SftConfig,
    *,
    split_long: bool = False,
    progress: Progress | None = None,
    stage: str = "train",
) -> TrainResult:
    """Train `student` on DATA into the checkpoint `out`, with a GGUF export beside it. Resumes by itself.

    Raises TrainingError, RunMismatchError when `out` was trained otherwise, UnknownModelError.
    """
    from agentdistill.training.export import export_gguf

    progress = progress or Silent()
    base = student_base(student)
    prepared = prepare(data, base, config.max_length, split_long=split_long)
    for ids, fate in ((prepared.encoded.too_long, "left out"), (prepared.encoded.split, "split at a step")):
        if ids:
            progress.message(f"{len(ids)} rows are longer than {config.max_length} tokens and {fate}")
    begun = False

    def tick(now: Tick) -> None:
        nonlocal begun
        if not begun:
            progress.begin(stage, now.total)
            begun = True
        progress.update(now.step, f"loss {now.loss:.3f}, {now.tokens_per_second:.0f} tokens/s")

    try:
        result = fit(prepared.encoded.rows, config, out, base, prompts=prepared.prompts, progress=tick)
    finally:
        if begun:
            progress.end()
    if not (out / CHECKPOINT_GGUF).exists():
        try:
            export_gguf(out, out / CHECKPOINT_GGUF, "q8_0")
        except ExportError as error:
            progress.message(f"no GGUF beside the checkpoint, transformers will serve it: {error}")
    return result
