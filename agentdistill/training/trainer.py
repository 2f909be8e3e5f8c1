"""The one trainer every objective runs on: TRL's SFTTrainer with what a CPU and a resume need.

What differs from stock: rows are packed without attention between them and logits are computed only where
labels are (packing.py), NaN stops the run before anything is saved, checkpoints come every few minutes and
carry a mark when they are whole, validation loss is the mean over tokens, no telemetry, no model cards.

Imports torch and trl: import it inside functions.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import TrainerCallback
from trl import SFTTrainer

from agentdistill.errors import TrainingError
from agentdistill.training.packing import collate, token_losses
from agentdistill.training.rows import Row

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
    training began, resumes included. `validation` is the loss of the validation rows where it was taken."""

    step: int
    loss: float
    tokens: int
    trained: int
    seconds: float
    learning_rate: float = 0.0
    validation: float | None = None


class AgentTrainer(SFTTrainer):
    """SFTTrainer on rows that are already ids and labels. The objective is plain SFT."""

    control: Any
    loss_is_scaled_for_ga = True
    tokens_seen = 0
    trained_seen = 0

    def __init__(self, *args: Any, validation: Sequence[Row] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # PEFT hides it: have num_items_in_batch counted
        self._validation = validation

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses, _ = token_losses(model, inputs)
        return self.scaled(losses.sum(), losses.numel(), inputs, num_items_in_batch)

    def scaled(self, total: Any, trained: int, inputs: Any, items: Any) -> Any:
        """A sum of losses as this batch's part of the optimizer step's mean over `items`. Counts, checks.

        `items` are those of all processes (`average_tokens_across_devices`), which DDP then averages.
        """
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is {total.item()} at step {self.state.global_step + 1}",
                "lower the learning rate; the last good checkpoint is kept",
            )
        self.tokens_seen += inputs["tokens"]
        self.trained_seen += trained
        return total / items * self.accelerator.num_processes

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Mean loss over the trained tokens of the validation rows, as plain SFT sees them."""
        self.model.eval()
        processes = self.accelerator.num_processes
        sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        with torch.no_grad():
            for first in range(0, len(self._validation), processes):
                mine = first + self.accelerator.process_index
                # Weights that are cut up are put together by all: who has no row left reads one for nothing.
                counts = mine < len(self._validation)
                row = self._validation[mine if counts else first]
                batch = self._prepare_inputs(collate([{"input_ids": row.input_ids, "labels": row.labels}]))
                losses, _ = token_losses(self.model, batch)
                sums += counts * torch.stack([losses.double().sum(), losses.new_tensor(len(losses)).double()])
        total, trained = self.accelerator.reduce(sums, reduction="sum").tolist()
        metrics = {"eval_loss": total / trained}
        self.model.train()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_now(self) -> None:
        """Save a checkpoint of the last finished step, as Trainer does at its own steps."""
        if (Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}" / WHOLE).is_file():
            return
        self._save_checkpoint(self.model, trial=None)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with saving(Path(self.args.output_dir).parent):
            # Trainer looks in every process whether this folder is there, to know the best checkpoint by, and
            # one process makes it: who looks too early would not take part in loading it.
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes its own part; then it is whole

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
        due = time.monotonic() - self._saved >= self._checkpoint_seconds
        if self._in_any_process(due) and state.global_step < state.max_steps:
            control.should_save = True
        if args.eval_strategy != "no" and state.global_step == state.max_steps:
            control.should_evaluate = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not logs or self._trainer is None:
            return
        if "eval_loss" in logs and self.history:
            self.history[-1] = replace(self.history[-1], validation=logs["eval_loss"])
        if "loss" not in logs:
            return
        if not np.isfinite(logs.get("grad_norm", 0.0)):
            raise TrainingError(
                f"the gradient is {logs['grad_norm']} at step {state.global_step}",
                "lower the learning rate; the last good checkpoint is kept",
            )
        seconds = time.monotonic() - self._began
        seen = torch.tensor([self._trainer.tokens_seen, self._trainer.trained_seen], device=args.device)
        tokens, trained = self._trainer.accelerator.reduce(seen, reduction="sum").tolist()
        point = LossPoint(
            state.global_step,
            logs["loss"],
            self._before.tokens + tokens,
            self._before.trained + trained,
            self._before.seconds + seconds,
            logs.get("learning_rate", 0.0),
        )
        self.history.append(point)
        if self._report is not None:
            speed = tokens / seconds if seconds > 0 else 0.0
            self._report(Progress(point.step, state.max_steps, point.loss, speed, point.seconds))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._saved = time.monotonic()
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        (folder / HISTORY).write_text(json.dumps([astuple(point) for point in self.history]))
        (folder / WHOLE).touch()

    def _in_any_process(self, due: bool) -> bool:
        """Clocks differ: all processes save when one of them wants to."""
        if self._trainer is None or self._trainer.accelerator.num_processes == 1:
            return due
        if due:
            self._trainer.accelerator.set_trigger()
        return bool(self._trainer.accelerator.check_trigger())

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


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / WHOLE).is_file()]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def remove_torn(folder: Path) -> None:
    """Remove the checkpoints whose writing was killed."""
    for path in folder.glob("checkpoint-*"):
        if not (path / WHOLE).is_file():
            shutil.rmtree(path, ignore_errors=True)


def checkpoint_history(checkpoint: Path | None) -> list[LossPoint]:
    if checkpoint is None:
        return []
    return [LossPoint(*point) for point in json.loads((checkpoint / HISTORY).read_text())]
