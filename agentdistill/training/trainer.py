"""The one trainer every objective runs on: TRL's SFTTrainer with what a CPU and a resume need.

What differs from stock: logits only where labels are (stock scores every position on a CPU and
computes entropies), NaN stops the run before anything is saved, checkpoints come every few minutes
and carry a mark when they are whole, no telemetry, no model cards.

Imports torch and trl: import it inside functions.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import TrainerCallback
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from agentdistill.errors import TrainingError
from agentdistill.training.rows import IGNORED

HISTORY = "history.json"

WHOLE = "whole"
"""An empty file in a checkpoint folder that was written to its end."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Sent after every optimizer step. `loss` is the mean over the step's trained tokens."""

    step: int
    total: int
    loss: float
    tokens_per_second: float
    seconds: float


@dataclass(frozen=True, slots=True)
class LossPoint:
    """One optimizer step. `tokens` (all), `trained` (those with loss) and `seconds` are sums since
    training began, resumes included; padding counts nowhere."""

    step: int
    loss: float
    tokens: int
    trained: int
    seconds: float


class AgentTrainer(SFTTrainer):
    """SFTTrainer on rows that are already ids and labels."""

    control: Any
    tokens_seen = 0
    trained_seen = 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"][:, 1:]
        mask = labels != IGNORED
        causal = self.accelerator.unwrap_model(model)
        causal = causal.get_base_model() if hasattr(causal, "get_base_model") else causal
        hidden = causal.base_model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).last_hidden_state
        logits = causal.get_output_embeddings()(hidden[:, :-1][mask])
        loss = torch.nn.functional.cross_entropy(logits.float(), labels[mask], reduction="sum")
        loss = loss / (mask.sum() if num_items_in_batch is None else num_items_in_batch)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}",
                "lower the learning rate; the last good checkpoint is kept",
            )
        self.tokens_seen += int(inputs["attention_mask"].sum())
        self.trained_seen += int(mask.sum())
        return (loss, logits) if return_outputs else loss

    def save_now(self) -> None:
        """Save a checkpoint of the last finished step, as Trainer does at its own steps."""
        if (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / WHOLE).is_file():
            return
        self._save_checkpoint(self.model, trial=None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with saving(Path(self.args.output_dir).parent):
            super()._save_checkpoint(model, trial)

    def _send_telemetry(self) -> None:
        """Nothing of ours calls home."""

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """Written at export, once, from what is known then."""


class Journal(TrainerCallback):
    """Loss history, progress, periodic checkpoints; knows when the weights are between two steps."""

    def __init__(self, checkpoint_seconds: float, report: Callable[[Progress], None] | None) -> None:
        self.history: list[LossPoint] = []
        self.between_steps = False
        self._report = report
        self._checkpoint_seconds = checkpoint_seconds
        self._trainer: AgentTrainer | None = None
        self._random: Any = None
        self._began = self._saved = time.monotonic()
        self._before = LossPoint(0, 0.0, 0, 0, 0.0)

    def attach(self, trainer: AgentTrainer, history: list[LossPoint]) -> None:
        self._trainer = trainer
        self.history = list(history)
        if history:
            self._before = history[-1]

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self._began = self._saved = time.monotonic()
        self._random = _random_state()
        self.between_steps = True

    def on_pre_optimizer_step(self, *_args: Any, **_kwargs: Any) -> None:
        self.between_steps = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._random = _random_state()
        self.between_steps = True
        if time.monotonic() - self._saved >= self._checkpoint_seconds and state.global_step < state.max_steps:
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs or self._trainer is None:
            return
        if not np.isfinite(logs.get("grad_norm", 0.0)):
            raise TrainingError(
                f"the gradient is {logs['grad_norm']} at step {state.global_step}",
                "lower the learning rate; the last good checkpoint is kept",
            )
        seconds = time.monotonic() - self._began
        tokens = self._trainer.tokens_seen
        point = LossPoint(
            state.global_step,
            logs["loss"],
            self._before.tokens + tokens,
            self._before.trained + self._trainer.trained_seen,
            self._before.seconds + seconds,
        )
        self.history.append(point)
        if self._report is not None:
            speed = tokens / seconds if seconds > 0 else 0.0
            self._report(Progress(point.step, state.max_steps, point.loss, speed, point.seconds))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved = time.monotonic()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / HISTORY).write_text(json.dumps([astuple(point) for point in self.history]))
        (folder / WHOLE).touch()

    def restore_random_state(self) -> None:
        """Back to the end of the last step, so that a half step leaves no trace in a checkpoint."""
        if self._random is not None:
            python, numpy, cpu = self._random
            random.setstate(python)
            np.random.set_state(numpy)
            torch.random.set_rng_state(cpu)


@contextmanager
def saving(checkpoint: Path) -> Iterator[None]:
    """Errors of writing as TrainingError: on a full disk torch says only "iostream error"."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(checkpoint).free // 2**20
        raise TrainingError(
            f"cannot write the checkpoint {checkpoint} ({error}); {free} MB are free there",
            "make space and give the same command again",
        ) from error


def _random_state() -> Any:
    return random.getstate(), np.random.get_state(), torch.random.get_rng_state()


def collator(pad_token_id: int) -> Any:
    """TRL's own: pads ids with `pad_token_id`, labels with -100, and changes nothing else."""
    return DataCollatorForLanguageModeling(pad_token_id=pad_token_id)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; torn ones (killed while saving) are removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / WHOLE).is_file():
            whole.append(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def checkpoint_history(checkpoint: Path | None) -> list[LossPoint]:
    if checkpoint is None:
        return []
    return [LossPoint(*point) for point in json.loads((checkpoint / HISTORY).read_text())]
