"""Fine-tuning a student on encoded rows: LoRA or full, resumable, with TRL and PEFT.

    CHECKPOINT/   config.json, model.safetensors, tokenizer files with the student's chat template
                  adapter/        the LoRA adapter (method "lora")
                  prompts.yaml    the prompts the student was trained under, as the caller gave them
                  training.json   settings, loss history, hashes, versions, costs. Written last
                  .state/         only while unfinished: Trainer checkpoints

Guaranteed: a folder with training.json is finished, one without is not. The same call goes on where
a killed or interrupted one stopped; with another setting, other rows or another base it is refused by
name. Loss falls on exactly the labels of the rows: nothing is cut, added or relabelled. A NaN ends
the run before it is saved.

Not guaranteed: bit-equal weights on another machine or thread count. Resuming reads the optimizer
state that this program wrote with torch's loader: only resume folders that you made.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agentdistill.errors import ConfigError, RunMismatchError, TrainingError
from agentdistill.runs import write_atomic
from agentdistill.training.base import base_sha256, load_model, load_tokenizer, quiet
from agentdistill.training.rows import Row, student_chat_template

if TYPE_CHECKING:
    from agentdistill.training.trainer import LossPoint, Progress

RECORD = "training.json"


@dataclass(frozen=True, slots=True)
class SftConfig:
    """What shapes a student, and (last three fields) what only decides how it is computed.

    `batch_size` is rows an optimizer step, `micro_batch` rows a forward pass; `max_length` is what
    `encode_rows` was told; `target_modules` is PEFT's.
    """

    method: Literal["lora", "full"] = "lora"
    lora_r: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.05
    target_modules: str = "all-linear"
    learning_rate: float = 2e-4
    epochs: float = 2.0
    batch_size: int = 8
    max_length: int = 10_240
    seed: int = 0
    warmup_ratio: float = 0.05
    scheduler: str = "cosine"
    weight_decay: float = 0.0
    max_steps: int = -1
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    micro_batch: int = 1
    threads: int = 1
    checkpoint_minutes: float = 2.0

    def __post_init__(self) -> None:
        for name in ("lora_r", "lora_alpha", "batch_size", "micro_batch", "max_length", "threads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch_size % self.micro_batch:
            raise ConfigError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}"
            )
        if not self.learning_rate > 0 or not self.epochs > 0:
            raise ConfigError("learning_rate and epochs must be above 0")


PRESETS = {
    # METHOD 1.4; it names neither warm-up nor schedule.
    "paper": SftConfig(),
    # A 135M student on a hundred short rows, minutes on a CPU. After 64 rows of GSM8K the held-out loss was
    # 0.435 (1e-3, batch 4), 0.450 (2e-3, 4), 0.433 (1e-3, 2), 0.432 (5e-4, 2): the fewest steps of a tie.
    "quick": SftConfig(
        lora_dropout=0.0, learning_rate=1e-3, epochs=2.0, batch_size=4, max_length=1024, warmup_ratio=0.1
    ),
}

_FREE = frozenset({"micro_batch", "threads", "checkpoint_minutes"})
"""Settings that may change between a call and the call that resumes it."""


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


def train(
    rows: Sequence[Row],
    config: SftConfig,
    out: Path,
    base: Path,
    *,
    prompts: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train `base` on `rows` into the checkpoint folder `out`; returns at once if that is finished.

    `rows` come from `encode_rows` with the tokenizer of `load_student_tokenizer(base)`. Raises
    TrainingError, RunMismatchError, ConfigError; KeyboardInterrupt after saving the state.
    """
    if not rows:
        raise TrainingError("there are no training rows", "curate a run that has correct trajectories")
    request = _request(rows, config, base, prompts)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _refuse_other(out, request)
        if (out / RECORD).is_file():
            return read_result(out)
        state = out / ".state"
        state.mkdir(exist_ok=True)
        with _only_writer(state):
            write_atomic(state / "request.json", json.dumps(request, indent=1))
            with quiet():
                result = _train(rows, config, out, base, prompts, request, progress)
        shutil.rmtree(state)
        return result
    except OSError as error:
        raise TrainingError(f"cannot write the checkpoint {out}: {error.strerror or error}") from error


def load_student_tokenizer(base: Path) -> Any:
    """The tokenizer rows are encoded with and checkpoints carry: the base's, with the student template."""
    modified = base.stat().st_mtime_ns if base.exists() else 0
    return _student_tokenizer(base, modified)


@functools.lru_cache(maxsize=2)
def _student_tokenizer(base: Path, modified: int) -> Any:
    # Reading a GGUF's vocabulary takes seconds, and encoding and training both need it.
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = student_chat_template(tokenizer)
    return tokenizer


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


def rows_sha256(rows: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.id, row.input_ids, row.labels]).encode())
    return digest.hexdigest()


def _request(rows: Sequence[Row], config: SftConfig, base: Path, prompts: str) -> dict[str, Any]:
    shaping = {name: value for name, value in asdict(config).items() if name not in _FREE}
    return {
        **shaping,
        "rows_sha256": rows_sha256(rows),
        "base_sha256": base_sha256(base),
        "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
    }


def _refuse_other(out: Path, request: dict[str, Any]) -> None:
    if (out / RECORD).is_file():
        before = read_record(out).get("request", {})
    elif (out / ".state/request.json").is_file():
        before = json.loads((out / ".state/request.json").read_text())
    else:
        if any(out.iterdir()):
            raise RunMismatchError(
                f"{out} holds files that no training of ours made", "choose another folder"
            )
        return
    for name, value in request.items():
        if before.get(name) != value:
            raise RunMismatchError(
                f"{out} was trained with {name} = {before.get(name)}, now it is {value}",
                "choose another folder, or the same setting",
            )


@contextmanager
def _only_writer(state: Path) -> Iterator[None]:
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"another process is training into {state.parent}", "wait for it, or choose another folder"
            ) from error
        yield


def _train(
    rows: Sequence[Row],
    config: SftConfig,
    out: Path,
    base: Path,
    prompts: str,
    request: dict[str, Any],
    progress: Callable[[Progress], None] | None,
) -> TrainResult:
    import torch
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from transformers import PrinterCallback

    from agentdistill.training.trainer import (
        AgentTrainer,
        Journal,
        checkpoint_history,
        collator,
        last_checkpoint,
        saving,
    )

    disable_progress_bar()
    started = time.monotonic()
    gpu = torch.cuda.is_available()
    threads = torch.get_num_threads()
    if not gpu:
        torch.set_num_threads(config.threads)
    tokenizer = load_student_tokenizer(base)
    half = config.precision == "bfloat16" or (
        config.precision == "auto" and gpu and torch.cuda.is_bf16_supported()
    )
    # Full training keeps its master weights in float32; a frozen base needs none.
    frozen_half = half and gpu and config.method == "lora"
    model = load_model(base, torch.bfloat16 if frozen_half else torch.float32)
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    journal = Journal(config.checkpoint_minutes * 60, progress)
    trainer = AgentTrainer(
        model=model,
        args=_arguments(config, out / ".state", half, gpu),
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [list(row.input_ids) for row in rows],
                "labels": [list(row.labels) for row in rows],
            }
        ),
        data_collator=collator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[journal],
        peft_config=_peft_config(config),
    )
    trainer.remove_callback(PrinterCallback)
    resume = last_checkpoint(out / ".state")
    journal.attach(trainer, checkpoint_history(resume))
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except KeyboardInterrupt:
        if journal.between_steps and trainer.state.global_step > 0:
            journal.restore_random_state()
            trainer.save_now()
        raise
    finally:
        torch.set_num_threads(threads)
    last = journal.history[-1]
    result = TrainResult(
        out,
        trainer.state.global_step,
        tuple(journal.history),
        last.trained,
        last.tokens,
        last.seconds,
        _peak_memory_mb(),
    )
    with saving(out):
        _save(trainer, tokenizer, config, out, prompts)
    record = {
        **{name: value for name, value in asdict(result).items() if name not in ("checkpoint", "history")},
        "history": [astuple(point) for point in result.history],
        "rows": len(rows),
        "config": asdict(config),
        "request": request,
        "base": {"path": str(base.resolve()), "sha256": request["base_sha256"]},
        "device": torch.cuda.get_device_name(0) if gpu else "cpu",
        "wall_seconds_of_last_call": time.monotonic() - started,
        "versions": {
            name: version(name) for name in ("torch", "transformers", "trl", "peft", "agentdistill")
        },
    }
    write_atomic(out / RECORD, json.dumps(record, indent=1))
    return result


def _arguments(config: SftConfig, folder: Path, half: bool, gpu: bool) -> Any:
    from trl import SFTConfig as TrlConfig

    return TrlConfig(
        output_dir=str(folder),
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=config.batch_size // config.micro_batch,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_ratio,
        lr_scheduler_type=config.scheduler,
        weight_decay=config.weight_decay,
        max_grad_norm=1.0,
        seed=config.seed,
        bf16=half,
        use_cpu=not gpu,
        # TRL's defaults for these would cut rows at 1,024 tokens and trade speed for memory.
        max_length=None,
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="group_by_length" if config.micro_batch > 1 else "random",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=10**9,  # Journal decides, by the clock
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
        dataloader_num_workers=0,
    )


def _peft_config(config: SftConfig) -> Any:
    if config.method == "full":
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        task_type="CAUSAL_LM",
    )


def _save(trainer: Any, tokenizer: Any, config: SftConfig, out: Path, prompts: str) -> None:
    """The finished model into `out`, by way of a folder beside it: files appear whole or not at all."""
    import torch

    fresh = out / ".state/finished"
    shutil.rmtree(fresh, ignore_errors=True)
    model = trainer.model
    if config.method == "lora":
        model.save_pretrained(fresh / "adapter")
        model = model.merge_and_unload()
    model.config.use_cache = True
    model.generation_config.do_sample = False
    if model.dtype == torch.float32 and trainer.args.bf16:
        model = model.to(torch.bfloat16)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    if prompts:
        write_atomic(fresh / "prompts.yaml", prompts)
    for path in fresh.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in sorted(fresh.iterdir()):
        target = out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
