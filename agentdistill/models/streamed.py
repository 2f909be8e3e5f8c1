"""A chat completion that comes as server-sent events, put together again while a listener hears it.

Guaranteed: `feed` never raises for what a server sends, whatever that is; `reply` gives what the server would
have sent in one piece, or a ValueError that says what is wrong: a stream that broke off is never a reply.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from agentdistill.models.base import TextListener

MAX_LINE = 8 << 20


class StreamedReply:
    """One reply on its way. `first` is the number of its first sample in the call that asked for it."""

    def __init__(self, listener: TextListener, first: int = 0) -> None:
        self._listener = listener
        self._first = first
        self._rest = b""
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Any = None
        self._problem = ""

    def feed(self, part: bytes) -> None:
        """More bytes of the body. Raises what the listener raises."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        if len(self._rest) > MAX_LINE:
            self._rest, self._problem = b"", "a line without an end"
        for line in lines:
            name, _, data = line.strip().partition(b":")
            data = data.strip()
            if name == b"data" and data and data != b"[DONE]" and not self._problem:
                self._event(data)

    def reply(self) -> Any:
        """What the server would have sent without `stream`. ValueError if it is none."""
        self.feed(b"\n")  # a last line without its end
        unfinished = [index for index, choice in self._choices.items() if not choice["finish_reason"]]
        if self._problem or unfinished or not self._choices:
            raise ValueError(self._problem or "the stream broke off")
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {"choices": choices, "usage": self._usage}

    def _event(self, data: bytes) -> None:
        heard: list[Callable[[], None]] = []
        try:
            event = json.loads(data)
            if event.get("error"):
                self._problem = str(event["error"])[:300]
                return
            self._usage = event.get("usage") or self._usage
            for choice in event.get("choices") or ():
                heard.append(self._add(choice))
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            self._problem = f"an event that makes no sense ({type(error).__name__})"
            return
        for tell in heard:
            tell()

    def _add(self, choice: Any) -> Callable[[], None]:
        index = int(choice.get("index") or 0)
        so_far = self._choices.setdefault(index, {"message": {"content": ""}, "finish_reason": None})
        piece = (choice.get("delta") or {}).get("content") or ""
        if not isinstance(piece, str):
            raise TypeError("content is no text")
        so_far["message"]["content"] += piece
        so_far["finish_reason"] = choice.get("finish_reason") or so_far["finish_reason"]
        text = so_far["message"]["content"]
        return lambda: self._listener(self._first + index, text)
