"""A checkpoint on disk: training.json, and the files of a finished model.

Guaranteed: a folder with training.json is finished; the files of a model appear whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentdistill.errors import TrainingError
from agentdistill.runs import write_atomic

if TYPE_CHECKING:
    from agentdistill.training.trainer import LossPoint

RECORD = "training.json"

PROMPTS = "prompts.yaml"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A finished checkpoint. Times and tokens include the parts before a resume; the peak memory is
    that of the whole process, whatever else it did before."""

    checkpoint: Path
    steps: int
    history: tuple[LossPoint, ...]
    trained_tokens: int
    total_tokens: int
    seconds: float
    peak_memory_mb: float


def read_result(checkpoint: Path) -> TrainResult:
    """The result of a finished training; raises TrainingError for anything else."""
    from agentdistill.training.trainer import LossPoint

    record = read_record(checkpoint)
    return TrainResult(
        checkpoint,
        record["steps"],
        tuple(LossPoint(*point) for point in record["history"]),
        record["trained_tokens"],
        record["total_tokens"],
        record["seconds"],
        record["peak_memory_mb"],
    )


def read_record(checkpoint: Path) -> dict[str, Any]:
    """training.json of a finished checkpoint as it is; raises TrainingError."""
    path = checkpoint / RECORD
    try:
        record = json.loads(path.read_text())
        return dict(record)
    except FileNotFoundError as error:
        raise TrainingError(f"{checkpoint} is no finished checkpoint: it has no {RECORD}") from error
    except (OSError, ValueError, TypeError) as error:
        raise TrainingError(f"cannot read {path}: {error}") from error


def save_model(model: Any, tokenizer: Any, out: Path, fresh: Path, prompts: str, weights: Any = None) -> None:
    """Model, tokenizer and prompts into `out`, together with what the caller put into the folder `fresh`,
    by way of which they go. `weights` by name, if they are not the model's own. Raises OSError."""
    model.config.use_cache = True
    model.generation_config.do_sample = False
    model.save_pretrained(fresh, state_dict=weights)
    tokenizer.save_pretrained(fresh)
    if prompts:
        write_atomic(fresh / PROMPTS, prompts)
    for path in fresh.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in sorted(fresh.iterdir()):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
