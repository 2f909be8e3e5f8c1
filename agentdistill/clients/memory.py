"""An in-memory Sandbox for tests: no process, no wall. Never give it code you would not run yourself.

It keeps the history of what was run and builds every state by running that history again in an empty
namespace, tools answering what they answered the first time. So candidates, `keep` and `undo` behave as in
the real ones for code that is deterministic. Guaranteed: values pass through the same codec as elsewhere.
Not guaranteed, and not there: deadlines, memory limits, folders, a surviving state after code that kills
its interpreter (it would kill us), capture of what is not written by `print`.
"""

from __future__ import annotations

import ast
import builtins
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentdistill.clients import protocol
from agentdistill.clients.tool_calls import Answer, check, invoke
from agentdistill.errors import SandboxError, UsageError
from agentdistill.types import (
    CANCELLED,
    Enough,
    ErrorKind,
    Execution,
    Json,
    Limits,
    SandboxTool,
    ToolCall,
)

_Answers = tuple[Answer, ...]


class _FinalAnswer(BaseException):
    pass


class ToolError(Exception):
    """What code sees when a tool refuses or fails."""


@dataclass(frozen=True)
class _Entry:
    """One thing that made the state: code with the answers its tools gave, or data under a name."""

    code: str | None = None
    answers: _Answers = ()
    name: str = ""
    data: Json = None


class MemorySandbox:
    """A Sandbox (agentdistill.types) in this very process."""

    def __init__(self, tools: Sequence[SandboxTool] = (), limits: Limits | None = None) -> None:
        self._tools = list(tools)
        self._limits = limits or Limits()
        self._puts: list[_Entry] = []
        self._history: list[_Entry] = []
        self._space: dict[str, Any] | None = None
        self._candidates: list[_Entry] = []
        self._closed = False

    def run(
        self, codes: Sequence[str] | Iterator[str | None], enough: Enough | None = None
    ) -> list[Execution]:
        self._check()
        if isinstance(codes, str) or not codes:
            raise UsageError("run takes a list of one or more codes")
        self._candidates = []
        if isinstance(codes, Sequence) and len(codes) == 1:
            if self._space is None:
                self._space = self._replay()
            execution, answers = self._step(self._space, codes[0])
            self._history.append(_Entry(codes[0], answers))
            return [execution]
        for tool in self._tools:
            if not tool.repeatable:
                raise UsageError(f"tool {tool.name!r} is not repeatable: no step with several candidates")
        made: dict[str, Answer] = {}
        results: list[Execution] = []
        for code in codes:
            if code is not None:
                execution, answers = self._step(self._replay(), code, made=made)
                results.append(execution)
                self._candidates.append(_Entry(code, answers))
            if enough is not None and enough(dict(enumerate(results))):
                break
        unused = len(codes) - len(results) if isinstance(codes, Sequence) else 0
        return results + [CANCELLED] * unused

    def keep(self, index: int) -> None:
        self._check()
        if not 0 <= index < len(self._candidates):
            raise ValueError(f"no candidate {index} to keep")
        self._history.append(self._candidates[index])
        self._candidates = []
        self._space = None

    def undo(self, steps: int) -> None:
        self._check()
        if not 0 <= steps <= len(self._history):
            raise ValueError(f"{steps} steps cannot be undone: {len(self._history)} are held")
        if steps:
            del self._history[-steps:]
            self._candidates = []
            self._space = None

    def put(self, name: str, data: Json) -> None:
        self._check()
        if not name.isidentifier():
            raise UsageError(f"{name!r} is no variable name")
        if self._space is None:
            self._space = self._replay()
        entry = _Entry(name=name, data=protocol.encode(data))
        # As in a real session: in this state, and in every state one may go back to.
        self._puts.append(entry)
        self._space[name] = protocol.decode(entry.data)

    def close(self) -> None:
        self._closed = True
        self._space = None

    def _check(self) -> None:
        if self._closed:
            raise SandboxError("the session is closed")

    def _replay(self) -> dict[str, Any]:
        space: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
        for entry in self._puts:
            space[entry.name] = protocol.decode(entry.data)
        for entry in self._history:
            if entry.code is not None:
                self._step(space, entry.code, past=entry.answers)
        return space

    def _step(
        self,
        space: dict[str, Any],
        code: str,
        past: _Answers | None = None,
        made: dict[str, Answer] | None = None,
    ) -> tuple[Execution, _Answers]:
        started = time.monotonic()
        output = io.StringIO()
        calls: list[ToolCall] = []
        given: list[Answer] = []
        final: list[Any] = []
        remembered = iter(past) if past is not None else None

        def final_answer(answer: Any = None) -> None:
            if not final:
                final.append(answer)
            raise _FinalAnswer

        def say(*values: Any, sep: str | None = " ", end: str | None = "\n", **_: Any) -> None:
            print(*values, sep=sep, end=end, file=output)

        def stub(tool: SandboxTool) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                message = {
                    "args": [protocol.encode(item) for item in args],
                    "kwargs": {key: protocol.encode(item) for key, item in kwargs.items()},
                }
                arguments, problem = check(tool, message)
                key = f"{tool.name}{sorted(arguments.items())!r}"
                if remembered is not None:
                    answer = next(remembered)
                elif problem:
                    answer = Answer(error=problem)
                elif made is not None and key in made:
                    answer = made[key]
                else:
                    answer = invoke(tool, arguments)
                    if made is not None:
                        made[key] = answer
                given.append(answer)
                calls.append(ToolCall(tool.name, arguments, answer.record, answer.error, answer.seconds))
                if answer.error is not None:
                    raise ToolError(answer.error)
                return protocol.decode(protocol.encode(answer.value))

            return call

        space.update({tool.name: stub(tool) for tool in self._tools}, final_answer=final_answer, print=say)
        value, error, kind = None, None, None
        try:
            value = _execute(code, space)
        except _FinalAnswer:
            pass
        except (Exception, SystemExit) as problem:
            error = _describe(problem, code)
            kind = ErrorKind.TOOL if isinstance(problem, ToolError) else ErrorKind.EXCEPTION
            if isinstance(problem, MemoryError):
                kind = ErrorKind.MEMORY
        if final:
            value, error, kind = final[0], None, None
        logs = output.getvalue()
        limit = self._limits.output_chars
        if len(logs) > limit:
            logs = f"{logs[:limit]}\n[... {len(logs) - limit} characters cut]"
        execution = Execution(
            logs=logs,
            value=protocol.decode(protocol.encode(value)),
            is_final=bool(final),
            error=error,
            error_kind=kind,
            seconds=time.monotonic() - started,
            tool_calls=tuple(calls),
        )
        return execution, tuple(given)


def _execute(code: str, space: dict[str, Any]) -> Any:
    tree = ast.parse(code, "<code>")
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "<code>", "exec"), space)  # noqa: S102
        return None
    del tree.body[-1]
    exec(compile(tree, "<code>", "exec"), space)  # noqa: S102
    return eval(compile(ast.Expression(last.value), "<code>", "eval"), space)  # noqa: S307


def _describe(problem: BaseException, code: str) -> str:
    lines = []
    source = code.splitlines()
    step = problem.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<code>":
            lines.append(f"  line {step.tb_lineno}, in {step.tb_frame.f_code.co_name}")
            if 0 < step.tb_lineno <= len(source):
                lines.append(f"    {source[step.tb_lineno - 1].strip()}")
        step = step.tb_next
    if isinstance(problem, SyntaxError):
        lines = [f"  line {problem.lineno}, in <module>"]
        head = f"{type(problem).__name__}: {problem.msg}"
    else:
        words = str(problem)
        head = type(problem).__name__ + (f": {words}" if words else "")
    return "\n".join((["Traceback:"] if lines else []) + lines + [head])
