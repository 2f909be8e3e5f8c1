"""One piece of code on its way to an Execution: its clock, its tool calls, and what came of it.

What an interpreter says of its own step is hostile: it may lie about that, but every field is checked and
cut here. How it died is the supervisor's word.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from agentdistill.clients import protocol
from agentdistill.clients.protocol import ProtocolError
from agentdistill.clients.tool_calls import Call, record
from agentdistill.types import ErrorKind, Execution, Json, Limits, Opaque

MAX_ERROR = 2_500


@dataclass
class Step:
    """One piece of code that is running, or waits for a core to run on."""

    code: str
    node: int
    name: str = ""  # drawn at random when it starts, so that an earlier step cannot answer for it
    place: int = 0  # which of the frames sent to its interpreter was this step
    missed: bool = False  # its interpreter was dead before it was told of it
    started: float = 0.0
    running: bool = False
    left: float = 0.0  # seconds of the deadline still unused
    ticking: float | None = None  # since when the clock runs; None while a tool is waited for
    pending: int = 0
    timed_out: bool = False
    late: int = 0  # calls of earlier steps that came while this one ran
    calls: list[Call] = field(default_factory=list)
    waiting: dict[int, Call] = field(default_factory=dict)  # calls without an answer, by the code's number
    result: Execution | None = None

    def restart(self) -> None:
        """Start its clock anew, unless a tool has stopped it."""
        self.started = time.monotonic()
        self.ticking = self.ticking and self.started

    def finish(self, message: dict[str, Json], limits: Limits) -> None:
        """The interpreter's own word on its step. It may lie about that, but about nothing else."""
        if self.timed_out:
            return  # too late: its interpreter is being killed
        final = message.get("final") is True
        error = message.get("error")
        kind = message.get("kind")
        try:
            value = protocol.decode(message.get("value"))
        except ProtocolError as problem:
            value = Opaque("unreadable", f"<not readable: {problem}>")
        self.result = Execution(
            logs=_clip(protocol.text(message.get("logs"), 1 << 30), message.get("cut"), limits),
            value=value,
            is_final=final and error is None,
            error=None if error is None else protocol.text(error, MAX_ERROR),
            error_kind=None if error is None else _kind(kind),
            seconds=time.monotonic() - self.started,
            tool_calls=record(self.calls),
        )

    def bury(self, death: dict[str, Json], limits: Limits) -> None:
        """The interpreter is gone and has left no result."""
        told = death.get("told")
        self.missed = isinstance(told, int) and told < self.place
        if self.timed_out:
            kind = ErrorKind.TIMEOUT
            error = f"TimeoutError: the code ran longer than {limits.seconds:g} s and was stopped."
        else:
            kind = ErrorKind.MEMORY if death.get("memory") is True else ErrorKind.DIED
            how = _how(death.get("status"))
            error = f"RuntimeError: the code ended its own interpreter ({how})."
            if kind is ErrorKind.MEMORY:
                error = f"MemoryError: the code used more than {limits.memory_mb} MB and was stopped."
        error += " Everything is as it was before this step."
        logs = death.get("logs")
        self.result = Execution(
            logs=_clip(logs if isinstance(logs, str) else "", death.get("cut"), limits),
            error=error,
            error_kind=kind,
            timed_out=self.timed_out,
            seconds=time.monotonic() - self.started,
            tool_calls=record(self.calls),
        )


def _clip(logs: str, cut: Json, limits: Limits) -> str:
    """Output within the limit, with a mark that counts what is missing; `cut` characters were never sent."""
    missing = max(0, cut if isinstance(cut, int) else 0) + max(0, len(logs) - limits.output_chars)
    logs = protocol.text(logs, limits.output_chars)
    return f"{logs}\n[... {missing} characters cut]" if missing else logs


def _kind(kind: Json) -> ErrorKind:
    return ErrorKind(kind) if kind in ("exception", "memory", "tool") else ErrorKind.EXCEPTION


def _how(status: Json) -> str:
    if isinstance(status, int):
        return f"signal {-status}" if status < 0 else f"exit code {status}"
    return str(status)[:100]
