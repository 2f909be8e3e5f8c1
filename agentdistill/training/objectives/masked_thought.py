"""Masked Thought fine-tuning (Chen et al. 2024, arXiv 2403.02178), for agents: thoughts masked, code never.

Of the tokens of a thought that the student reads back while it goes on, each is replaced with probability p
by a random ordinary token; what it is to write, the labels, stays. p rises linearly from 0 to `mask_rate`
over the first two thirds of training. Code stays whole: one wrong character of it is another program, and
the observations in the history are those of this one.

Guaranteed: only ids of thoughts change, never a label, a special token or an observation. A turn without a
code block is all thought. Not guaranteed: the paper's own mask token; it reports random tokens as equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from agentdistill.errors import TrainingError
from agentdistill.training.objectives import Objective
from agentdistill.training.packing import collate, lay_out
from agentdistill.training.rows import CODE_BEGIN, CODE_END, IGNORED, Row
from agentdistill.training.settings import SftConfig
from agentdistill.training.trainer import AgentTrainer

RAMP = 2 / 3
"""The share of training over which p rises (RECIPES)."""


class MaskedThoughtTrainer(AgentTrainer):
    """SFT on inputs whose thoughts are partly noise."""

    def __init__(self, *args: Any, mask_rate: float, ordinary: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._mask_rate = mask_rate
        self._ordinary = torch.tensor(ordinary)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        done = self.state.global_step / max(1, self.state.max_steps)
        rate = self._mask_rate * min(1.0, done / RAMP)
        noisy = add_noise(inputs["input_ids"], inputs["thoughts"], rate, self._ordinary)
        return super().compute_loss(model, {**inputs, "input_ids": noisy}, return_outputs, num_items_in_batch)


def add_noise(ids: torch.Tensor, thoughts: torch.Tensor, rate: float, ordinary: torch.Tensor) -> torch.Tensor:
    """`ids` with each one where `thoughts` is true replaced with probability `rate` by one of `ordinary`."""
    # Drawn on the CPU, whose random state is what a resume restores on every device.
    drawn = ordinary[torch.randint(len(ordinary), ids.shape)].to(ids.device)
    hit = (torch.rand(ids.shape) < rate).to(ids.device) & thoughts
    return torch.where(hit, drawn, ids)


def thought_mask(row: Row, tokenizer: Any) -> list[bool]:
    """True for each token of a row that lies within a thought: trained text outside <code> and </code>, the
    tags and the end of turn not. Raises TrainingError when the text of a turn does not give its ids."""
    mask = [False] * len(row.input_ids)
    position = 0
    while position < len(mask):
        if row.labels[position] == IGNORED:
            position += 1
            continue
        end = position
        while end < len(mask) and row.labels[end] != IGNORED:
            end += 1
        ids = list(row.input_ids[position : end - 1])  # without the end of turn
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if encoded["input_ids"] != ids:
            raise TrainingError(f"training row {row.id}: a turn has no one-to-one characters and tokens")
        code = _code(text)
        for index, (start, stop) in enumerate(encoded["offset_mapping"]):
            mask[position + index] = not any(start < last and stop > first for first, last in code)
        position = end
    return mask


def _code(text: str) -> list[tuple[int, int]]:
    """Where the code blocks of a turn lie, tags included, as character ranges."""
    blocks = []
    begin = text.find(CODE_BEGIN)
    while begin >= 0:
        end = text.find(CODE_END, begin)
        end = len(text) if end < 0 else end + len(CODE_END)
        blocks.append((begin, end))
        begin = text.find(CODE_BEGIN, end)
    return blocks


def examples(rows: Sequence[Row], tokenizer: Any, config: SftConfig) -> list[dict[str, Any]]:
    return [
        {
            "input_ids": list(row.input_ids),
            "labels": list(row.labels),
            "thoughts": thought_mask(row, tokenizer),
        }
        for row in rows
    ]


def collate_thoughts(some: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`collate`, and where the thoughts are: bool of shape (1, tokens)."""
    batch = collate(some)
    return batch | {"thoughts": lay_out(some, "thoughts", batch["shared"])}


def settings(config: SftConfig, tokenizer: Any) -> dict[str, Any]:
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    ordinary = [token for token in range(len(tokenizer)) if token not in special]
    return {"mask_rate": config.mask_rate, "ordinary": ordinary}


OBJECTIVE = Objective(examples, collate_thoughts, MaskedThoughtTrainer, settings)
