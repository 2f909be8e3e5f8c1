"""Tool calls from sandboxed code: checked, run in threads on our side, recorded.

Guaranteed: a tool is called with keyword arguments it has declared, and with plain data; what it raises
becomes text for the code; identical calls of one run of several candidates are made once. Not guaranteed:
that the data makes sense to the tool, or that a call that is no longer waited for ever ends.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agentdistill.clients import protocol
from agentdistill.clients.protocol import ProtocolError
from agentdistill.types import Json, SandboxTool, ToolCall, ToolResult

THREADS = 8
MAX_CALLS = 1_000  # of one step


@dataclass(frozen=True)
class Answer:
    """`record` is what a ToolCall keeps of the value."""

    value: Any = None
    error: str | None = None
    seconds: float = 0.0
    record: Json = None


@dataclass
class Call:
    """One call of one step, answered or not."""

    name: str
    arguments: Json
    answer: Future[Answer]
    started: float
    seconds: float
    replied: bool = False  # the code has its answer, even if there was none


class Desk:
    """The tools of a session and the threads they run in."""

    def __init__(self, tools: Sequence[SandboxTool]) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self._pool: ThreadPoolExecutor | None = None
        self._made: dict[str, Future[Answer]] | None = None

    def begin(self, candidates: int) -> None:
        """A new run: with several candidates identical calls are answered once."""
        self._made = {} if candidates > 1 else None

    def call(self, message: dict[str, Json], earlier: int) -> Call:
        """Start what an interpreter asks for. ProtocolError if it is not even a call."""
        name = message.get("name")
        tool = self.tools.get(name) if isinstance(name, str) else None
        arguments, problem = check(tool, message)
        if earlier >= MAX_CALLS:
            problem = f"more than {MAX_CALLS} tool calls in one step"
            if earlier >= 2 * MAX_CALLS:
                raise ProtocolError("a flood of calls")
        if tool is None or problem:
            answer: Future[Answer] = Future()
            answer.set_result(Answer(error=problem))
        else:
            answer = self._submit(tool, arguments)
        seconds = tool.seconds if tool else 0.0
        return Call(protocol.text(str(name), 200), arguments, answer, time.monotonic(), seconds)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, tool: SandboxTool, arguments: dict[str, Any]) -> Future[Answer]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sandbox-tool")
        if self._made is None:
            return self._pool.submit(invoke, tool, arguments)
        key = json.dumps([tool.name, sorted((name, protocol.encode(a)) for name, a in arguments.items())])
        if key not in self._made:
            self._made[key] = self._pool.submit(invoke, tool, arguments)
        return self._made[key]


def invoke(tool: SandboxTool, arguments: dict[str, Any]) -> Answer:
    started = time.monotonic()
    try:
        value = tool.call(**arguments)
    except Exception as error:
        return Answer(error=f"{type(error).__name__}: {error}", seconds=time.monotonic() - started)
    result = value if isinstance(value, ToolResult) else ToolResult(value, value)
    return Answer(value=result.value, seconds=time.monotonic() - started, record=result.record)


def check(tool: SandboxTool | None, message: dict[str, Json]) -> tuple[dict[str, Any], str | None]:
    """Keyword arguments for the tool, and what is wrong with the call (None if nothing is)."""
    args, kwargs = message.get("args"), message.get("kwargs")
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise ProtocolError("a call without arguments")
    if tool is None:
        return {}, "there is no such tool"
    if len(args) > len(tool.parameters):
        return {}, f"{tool.name} takes {len(tool.parameters)} arguments, {len(args)} were given"
    named: dict[str, Any] = {}
    try:
        for name, item in zip(tool.parameters, args, strict=False):
            named[name] = protocol.decode(item)
        for name, item in kwargs.items():
            if name not in tool.parameters:
                known = ", ".join(tool.parameters) or "none"
                return named, f"{tool.name} has no argument {name[:100]!r}; its arguments: {known}"
            if name in named:
                return named, f"{tool.name} got the argument {name!r} twice"
            named[name] = protocol.decode(item)
    except ProtocolError as problem:
        return {}, f"an argument cannot be read: {problem}"
    return named, None


def record(calls: Sequence[Call]) -> tuple[ToolCall, ...]:
    """Calls as they go into an Execution."""
    rows = []
    for call in list(calls):
        if call.answer.done() and not call.answer.cancelled():
            answer = call.answer.result()
            rows.append(ToolCall(call.name, call.arguments, answer.record, answer.error, answer.seconds))
        else:
            waited = time.monotonic() - call.started
            rows.append(ToolCall(call.name, call.arguments, error="no answer yet", seconds=waited))
    return tuple(rows)
