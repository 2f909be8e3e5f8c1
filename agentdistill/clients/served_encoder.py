"""The sentence encoder that the retrieval service of this machine has in memory, for a command that would
load the same one for seconds.

Guaranteed: vectors are those of the encoder asked for (SHA-256 of its weights), or it is not used. Not
guaranteed: that the service is still up at the next call; that raises RetrieverError.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agentdistill import services
from agentdistill.clients.retriever import Address, HttpRetriever
from agentdistill.errors import RetrieverError

TEXTS = 256
"""In one request, as the service takes them."""


class ServedEncoder:
    """Embeds texts in a retrieval service. Safe for threads."""

    def __init__(self, retriever: HttpRetriever, name: str) -> None:
        self._retriever = retriever
        self.name = name

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32[n, dimension], each of length 1. RetrieverError if the service doesn't answer."""
        parts = [
            self._retriever.embed(list(texts[start : start + TEXTS]), self.name)
            for start in range(0, len(texts), TEXTS)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, 0), dtype=np.float32)

    def close(self) -> None:
        self._retriever.close()


def encoder_up_here(name: str) -> ServedEncoder | None:
    """That of the service that `agentdistill services up` has started, if it is the encoder `name` (the first
    16 hex digits of its weights' SHA-256); None if no service is up, or it has another or none."""
    state = services.read_state("retriever")
    if state is None or not services.is_up(state):
        return None
    address = Address(state.url, state.token)
    try:
        retriever = HttpRetriever(lambda: address)
    except RetrieverError:  # just ended, or another program has its port
        return None
    if retriever.encoder != name:
        retriever.close()
        return None
    return ServedEncoder(retriever, name)
