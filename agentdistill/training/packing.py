"""Rows end to end in one sequence, without padding, and attention that stays inside each of them.

    shared | rest of row 1 | rest of row 2 | ...

What all rows of a pass begin with (the system prompt; of a right and a wrong attempt at one task the whole
question) is computed once and read by each.

Guaranteed: a row's loss packed is its loss alone (tested within 1e-4 for every row): queries of a row are
multiplied with keys of that row only, so nothing can leak through a mask, and positions go on in every row
where the shared part ends. No token is padding, no label lies in the shared part.

Not guaranteed: models whose attention does not go through transformers' AttentionInterface, or whose layers
carry a state from token to token in another way (Mamba and its kin). With dropout the rows share its draw
over the shared part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv

from agentdistill.training.rows import IGNORED

WITHIN_ROWS = "within_rows"
"""Name of the attention for `model.set_attn_implementation`."""


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows (`input_ids`, `labels`) as one sequence.

    `input_ids`, `labels` and `position_ids` have shape (1, tokens computed); `shared` and `row_lengths` say
    how it is divided, `tokens` is the sum of the rows' lengths.
    """
    shared = shared_length(examples)
    lengths = [len(example["input_ids"]) - shared for example in examples]
    return {
        "input_ids": lay_out(examples, "input_ids", shared),
        "labels": lay_out(examples, "labels", shared),
        "position_ids": torch.cat(
            [torch.arange(shared)] + [torch.arange(shared, shared + length) for length in lengths]
        )[None],
        "shared": shared,
        "row_lengths": lengths,
        "tokens": sum(lengths) + shared * len(lengths),
    }


def shared_length(examples: Sequence[dict[str, Any]]) -> int:
    """How many ids all rows begin with. Less where it must be: each rest begins with a token that no loss
    falls on, because the token that predicts it is not its own. 0 for one row."""
    if len(examples) < 2:
        return 0
    shared = min(_untrained(example["labels"]) for example in examples) - 1
    for position, ids in enumerate(zip(*(example["input_ids"] for example in examples), strict=False)):
        if position >= shared or len(set(ids)) > 1:
            return max(0, position)
    return max(0, shared)


def _untrained(labels: Sequence[int]) -> int:
    return next((index for index, label in enumerate(labels) if label != IGNORED), len(labels))


def lay_out(examples: Sequence[dict[str, Any]], column: str, shared: int) -> torch.Tensor:
    """One column of the rows in the order above, shape (1, tokens computed)."""
    values = list(examples[0][column][:shared])
    for example in examples:
        values += example[column][shared:]
    return torch.tensor([values])


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared: int,
    row_lengths: Sequence[int],
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention row by row. `query` is (1, heads, tokens, head size), `key` and `value` may have fewer
    heads; the result is (1, tokens, heads, head size)."""
    groups = query.shape[1] // key.shape[1]
    parts = [shared, *row_lengths]
    queries = torch.split(query, parts, dim=2)
    keys = torch.split(repeat_kv(key, groups), parts, dim=2)
    values = torch.split(repeat_kv(value, groups), parts, dim=2)
    seen: list[torch.Tensor] = []
    for rest in zip(queries[1:], keys[1:], values[1:], strict=True):
        first = (queries[0], keys[0], values[0])
        # The shared queries are asked again in every row, and only the first answer is kept: that is cheaper
        # than a mask, and the kernel is the one that a row alone goes through.
        q, k, v = [torch.cat(pair, dim=2) for pair in zip(first, rest, strict=True)] if shared else rest
        found = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling
        )
        seen.append(found if not seen else found[:, :, shared:])
    return torch.cat(seen, dim=2).transpose(1, 2), None


def _no_mask(*_args: Any, **_kwargs: Any) -> None:
    """Rows never meet: there is nothing to mask."""


AttentionInterface.register(WITHIN_ROWS, attend)
AttentionMaskInterface.register(WITHIN_ROWS, _no_mask)


def token_losses(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every trained token of a batch from `collate`, and where each stands.

    Both have shape (trained tokens,); the second is the index of the token that predicts. Logits are computed
    there only: of a row that is half observation, half of the head's work is left out.
    """
    targets = batch["labels"][0, 1:]
    where = (targets != IGNORED).nonzero().squeeze(1)
    logits = model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        shared=batch["shared"],
        row_lengths=batch["row_lengths"],
        logits_to_keep=where,
        use_cache=False,
    ).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), targets[where], reduction="none"), where


def row_losses(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Mean loss of each row of a batch, shape (rows,)."""
    losses, where = token_losses(model, batch)
    ends = torch.tensor(batch["row_lengths"], device=where.device).cumsum(0) + batch["shared"]
    row = torch.searchsorted(ends, where, right=True)
    rows = len(batch["row_lengths"])
    sums = torch.zeros(rows, dtype=losses.dtype, device=losses.device).index_add(0, row, losses)
    return sums / torch.bincount(row, minlength=rows)
