"""Token-level decoding of n samples over one prompt, for attention-only models of transformers.

The prompt is forward-passed once. Its keys and values are kept once, whatever n is: every row holds only what
it has written itself, and attention is computed over both parts with one softmax. A finished row leaves the
batch. `generate` of transformers can do neither: it repeats the prompt before the forward pass, and computes
finished rows until the last one ends.

Guaranteed: a row computes what it would compute alone, up to the rounding of the matrix kernels (about 1e-5
in the logits in float32), so with a generator of its own it draws the same tokens. Not guaranteed: models
whose layers don't all keep their keys and values (sliding windows, state spaces, caches shared between
layers); they are refused when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from agentdistill.errors import ModelError

ATTENTION = "shared_prefix"
"""What models are loaded with (`attn_implementation`): torch's own attention, but for rows over a prefix."""

TAIL = 64  # tokens of room that rows start with; doubled when they need more

KeysValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of each layer, float[1, key-value heads, tokens, head size]."""


def check_supported(model: Any) -> None:
    """Raises ModelError for a model that cannot be decoded here."""
    kinds = {type(layer) for layer in DynamicCache(config=model.config).layers}
    if kinds != {DynamicLayer}:
        raise ModelError(
            f"{model.config.model_type} models keep no full key-value cache in every layer",
            "serve it with vLLM or llama.cpp and name it openai:NAME@URL",
        )


def prefill(model: Any, ids: Sequence[int], kept: KeysValues | None) -> tuple[KeysValues, torch.Tensor]:
    """Keys and values of a prompt, and the logits float[1, vocabulary] of its last token.

    `kept` holds those of its first tokens, fewer than all; only the others are forward-passed.
    """
    known = kept[0][0].shape[-2] if kept else 0
    cache = DynamicCache(kept) if kept else DynamicCache()
    with torch.inference_mode():
        logits = model(
            torch.tensor([ids[known:]], device=model.device), past_key_values=cache, logits_to_keep=1
        ).logits
    return [(layer.keys, layer.values) for layer in cache.layers], logits[:, -1]


class Rows:
    """The unfinished samples over one prompt, in lockstep: all have written equally many tokens."""

    def __init__(self, model: Any, prompt: KeysValues, count: int) -> None:
        self._model = model
        self._cache = Cache(layers=[_RowsLayer(keys, values, count) for keys, values in prompt])

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Logits float[rows, vocabulary] after one more token a row."""
        ids = torch.tensor(tokens, device=self._model.device)[:, None]
        for layer in self._cache.layers:
            layer.attended = False
        with torch.inference_mode():
            logits = self._model(ids, past_key_values=self._cache, shared_prefix=self._cache.layers).logits
        if not all(layer.attended for layer in self._cache.layers):
            raise ModelError(f"{self._model.config.model_type} models bring an attention of their own")
        return logits[:, -1]  # type: ignore[no-any-return]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        with torch.inference_mode():
            self._cache.batch_select_indices(torch.tensor(rows, device=self._model.device))

    def written(self, row: int) -> KeysValues:
        """A copy of the keys and values of what a row has written and `step` has seen."""
        with torch.inference_mode():
            return [layer.written(row) for layer in self._cache.layers]


class _RowsLayer(CacheLayerMixin):
    """One layer: keys and values of the prompt once (batch of 1), of what was written for every row.

    Beyond `length` the tensors are room to grow: appending in place spares the copy of the whole cache that
    DynamicLayer makes for each token.
    """

    is_sliding = False

    def __init__(self, prompt_keys: torch.Tensor, prompt_values: torch.Tensor, rows: int) -> None:
        super().__init__()
        self.prompt_keys, self.prompt_values = prompt_keys, prompt_values
        _, heads, _, size = prompt_keys.shape
        self.keys = prompt_keys.new_empty(rows, heads, TAIL, size)
        self.values = prompt_values.new_empty(rows, heads, TAIL, prompt_values.shape[-1])
        self.length = 0
        self.attended = False
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to do after __init__."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        end = self.length + key_states.shape[-2]
        if end > self.keys.shape[-2]:
            self.keys = torch.cat([self.keys, torch.empty_like(self.keys)], dim=-2)
            self.values = torch.cat([self.values, torch.empty_like(self.values)], dim=-2)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def written(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        own = slice(row, row + 1), slice(None), slice(self.length)
        return self.keys[own].clone(), self.values[own].clone()

    def get_seq_length(self) -> int:
        return int(self.prompt_keys.shape[-2]) + self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.keys, self.values = self.keys[indices], self.values[indices]


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    shared_prefix: Sequence[_RowsLayer] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one new token a row over the prompt all rows share and over the row's own tokens.

    The queries of all rows, and of all heads that share a key-value head, meet the prompt's keys in one
    matrix product, so these are read once a step, not once a row.
    """
    if shared_prefix is None:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return out, None
    layer = shared_prefix[module.layer_idx]
    layer.attended = True
    rows, query_heads, _, size = query.shape
    heads, prompt = key.shape[1], layer.prompt_keys.shape[-2]
    group = query_heads // heads
    query = query.reshape(rows, heads, group, size) * (size**-0.5 if scaling is None else scaling)

    def joined(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, 1).reshape(1, heads, rows * group, -1)

    def split(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(heads, rows, group, -1).transpose(0, 1)

    scores = torch.cat(
        [
            split(joined(query) @ layer.prompt_keys.transpose(-1, -2)),
            query @ key.transpose(-1, -2),
        ],
        dim=-1,
    )
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    out = split(joined(weights[..., :prompt]) @ layer.prompt_values) + weights[..., prompt:] @ value
    return out.reshape(rows, 1, query_heads, -1), None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def choose(
    logits: torch.Tensor, generators: Sequence[torch.Generator], temperature: float, top_p: float
) -> list[int]:
    """The next token of each row of float[rows, vocabulary], one uniform number of its generator a row.

    Temperature 0 takes the likeliest. Else from the fewest likeliest tokens that together reach `top_p`.
    Raises ModelError where the logits are no numbers.
    """
    with torch.inference_mode():
        if temperature <= 0:
            best = logits.max(dim=-1)
            if bool(best.values.isnan().any()):
                raise ModelError("the model's logits are not numbers", "are its weights whole?")
            return best.indices.tolist()
        probabilities = (logits.float() / temperature).softmax(dim=-1)
        if top_p >= 1:
            ids, mass = torch.arange(logits.shape[-1]).expand(logits.shape), probabilities.cpu()
        else:
            width = min(64, logits.shape[-1])
            top = probabilities.topk(width)
            # The few likeliest are mostly enough; sorting the whole vocabulary costs thirty times as much.
            while width < logits.shape[-1] and bool((top.values.sum(dim=-1) < top_p).any()):
                width = min(width * 8, logits.shape[-1])
                top = probabilities.topk(width)
            ids, mass = top.indices.cpu(), top.values.cpu()
        mass = mass.double().cumsum(dim=-1)
        if not bool(mass[:, -1].isfinite().all()):
            raise ModelError("the model's logits are not numbers", "are its weights whole?")
        chosen = []
        for row, generator in enumerate(generators):
            last = int(torch.searchsorted(mass[row], min(top_p, float(mass[row, -1]))))
            drawn = torch.rand((), generator=generator, dtype=torch.float64) * mass[row, last]
            place = int(torch.searchsorted(mass[row, : last + 1], drawn, right=True))
            chosen.append(int(ids[row, min(place, last)]))
        return chosen
