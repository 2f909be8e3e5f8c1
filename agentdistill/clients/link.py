"""The stream to a jail's supervisor: frames out from any thread, frames in for the one that reads.

Guaranteed: a lost or broken stream is a SandboxError, the same one every time, with what the jail had to say
on its stderr; `close` may be called again. Frames from interpreters are handed on unread.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol

from agentdistill.clients import protocol
from agentdistill.clients.protocol import ProtocolError
from agentdistill.errors import SandboxError
from agentdistill.types import Json


class Stream(Protocol):
    """The two pipes of a supervisor, wherever it runs. One thread receives, one at a time sends."""

    def send(self, data: bytes) -> None:
        """Send all of it. OSError when the other end is gone."""

    def receive(self, seconds: float) -> bytes | None:
        """The next bytes; None if none came in that time, b"" when the stream has ended. OSError likewise."""

    def close(self) -> str:
        """End the jail for certain; returns its last words. May be called again."""


class Link:
    def __init__(
        self,
        stream: Stream,
        on_event: Callable[[dict[str, Json]], None],
        on_message: Callable[[int, bytes], None],
    ) -> None:
        self._stream = stream
        self._on_event = on_event
        self._on_message = on_message
        self._frames = protocol.Frames()
        self._sending = threading.Lock()
        self._sent: Counter[int] = Counter()  # frames by channel
        self._closed = False
        self._lost: SandboxError | None = None

    def check(self) -> None:
        if self._lost is not None:
            raise self._lost
        if self._closed:
            raise SandboxError("the session is closed")

    def close(self) -> str:
        if self._closed:
            return ""
        self._closed = True
        return self._stream.close()

    def lose(self, message: str) -> SandboxError:
        """The error to raise now and from here on; ends the jail, for its last words."""
        if self._lost is None:
            words = self.close()
            self._lost = SandboxError(f"{message}: {words}" if words else message)
        return self._lost

    def send(self, channel: int, message: Mapping[str, Json]) -> int:
        """Returns how many frames have been sent to this channel, this one included."""
        data = protocol.frame(channel, message)
        try:
            with self._sending:
                self._stream.send(data)
                self._sent[channel] += 1
                return self._sent[channel]
        except OSError:
            raise self.lose("the jail is gone") from None

    def wait(self, done: Callable[[], bool], seconds: float, problem: str) -> None:
        """Read until `done`. In vain: SandboxError(problem), TimeoutError if there is no text for it."""
        until = time.monotonic() + seconds
        while not done():
            left = until - time.monotonic()
            if left <= 0:
                raise self.lose(problem) if problem else TimeoutError
            self.pump(left)

    def pump(self, seconds: float) -> None:
        """Handle what comes within the time; return after the first piece."""
        try:
            data = self._stream.receive(seconds)
        except OSError:
            data = b""
        if data is None:
            return
        if not data:
            raise self.lose("the jail is gone")
        try:
            for channel, body in self._frames.feed(data):
                if channel == 0:
                    self._announce(protocol.parse(body))
                else:
                    self._on_message(channel, body)
        except ProtocolError as problem:
            raise self.lose(f"the jail's supervisor sends nonsense: {problem}") from None

    def _announce(self, message: dict[str, Json]) -> None:
        try:
            self._on_event(message)
        except (KeyError, TypeError) as problem:  # a field is missing, or no number where one belongs
            raise ProtocolError(f"an event that makes no sense ({type(problem).__name__})") from None
