"""What `train --objective` chooses from: how rows become examples, and which trainer turns them into a loss.

Each objective is one file with one `Objective` in it; they share rows, packing, resuming and reports
(trainer.py). Imports of torch and trl stay inside the trainers' modules: import this package inside
functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agentdistill.training.rows import Row
from agentdistill.training.settings import SftConfig


@dataclass(frozen=True, slots=True)
class Objective:
    """`examples(rows, tokenizer, config)` are what the data set holds, `collate` makes one forward pass of
    some, `trainer(config, tokenizer)` is the AgentTrainer to build and the arguments only it takes."""

    examples: Callable[[Sequence[Row], Any, SftConfig], list[dict[str, Any]]]
    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]
    trainer: type
    settings: Callable[[SftConfig, Any], dict[str, Any]]


def objective(name: str) -> Objective:
    """The objective of that name (settings.Objective)."""
    from agentdistill.training.objectives import masked_thought, redi, sft

    table = {"sft": sft.OBJECTIVE, "masked-thought": masked_thought.OBJECTIVE, "redi": redi.OBJECTIVE}
    return table[name]
