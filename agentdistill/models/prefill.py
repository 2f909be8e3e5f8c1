"""The prefill ladder of METHOD 1.1: how a prefix reaches a model behind an endpoint.

    continue      a trailing assistant message with continue_final_message (vLLM, SGLang)
    trailing      a trailing assistant message (llama-server, some hosted APIs)
    prefix        the same with `prefix: true` (Mistral, DeepSeek beta)
    completions   /v1/completions over a chat template rendered here, where one is known
    emulated      asked for in words
    ignored       the reply should have begun with the prefix, and did not

In process the prefix goes in as tokens, and there is no ladder. Guaranteed: each rung is probed once per
endpoint, whatever the number of threads (again only after it has refused all of them), and an endpoint that
comes to refuse a rung is taken down the ladder; whether a server sends the prefix back is learned by the
probe, so that a model which repeats itself is not taken for one that echoes. Not guaranteed: that a server
goes on from the prefix on every call; the probe saw that it does on one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agentdistill.types import Json, Message

IGNORED = "ignored"
"""`Completion.prefill` when a prefix that comes back in front of the text did not: the text stands alone."""

# No model opens a reply with this by itself, so an echoed prefix and a continued one can be told apart.
PROBE = (Message(role="user", content="Repeat exactly: one two three four five six"),)
PROBE_PREFIX = "Zebra: one two three"
PROBE_TOKENS = 16  # enough for an echo of the prefix and the next word
_PROBE_NEXT = "four"


@dataclass(frozen=True, slots=True)
class Prefill:
    """A rung that works, and whether the server sends the prefix back in front of the continuation."""

    rung: str
    echoes: bool = False

    def continuation(self, text: str, prefix: str) -> tuple[str, str]:
        """The text after the prefix, and how the prefix was delivered."""
        if not self.echoes:
            return text, self.rung
        if not text.lstrip().startswith(prefix.strip()):
            return text, IGNORED
        return text.lstrip()[len(prefix.strip()) :], self.rung


EMULATED = Prefill("emulated", echoes=True)
NO_PREFIX = Prefill("")


def chat_request(rung: str, turns: list[dict[str, Any]], prefix: str) -> dict[str, Json]:
    """`messages`, and what else a rung of /v1/chat/completions adds to a request."""
    if rung == "continue":
        return {
            "messages": [*turns, {"role": "assistant", "content": prefix}],
            "continue_final_message": True,
            "add_generation_prompt": False,
        }
    if rung == "trailing":
        return {"messages": [*turns, {"role": "assistant", "content": prefix}]}
    if rung == "prefix":
        return {"messages": [*turns, {"role": "assistant", "content": prefix, "prefix": True}]}
    if rung == EMULATED.rung:
        asked = f"\n\nBegin your reply with exactly this text and go on from it:\n{prefix}"
        return {"messages": [*turns[:-1], {**turns[-1], "content": turns[-1]["content"] + asked}]}
    return {"messages": turns}


def probed(rung: str, text: str) -> Prefill | None:
    """What the reply to a probe says about a rung: None if the prefix was not continued."""
    text = text.strip()
    echoes = text.startswith(PROBE_PREFIX)
    rest = text.removeprefix(PROBE_PREFIX).strip().lower()
    return Prefill(rung, echoes) if rest.startswith(_PROBE_NEXT) else None


class PrefillLadder:
    """The rungs that one endpoint takes, highest first. `probe` tries one and raises if it cannot know."""

    def __init__(self, rungs: Sequence[str], probe: Callable[[str], Prefill | None]) -> None:
        self._rungs = tuple(rungs)
        self._probe = probe
        self._known: dict[str, Prefill | None] = {}
        self._probing = threading.Lock()

    def find(self, below: str = "") -> Prefill:
        """The highest rung that works, or that works below another one."""
        start = self._rungs.index(below) + 1 if below else 0
        with self._probing:
            for rung in self._rungs[start:]:
                if rung not in self._known:
                    self._known[rung] = self._probe(rung)
                found = self._known[rung]
                if found is not None:
                    return found
        return EMULATED

    def drop(self, rung: str) -> None:
        """The endpoint refuses this rung by now."""
        with self._probing:
            self._known[rung] = None

    def forget(self) -> None:
        """The endpoint refuses whatever it is asked: what its probes said was not about the rungs."""
        with self._probing:
            self._known.clear()
