"""Fine-tuning a student on encoded rows: LoRA, QLoRA or full, resumable, with TRL and PEFT.

    CHECKPOINT/   config.json, model.safetensors, tokenizer files with the student's chat template
                  adapter/        the LoRA adapter (methods "lora" and "qlora")
                  prompts.yaml    the prompts the student was trained under, as the caller gave them
                  training.json   settings, loss history, hashes, versions, costs. Written last
                  .state/         only while unfinished: Trainer checkpoints

Guaranteed: a folder with training.json is finished, one without is not. The same call goes on where
a killed or interrupted one stopped; with another setting, other rows or another base it is refused by
name. Loss falls on exactly the labels of the rows: nothing is cut, added or relabelled. A NaN ends
the run before it is saved. Under `accelerate launch` the processes share each optimizer step's rows.

Not guaranteed: bit-equal weights on another machine, thread count or number of processes. Resuming reads the
optimizer state that this program wrote with torch's loader: only resume folders that you made. QLoRA has not
been run by our tests: it needs a GPU.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentdistill.errors import ConfigError, RunMismatchError, TrainingError
from agentdistill.runs import write_atomic
from agentdistill.training.base import base_sha256, load_model, load_tokenizer, quiet
from agentdistill.training.checkpoint import RECORD, TrainResult, read_record, read_result, save_model
from agentdistill.training.rows import Row, student_chat_template
from agentdistill.training.settings import EVALUATIONS, FREE, PRESETS, SftConfig
from agentdistill.types import Json

if TYPE_CHECKING:
    from agentdistill.training.trainer import Progress

__all__ = ["PRESETS", "RECORD", "SftConfig", "TrainResult", "load_student_tokenizer", "read_record", "train"]


def train(
    rows: Sequence[Row],
    config: SftConfig,
    out: Path,
    base: Path,
    *,
    validation: Sequence[Row] = (),
    prompts: str = "",
    provenance: Mapping[str, Json] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainResult:
    """Train `base` on `rows` into the checkpoint folder `out`; returns at once if that is finished.

    `rows` come from `encode_rows` with the tokenizer of `load_student_tokenizer(base)`; for REDI they are
    pairs (objectives/redi.py). With `validation` rows training stops early and the best weights are kept.
    `provenance` is written into training.json as it is. Raises TrainingError, RunMismatchError,
    ConfigError; KeyboardInterrupt after saving the state."""
    if not rows:
        raise TrainingError("there are no training rows", "curate a run that has correct trajectories")
    _refuse_what_cannot_run(config, base)
    request = _request(rows, validation, config, base, prompts)
    job = _Job(rows, validation, config, out, base, prompts, request, dict(provenance or {}), progress)
    if not is_main_process():
        if (out / RECORD).is_file():
            return read_result(out)
        with quiet():
            return _train(job)
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
                result = _train(job)
        shutil.rmtree(state)
        return result
    except OSError as error:
        raise TrainingError(f"cannot write the checkpoint {out}: {error.strerror or error}") from error


def is_main_process() -> bool:
    """False in all but the first of the processes that `accelerate launch` (or torchrun) started."""
    return int(os.environ.get("RANK", "0")) == 0


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


def rows_sha256(rows: Sequence[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.id, row.input_ids, row.labels]).encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Job:
    """One call of `train`."""

    rows: Sequence[Row]
    validation: Sequence[Row]
    config: SftConfig
    out: Path
    base: Path
    prompts: str
    request: dict[str, Any]
    provenance: dict[str, Json]
    progress: Callable[[Progress], None] | None


def _refuse_what_cannot_run(config: SftConfig, base: Path) -> None:
    import torch

    if config.report_to != "none" and importlib.util.find_spec(config.report_to) is None:
        raise ConfigError(
            f"report_to {config.report_to}: the package is not installed", f"pip install {config.report_to}"
        )
    if config.method == "qlora":
        if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(
                "method qlora needs a CUDA GPU and the package bitsandbytes", "use lora, or full"
            )
        if base.is_file():
            raise ConfigError("method qlora quantises a model folder, not a GGUF file", "give hf:DIR")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if config.batch_size % (config.micro_batch * processes):
        raise ConfigError(
            f"batch_size {config.batch_size} is not a multiple of micro_batch {config.micro_batch} times "
            f"{processes} processes"
        )


def _request(
    rows: Sequence[Row], validation: Sequence[Row], config: SftConfig, base: Path, prompts: str
) -> dict[str, Any]:
    shaping = {name: value for name, value in asdict(config).items() if name not in FREE}
    return {
        **shaping,
        "rows_sha256": rows_sha256(rows),
        "validation_sha256": rows_sha256(validation),
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


def _train(job: _Job) -> TrainResult:
    import torch
    from datasets.utils.logging import disable_progress_bar

    from agentdistill.training.sharded import gathered
    from agentdistill.training.trainer import (
        Journal,
        checkpoint_history,
        last_checkpoint,
        remove_torn,
        saving,
    )

    disable_progress_bar()
    started = time.monotonic()
    config, state = job.config, job.out / ".state"
    gpu = torch.cuda.is_available()
    threads = torch.get_num_threads()
    if not gpu:
        torch.set_num_threads(config.threads)
    tokenizer = load_student_tokenizer(job.base)
    journal = Journal(config.checkpoint_minutes * 60, job.progress if is_main_process() else None)
    trainer = _trainer(job, tokenizer, journal, gpu)
    if is_main_process():
        remove_torn(state)
    trainer.accelerator.wait_for_everyone()
    resume = last_checkpoint(state)
    journal.attach(trainer, checkpoint_history(resume))
    try:
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    except KeyboardInterrupt:
        alone = trainer.accelerator.num_processes == 1  # others may be anywhere in their step
        if alone and journal.between_steps and trainer.state.global_step > 0:
            journal.restore_random_state()
            trainer.save_now()
        raise
    finally:
        torch.set_num_threads(threads)
    last = journal.history[-1]
    result = TrainResult(
        job.out,
        last.step,
        tuple(journal.history),
        last.trained,
        last.tokens,
        last.seconds,
        _peak_memory_mb(),
    )
    weights = gathered(trainer)
    if is_main_process():
        with saving(job.out):
            _save(trainer, tokenizer, config, job.out, job.base, job.prompts, weights)
        best = trainer.state.best_global_step if job.validation else None
        device = torch.cuda.get_device_name(0) if gpu else "cpu"
        record = _record(job, result, best, device, time.monotonic() - started)
        write_atomic(job.out / RECORD, json.dumps(record, indent=1))
    if trainer.accelerator.num_processes > 1:
        trainer.accelerator.end_training()
    return result


def _trainer(job: _Job, tokenizer: Any, journal: Any, gpu: bool) -> Any:
    import torch
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, PrinterCallback

    from agentdistill.training.objectives import objective
    from agentdistill.training.packing import WITHIN_ROWS

    config = job.config
    half = config.precision == "bfloat16" or (
        config.precision == "auto" and gpu and torch.cuda.is_bf16_supported()
    )
    # Full training keeps its master weights in float32; a frozen base needs none.
    frozen_half = half and gpu and config.method != "full"
    dtype = torch.bfloat16 if frozen_half else torch.float32
    model = load_model(job.base, dtype, four_bit=config.method == "qlora")
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    model.set_attn_implementation(WITHIN_ROWS)
    chosen = objective(config.objective)
    examples = chosen.examples(job.rows, tokenizer, config)
    trainer = chosen.trainer(
        model=model,
        args=_arguments(job, len(examples), half, gpu),
        train_dataset=Dataset.from_list(examples),
        eval_dataset=Dataset.from_list(examples[:1]) if job.validation else None,  # asked for, never read
        validation=job.validation,
        data_collator=chosen.collate,
        processing_class=tokenizer,
        callbacks=[journal, EarlyStoppingCallback(config.patience)] if job.validation else [journal],
        peft_config=_peft_config(config),
        **chosen.settings(config, tokenizer),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _record(job: _Job, result: TrainResult, best: int | None, device: str, wall: float) -> dict[str, Any]:
    return {
        **{name: value for name, value in asdict(result).items() if name not in ("checkpoint", "history")},
        "history": [astuple(point) for point in result.history],
        "best_step": best,
        "rows": len(job.rows),
        "validation_rows": len(job.validation),
        "config": asdict(job.config),
        "request": job.request,
        "base": {"path": str(job.base.resolve()), "sha256": job.request["base_sha256"]},
        "provenance": job.provenance,
        "device": device,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "wall_seconds_of_last_call": wall,
        "versions": {
            name: version(name) for name in ("torch", "transformers", "trl", "peft", "agentdistill")
        },
    }


def _arguments(job: _Job, examples: int, half: bool, gpu: bool) -> Any:
    from trl import SFTConfig as TrlConfig

    config = job.config
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    steps_an_epoch = max(1, examples // config.batch_size)
    if config.report_to == "tensorboard":
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(job.out / "tensorboard"))
    watched: dict[str, Any] = {"save_strategy": "steps", "save_steps": 10**9}  # Journal decides, by the clock
    if job.validation:
        watched = {
            "eval_strategy": "steps",
            "eval_steps": max(1, steps_an_epoch // EVALUATIONS),
            "save_strategy": "best",  # and Journal's
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "restore_callback_states_from_checkpoint": True,
        }
    return TrlConfig(
        output_dir=str(job.out / ".state"),
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=config.batch_size // (config.micro_batch * processes),
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
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_total_limit=2,
        report_to=config.report_to,
        project="agentdistill",
        run_name=job.out.name,
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
        dataloader_num_workers=0,
        **watched,
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


def _save(
    trainer: Any, tokenizer: Any, config: SftConfig, out: Path, base: Path, prompts: str, weights: Any
) -> None:
    """`weights` are those of `gathered`."""
    import torch

    fresh = out / ".state/finished"
    shutil.rmtree(fresh, ignore_errors=True)
    model = trainer.model
    if config.method != "full":
        model.save_pretrained(fresh / "adapter", state_dict=weights)
    if config.method == "lora" and weights is None:
        model = model.merge_and_unload()
    elif config.method != "full":
        from peft import PeftModel

        # Four-bit weights cannot take the adapter in without loss, parts of weights not at all: the base is
        # read once more.
        dtype = torch.bfloat16 if config.method == "qlora" else model.dtype
        model = PeftModel.from_pretrained(load_model(base, dtype), fresh / "adapter").merge_and_unload()
        weights = None
    if model.dtype == torch.float32 and trainer.args.bf16:
        model = model.to(torch.bfloat16) if weights is None else model
        weights = weights and {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    save_model(model, tokenizer, out, fresh, prompts, weights)


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
