"""A finished checkpoint as one GGUF file for llama.cpp.

Guaranteed: the tokenizer, its token types and every other fact come from the base GGUF; weights come
from the checkpoint, name by name and shape by shape; the chat template is the student's. The file
appears whole or not at all. At "f16" and "f32" llama.cpp's greedy text equals transformers' (tested).

Not guaranteed: architectures other than llama, or a base that was not a GGUF file.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from agentdistill.errors import TrainingError
from agentdistill.training.base import file_sha256
from agentdistill.training.sft import read_record

Quant = Literal["f32", "f16", "q8_0"]

_TEMPLATE_KEY = "tokenizer.chat_template"
_REPLACED = frozenset({"general.architecture", "general.file_type", "general.name", _TEMPLATE_KEY})


def export_gguf(
    checkpoint: Path,
    out: Path,
    quant: Quant = "q8_0",
    *,
    template: Path | None = None,
) -> Path:
    """Write `checkpoint` to the file `out` and return it; raises TrainingError.

    `template` is the GGUF it was trained from, whose header and tokenizer are copied (default: the one
    training.json names).
    """
    template = _template(checkpoint, template)
    fresh = out.with_name(out.name + ".new")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(checkpoint, template, fresh, quant)
        fresh.replace(out)
    except OSError as error:
        raise TrainingError(f"cannot export {checkpoint} to {out}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            fresh.unlink()
    return out


def _template(checkpoint: Path, given: Path | None) -> Path:
    recorded = read_record(checkpoint)["base"]
    template = given or Path(recorded["path"])
    if not template.is_file():
        raise TrainingError(
            f"the GGUF that {checkpoint} was trained from is not at {template}",
            "say where it is, or export from one",
        )
    if file_sha256(template) != recorded["sha256"]:
        raise TrainingError(f"{template} is not the base that {checkpoint} was trained from")
    return template


def _write(checkpoint: Path, base: Path, fresh: Path, quant: Quant) -> None:
    import gguf
    from safetensors import safe_open

    reader = gguf.GGUFReader(base)
    architecture = reader.fields["general.architecture"].contents()
    if architecture != "llama":
        raise TrainingError(f"export knows the llama architecture, not {architecture}")
    heads = int(reader.fields["llama.attention.head_count"].contents())
    kv_heads = int(reader.fields["llama.attention.head_count_kv"].contents())
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, len(reader.tensors))

    writer = gguf.GGUFWriter(fresh, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in _REPLACED:
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, element)
    writer.add_name(checkpoint.resolve().name)
    writer.add_file_type(
        {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16}.get(
            quant, gguf.LlamaFileType.MOSTLY_Q8_0
        )
    )
    writer.add_chat_template((checkpoint / "chat_template.jinja").read_text())

    expected = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in reader.tensors}
    with safe_open(checkpoint / "model.safetensors", framework="pt") as weights:
        for key in weights.keys():  # noqa: SIM118 (not a mapping)
            name = names.get_name(key, try_suffixes=(".weight", ".bias"))
            if name not in expected:
                raise TrainingError(f"the base GGUF has no place for the weight {key}")
            data = weights.get_tensor(key).float().numpy()
            if data.shape != expected.pop(name):
                raise TrainingError(f"the weight {key} has another shape than in the base GGUF")
            if name.endswith(("attn_q.weight", "attn_q.bias")):
                data = _interleave(data, heads)
            elif name.endswith(("attn_k.weight", "attn_k.bias")):
                data = _interleave(data, kv_heads)
            kind = _tensor_kind(data.ndim, quant)
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
    # llama.cpp computes rope_freqs from the header when the file has none.
    if missing := sorted(expected.keys() - {"rope_freqs.weight"}):
        raise TrainingError(f"the checkpoint {checkpoint} has no weight for {missing[0]}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with fresh.open("rb") as file:
        os.fsync(file.fileno())


def _tensor_kind(dimensions: int, quant: Quant) -> Any:
    """Vectors (norms, biases) stay in full precision, as in llama.cpp's own files."""
    import gguf

    if dimensions == 1 or quant == "f32":
        return gguf.GGMLQuantizationType.F32
    return gguf.GGMLQuantizationType.F16 if quant == "f16" else gguf.GGMLQuantizationType.Q8_0


def _interleave(weights: Any, heads: int) -> Any:
    """Rows of a query or key projection in llama.cpp's order: its rotary pairs are neighbours, those of
    transformers are half a head apart."""
    half = weights.shape[0] // heads // 2
    return weights.reshape(heads, 2, half, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)
