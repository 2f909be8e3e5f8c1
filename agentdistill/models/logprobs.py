"""Log probabilities in the form of OpenAI's chat API, which llama.cpp and vLLM speak, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def read_logprobs(choice: Mapping[str, Any]) -> tuple[dict[str, float], ...] | None:
    """The likeliest tokens at each place of a reply, None if the server tells none.

    Two tokens that read the same (halves of a character) are kept apart by their rank. Raises LookupError,
    TypeError, ValueError or AttributeError on a reply of another shape.
    """
    places = (choice.get("logprobs") or {}).get("content")
    if places is None:
        return None
    found = []
    for place in places:
        likeliest: dict[str, float] = {}
        for rank, token in enumerate(place["top_logprobs"]):
            name = str(token["token"])
            # Servers write a probability of zero as a very small number, or as null.
            value = token["logprob"]
            likeliest[f"{name}#{rank}" if name in likeliest else name] = (
                float("-inf") if value is None else float(value)
            )
        found.append(likeliest)
    return tuple(found)
