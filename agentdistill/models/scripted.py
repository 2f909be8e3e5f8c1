"""A model that says what it was told to say: for tests and dry runs, ours and yours.

Guaranteed: deterministic, no weights, thread-safe. Not guaranteed: anything a language model would do.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence

from agentdistill.models.base import BaseModel
from agentdistill.types import Completion, Json, Message, Sampling

Script = Sequence[str | Exception] | Callable[[Sequence[Message]], str]


class ScriptedModel(BaseModel):
    """Replies with the script's lines in order (the last one for ever), or with what a function returns.

    An exception in the script is raised in its turn. `calls` keeps the messages of every call. A `listener`
    hears each word, with `pause` seconds before it.
    """

    def __init__(
        self,
        script: Script,
        model_id: str = "scripted",
        sampling: Sampling | None = None,
        pause: float = 0.0,
    ) -> None:
        super().__init__(model_id, sampling)
        self.script = script
        self.pause = pause
        self.calls: list[tuple[Message, ...]] = []
        self._lock = threading.Lock()

    def fingerprint(self) -> dict[str, Json]:
        return {"engine": "scripted"}

    def sample(
        self,
        messages: Sequence[Message],
        n: int = 1,
        *,
        prefix: str = "",
        stop: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[Completion]:
        drawn = []
        for index in range(n):
            completion = self._one(messages, prefix, stop)
            self._say(index, completion.text)
            drawn.append(completion)
        return drawn

    def _say(self, index: int, text: str) -> None:
        """Let a listener hear it word by word, `pause` seconds apart."""
        listener, so_far = self.listener, ""
        for word in re.findall(r"\s*\S+", text) if listener else ():
            time.sleep(self.pause)
            so_far += word
            if listener is not None:
                listener(index, so_far)

    def _one(self, messages: Sequence[Message], prefix: str, stop: Sequence[str]) -> Completion:
        with self._lock:
            turn = len(self.calls)
            self.calls.append(tuple(messages))
        if callable(self.script):
            text = self.script(messages)
        else:
            line = self.script[min(turn, len(self.script) - 1)]
            if isinstance(line, Exception):
                raise line
            text = line
        cuts = [text.index(mark) for mark in stop if mark in text]
        text = text[: min(cuts)] if cuts else text
        words = sum(len(message["content"].split()) for message in messages)
        return Completion(
            text, tokens_in=words, tokens_out=len(text.split()), prefill="tokens" if prefix else ""
        )
