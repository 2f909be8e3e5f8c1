"""What shapes a student: the settings of `train`, and presets of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentdistill.errors import ConfigError

Objective = Literal["sft", "masked-thought", "redi"]
Method = Literal["lora", "qlora", "full"]


@dataclass(frozen=True, slots=True)
class SftConfig:
    """What shapes a student, and (FREE) what only decides how it is computed.

    `batch_size` is rows an optimizer step over all processes, `micro_batch` rows a forward pass;
    `max_length` is what `encode_rows` was told; `target_modules` is PEFT's. With validation rows training
    stops after `patience` evaluations (`EVALUATIONS` an epoch) without a better loss, and keeps the best.
    `mask_rate` is Masked Thought's p_max (0.4 for GSM8K, 0.2 for MATH in the paper), `redi_alpha` the
    weight of REDI's second term."""

    objective: Objective = "sft"
    method: Method = "lora"
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
    patience: int = 3
    mask_rate: float = 0.4
    redi_alpha: float = 0.8
    micro_batch: int = 1
    threads: int = 1
    checkpoint_minutes: float = 2.0
    report_to: Literal["none", "tensorboard", "trackio"] = "none"

    def __post_init__(self) -> None:
        for name in (
            "lora_r",
            "lora_alpha",
            "batch_size",
            "micro_batch",
            "max_length",
            "patience",
            "threads",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch_size % self.micro_batch:
            raise ConfigError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}"
            )
        if not self.learning_rate > 0 or not self.epochs > 0:
            raise ConfigError("learning_rate and epochs must be above 0")
        if not 0 <= self.mask_rate <= 1 or not 0 <= self.redi_alpha <= 1:
            raise ConfigError("mask_rate and redi_alpha must lie in 0..1")


PRESETS = {
    # METHOD 1.4; it names neither warm-up nor schedule.
    "paper": SftConfig(),
    # A 135M student on a hundred short rows, minutes on a CPU. After 64 rows of GSM8K the held-out loss was
    # 0.435 (1e-3, batch 4), 0.450 (2e-3, 4), 0.433 (1e-3, 2), 0.432 (5e-4, 2): the fewest steps of a tie.
    "quick": SftConfig(
        lora_dropout=0.0,
        learning_rate=1e-3,
        epochs=2.0,
        batch_size=4,
        max_length=1024,
        warmup_ratio=0.1,
        micro_batch=2,
    ),
}

REDI_LEARNING_RATE, REDI_EPOCHS = 1e-6, 1.0
"""REDI's own (RECIPES): higher rates destroy what stage 1 learned, for nothing holds the second term back."""

FREE = frozenset({"micro_batch", "threads", "checkpoint_minutes", "report_to"})
"""Settings that may change between a call and the call that resumes it."""

EVALUATIONS = 4
"""Evaluations of the validation rows an epoch."""
