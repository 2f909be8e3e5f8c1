"""REDI: learning from a wrong attempt beside a right one ("Harnessing Negative Signals", stage 2;
RECIPES.md).

    L = -log pi(y+|x) / |y+|  +  alpha * log pi(y-|x) / |y-|       alpha = 0.8, lr 1e-6, one epoch

y+ and y- are the assistant tokens of a right and of a wrong trajectory of one task x; their observations
are read, never scored. There is no reference model: begin from a student that was trained on right ones
(stage 1), and at low rates, since nothing keeps the second term from growing without end. The loss of an
optimizer step is the mean over its pairs, and can be below 0.

Rows come as pairs with ids `NAME+` and `NAME-` (`pair_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentdistill.errors import TrainingError
from agentdistill.training.objectives import Objective
from agentdistill.training.packing import collate, row_losses
from agentdistill.training.rows import Row
from agentdistill.training.settings import SftConfig
from agentdistill.training.trainer import AgentTrainer


class RediTrainer(AgentTrainer):
    """The loss above, on batches whose rows alternate right, wrong."""

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._alpha = alpha

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses = row_losses(model, inputs)
        total = (losses[0::2] - self._alpha * losses[1::2]).sum()
        trained = int((inputs["labels"] != -100).sum())
        return self.scaled(total, trained, inputs, self._pairs_a_step())

    def _pairs_a_step(self) -> int:
        """Pairs of this optimizer step, all processes together (the last of an epoch may be smaller)."""
        passes = self.current_gradient_accumulation_steps * self.accelerator.num_processes
        return int(passes * self.args.per_device_train_batch_size)


def examples(rows: Sequence[Row], tokenizer: Any, config: SftConfig) -> list[dict[str, Any]]:
    right, wrong = rows[0::2], rows[1::2]
    for first, second in zip(right, wrong, strict=False):
        if first.id[:-1] != second.id[:-1] or (first.id[-1:], second.id[-1:]) != ("+", "-"):
            raise TrainingError(f"training rows {first.id} and {second.id} are no pair of right and wrong")
    if len(rows) % 2:
        raise TrainingError(f"training row {rows[-1].id} has no partner")
    return [
        {
            "input_ids": list(first.input_ids),
            "labels": list(first.labels),
            "wrong": {"input_ids": list(second.input_ids), "labels": list(second.labels)},
        }
        for first, second in zip(right, wrong, strict=True)
    ]


def collate_pairs(some: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return collate([row for example in some for row in (example, example["wrong"])])


def settings(config: SftConfig, tokenizer: Any) -> dict[str, Any]:
    return {"alpha": config.redi_alpha}


OBJECTIVE = Objective(examples, collate_pairs, RediTrainer, settings)
