"""Reads a model SPEC and opens what it names.

    qwen2.5-coder-1.5b          a catalog model, in process (llama.cpp)
    llamacpp:FILE.gguf          any GGUF file, in process
    hf:ID_OR_DIR                transformers, in process
    openai:NAME@BASE_URL        an OpenAI-compatible endpoint; with #template=ID_OR_DIR behind the URL its
                                tokenizer's chat template is known (docs/endpoints.md)
    CHECKPOINT                  a folder that `train` made; its GGUF export, if it has one, on llama.cpp

Which engine and which file served a run stands in its run.json.
"""

from __future__ import annotations

import os
from pathlib import Path

from agentdistill import catalog
from agentdistill.errors import UnknownModelError
from agentdistill.models.base import BaseModel
from agentdistill.types import Sampling

CHECKPOINT_GGUF = "model-q8_0.gguf"
"""Name of a checkpoint's export inside its folder; served instead of the safetensors where present."""


def open_model(
    spec: str,
    *,
    sampling: Sampling | None = None,
    slots: int = 4,
    context: int = 4096,
    threads: int | None = None,
    progress: catalog.Progress | None = None,
) -> BaseModel:
    """The model a SPEC names, ready to sample. `slots` is how many calls it serves side by side at most;
    `threads` (all cores if None) and `context` are for engines in process.

    Raises UnknownModelError, ModelError or DownloadError."""
    from agentdistill.models.llamacpp import LlamaCppModel
    from agentdistill.models.openai_compatible import OpenAICompatibleModel
    from agentdistill.models.transformers_model import TransformersModel

    kind, _, rest = spec.partition(":")
    threads = threads or len(os.sched_getaffinity(0))

    def llamacpp(path: Path, name: str) -> BaseModel:
        return LlamaCppModel(
            path, model_id=name, sampling=sampling, slots=slots, context=context, threads=threads
        )

    if kind == "llamacpp" and rest:
        path = Path(rest)
        if not path.is_file():
            raise UnknownModelError(f"model {spec!r}: there is no file {path}")
        return llamacpp(path, path.name)
    if kind == "openai" and "@" in rest:
        address, _, setting = rest.partition("#")
        name, _, url = address.rpartition("@")
        key, _, template = setting.partition("=")
        if setting and (key != "template" or not template):
            raise UnknownModelError(
                f"model {spec!r}: {setting!r} is no setting", "openai:NAME@URL#template=ID_OR_DIR"
            )
        if not url.startswith(("http://", "https://")):
            raise UnknownModelError(f"model {spec!r}: {url!r} is no URL", "openai:NAME@http://HOST:PORT/v1")
        return OpenAICompatibleModel(name, url, sampling=sampling, ceiling=slots, template=template or None)
    if kind == "hf" and rest:
        return TransformersModel(rest, sampling=sampling)
    folder = Path(spec)
    if (folder / "config.json").is_file():
        exported = folder / CHECKPOINT_GGUF
        if exported.is_file():
            return llamacpp(exported, folder.name)
        return TransformersModel(spec, sampling=sampling)
    if any(entry.name == spec for entry in catalog.ENTRIES):
        return llamacpp(catalog.fetch(spec, progress), spec)
    names = ", ".join(entry.name for entry in catalog.ENTRIES)
    raise UnknownModelError(
        f"no model {spec!r}",
        f"give a catalog name ({names}), llamacpp:FILE.gguf, hf:ID_OR_DIR, openai:NAME@URL or a checkpoint",
    )
