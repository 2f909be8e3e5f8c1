"""Sentence embeddings of entries and questions, by the catalog's encoder or a folder of one's own.

Guaranteed: the hub is never asked; vectors of one encoder are never compared with another's (its name is the
SHA-256 of its weights). Loading takes seconds and some 400 MB, once, when the first text is encoded.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agentdistill.errors import KnowledgeBaseError

ENCODER = "all-minilm-l6-v2"
"""The catalog's sentence encoder."""

Vectors = NDArray[np.float32]


class TextEncoder(Protocol):
    """What embeds texts: an Encoder of this process, or one that a service has in memory."""

    @property
    def name(self) -> str:
        """SHA-256 of its weights, first 16 hex digits."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """float32[n, dimension], each of length 1."""


class Encoder:
    """A sentence-transformers model from a folder. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._model: Any = None

    @cached_property
    def name(self) -> str:
        """SHA-256 of its weights, first 16 hex digits. Raises KnowledgeBaseError."""
        try:
            with (self.folder / "model.safetensors").open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        except OSError as error:
            raise KnowledgeBaseError(f"{self.folder} is no sentence encoder: {error.strerror}") from error

    def encode(self, texts: Sequence[str]) -> Vectors:
        """float32[n, dimension], each of length 1. What is beyond the model's length is not read."""
        with self._lock:  # its tokenizer can't be used by two threads, and torch uses all cores anyway
            if self._model is None:
                self._model = _load(self.folder)
            vectors = self._model.encode(
                list(texts), batch_size=32, normalize_embeddings=True, show_progress_bar=False
            )
        return np.ascontiguousarray(vectors, dtype=np.float32)


def _load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        return SentenceTransformer(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise KnowledgeBaseError(f"{folder} is no sentence encoder: {str(error).splitlines()[0]}") from error
