"""Rows end to end in one sequence, without padding, and attention that stays inside each of them.

Guaranteed: a row's loss packed is its loss alone (tested within 1e-4): queries of a row are multiplied with
keys of that row only, so nothing can leak through a mask, and positions begin at 0 in every row. No token
is padding.

Not guaranteed: models whose attention does not go through transformers' AttentionInterface, or whose layers
carry a state from token to token in another way (Mamba and its kin).
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
    """Rows (`input_ids`, `labels`) as one sequence: tensors of shape (1, tokens), and `row_lengths`."""
    lengths = [len(example["input_ids"]) for example in examples]
    ids = [token for example in examples for token in example["input_ids"]]
    labels = [label for example in examples for label in (IGNORED, *example["labels"][1:])]
    return {
        "input_ids": torch.tensor([ids]),
        "labels": torch.tensor([labels]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "row_lengths": lengths,
    }


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    row_lengths: Sequence[int],
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention row by row. `query` is (1, heads, tokens, head size), `key` and `value` may have fewer
    heads; the result is (1, tokens, heads, head size)."""
    groups = query.shape[1] // key.shape[1]
    lengths = list(row_lengths)
    queries = torch.split(query, lengths, dim=2)
    keys = torch.split(repeat_kv(key, groups), lengths, dim=2)
    values = torch.split(repeat_kv(value, groups), lengths, dim=2)
    attention = torch.nn.functional.scaled_dot_product_attention
    seen = [
        attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
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
        row_lengths=batch["row_lengths"],
        logits_to_keep=where,
        use_cache=False,
    ).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), targets[where], reduction="none"), where


def row_losses(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Mean loss of each row of a batch, shape (rows,)."""
    losses, where = token_losses(model, batch)
    ends = torch.tensor(batch["row_lengths"], device=where.device).cumsum(0)
    row = torch.searchsorted(ends, where, right=True)
    rows = len(batch["row_lengths"])
    sums = torch.zeros(rows, dtype=losses.dtype, device=losses.device).index_add(0, row, losses)
    return sums / torch.bincount(row, minlength=rows)
