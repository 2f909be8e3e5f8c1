"""Supervised fine-tuning: the mean cross-entropy of all trained tokens of an optimizer step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentdistill.training.objectives import Objective
from agentdistill.training.packing import collate
from agentdistill.training.rows import Row
from agentdistill.training.settings import SftConfig
from agentdistill.training.trainer import AgentTrainer


def examples(rows: Sequence[Row], tokenizer: Any, config: SftConfig) -> list[dict[str, Any]]:
    return [{"input_ids": list(row.input_ids), "labels": list(row.labels)} for row in rows]


def settings(config: SftConfig, tokenizer: Any) -> dict[str, Any]:
    return {}


OBJECTIVE = Objective(examples, collate, AgentTrainer, settings)
