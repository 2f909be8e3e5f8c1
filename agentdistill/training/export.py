"""A checkpoint as one GGUF file for llama.cpp, for the llama and qwen2 architectures.

Guaranteed: every weight of the architecture is in the file, with the shape its config promises; the tokenizer
and the chat template are the checkpoint's own. The file appears whole or not at all. At f16 and f32
llama.cpp's greedy text equals transformers' (tested on SmolLM2-135M and on a small qwen2). Weights are read
and written one at a time: the memory needed is that of the largest.

Not guaranteed: other architectures, scaled rotary embeddings, tokenizers other than byte-level BPE of the
kinds in gguf_tokenizer.py: they are refused by name. Quantising is rounding to nearest, without calibration.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from agentdistill.errors import ExportError, TrainingError
from agentdistill.training.base import load_config, load_tokenizer
from agentdistill.training.gguf_tokenizer import write_tokenizer

Quant = Literal["f32", "f16", "q8_0", "q4_0"]

QUANTS: tuple[Quant, ...] = get_args(Quant)

ARCHITECTURES = ("llama", "qwen2")

_BLOCK = 32
"""Weights that q8_0 and q4_0 scale together; a row must be a multiple."""


@dataclass(frozen=True, slots=True)
class _Weight:
    """One tensor of the checkpoint and what becomes of it."""

    file: Path
    key: str
    name: str
    shape: tuple[int, ...]
    kind: Any
    heads: int | None
    """Heads of a query or key projection whose rows llama.cpp wants in another order."""


def export_gguf(checkpoint: Path, out: Path, quant: Quant = "q8_0") -> Path:
    """Write the model folder `checkpoint` to the file `out` and return it.

    Raises ExportError for a kind of model that has no GGUF form here, TrainingError for everything else.
    """
    if quant not in QUANTS:
        raise TrainingError(f"no GGUF type {quant!r}", f"give one of {', '.join(QUANTS)}")
    config = load_config(checkpoint)
    _refuse_what_is_unknown(config)
    weights = list(_weights(checkpoint, config, quant))
    fresh = out.with_name(out.name + ".new")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(checkpoint, config, weights, fresh, quant)
        fresh.replace(out)
    except OSError as error:
        raise TrainingError(f"cannot export {checkpoint} to {out}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            fresh.unlink()
    return out


def _refuse_what_is_unknown(config: Any) -> None:
    if config.model_type not in ARCHITECTURES:
        raise ExportError(
            f"GGUF export knows the architectures {' and '.join(ARCHITECTURES)}, not {config.model_type}",
            "serve the checkpoint with transformers",
        )
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ExportError(f"GGUF export does not know rotary embeddings scaled by {rope['rope_type']!r}")
    if getattr(config, "use_sliding_window", False):
        raise ExportError("GGUF export does not know sliding-window attention")


def _weights(checkpoint: Path, config: Any, quant: Quant) -> Iterator[_Weight]:
    """The checkpoint's tensors by their GGUF names; raises TrainingError unless they are the model's."""
    import gguf
    import torch
    from safetensors import SafetensorError, safe_open
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if config.tie_word_embeddings:
        expected.pop("lm_head.weight", None)
    names = gguf.get_tensor_name_map(_architecture(config), config.num_hidden_layers)
    for file in sorted(checkpoint.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as stored:
                shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"cannot read {file}: {error}") from error
        for key, shape in shapes.items():
            if key == "lm_head.weight" and config.tie_word_embeddings:
                continue
            if expected.pop(key, None) != shape:
                raise TrainingError(f"{file}: {key} of shape {shape} has no place in a {config.model_type}")
            name = names.get_name(key, try_suffixes=(".weight", ".bias"))
            yield _Weight(file, key, name, shape, _kind(name, shape, quant), _permuted_heads(name, config))
    if expected:
        raise TrainingError(f"{checkpoint} has no weight {min(expected)}")


def _write(checkpoint: Path, config: Any, weights: list[_Weight], fresh: Path, quant: Quant) -> None:
    import gguf
    from safetensors import safe_open

    writer = gguf.GGUFWriter(fresh, config.model_type)
    try:
        _write_header(writer, config, checkpoint.resolve().name, quant)
        write_tokenizer(writer, load_tokenizer(checkpoint), config.vocab_size)
        for weight in weights:
            _announce(writer, weight)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for weight in weights:
            with safe_open(weight.file, framework="pt") as tensors:
                data = tensors.get_tensor(weight.key).float().numpy()
            if weight.heads is not None:
                data = _interleave(data, weight.heads)
            writer.write_tensor_data(gguf.quants.quantize(data, weight.kind))
        writer.flush()
    finally:
        writer.close()
    with fresh.open("rb") as file:
        os.fsync(file.fileno())


def _announce(writer: Any, weight: _Weight) -> None:
    """Shape and size of a tensor, which a GGUF file has in front of all data."""
    import gguf
    import numpy as np

    if weight.kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        half = weight.kind == gguf.GGMLQuantizationType.F16
        shape, stored = weight.shape, np.dtype(np.float16 if half else np.float32)
    else:
        shape, stored = gguf.quant_shape_to_byte_shape(weight.shape, weight.kind), np.dtype(np.uint8)
    size = int(np.prod(shape)) * stored.itemsize
    writer.add_tensor_info(weight.name, shape, stored, size, raw_dtype=weight.kind)


def _write_header(writer: Any, config: Any, name: str, quant: Quant) -> None:
    import gguf

    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_name(name)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_file_type(
        {
            "f32": gguf.LlamaFileType.ALL_F32,
            "f16": gguf.LlamaFileType.MOSTLY_F16,
            "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
            "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
        }[quant]
    )
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _architecture(config: Any) -> Any:
    import gguf

    return {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}[config.model_type]


def _permuted_heads(name: str, config: Any) -> int | None:
    """llama's rotary pairs are neighbours in llama.cpp and half a head apart in transformers; qwen2's are
    half a head apart in both."""
    if config.model_type != "llama":
        return None
    if ".attn_q." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".attn_k." in name else None


def _interleave(weights: Any, heads: int) -> Any:
    """Rows of a query or key projection (or its bias) in llama.cpp's order."""
    half = weights.shape[0] // heads // 2
    return weights.reshape(heads, 2, half, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def _kind(name: str, shape: tuple[int, ...], quant: Quant) -> Any:
    """How one tensor is stored. Vectors (norms, biases) stay in full precision and the embeddings at 8 bits,
    as in llama.cpp's own files; rows that cannot be cut into blocks are f16."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if len(shape) == 1 or quant == "f32":
        return kinds.F32
    if quant == "f16" or shape[-1] % _BLOCK:
        return kinds.F16
    if quant == "q8_0" or name in ("token_embd.weight", "output.weight"):
        return kinds.Q8_0
    return kinds.Q4_0
