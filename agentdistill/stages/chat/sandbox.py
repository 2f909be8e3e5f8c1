"""One sandbox session over all turns of a conversation.

Guaranteed: variables and files live on from turn to turn; a turn that was accepted is one state for `undo`, a
turn that is taken back leaves none; code that is stopped dies, and the session goes on from its parked twin;
with `approve` no code of the model runs that was not allowed. A session that is lost is a SandboxError once:
the next turn gets a new one, without the old one's variables (`generation` counts them).

Tools are fixed when a session opens, so it has stubs of all it may be asked for; one that the turn does not
have is an error for the code that calls it.

Not guaranteed: that there is a state to go back to for more than the last 15 turns (clients/session.py).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from agentdistill.clients.session import Session
from agentdistill.errors import SandboxError, UsageError
from agentdistill.stages.chat.events import ApprovalAsked, CodeRuns, Listener
from agentdistill.stages.chat.heard import POLL_SECONDS, Stop
from agentdistill.types import Enough, Execution, Json, Sandbox, SandboxTool

OpenChatSession = Callable[[Sequence[SandboxTool]], Session]
FILE_BYTES = 4 << 20
"""Of a file that is put into the sandbox: with base64 it fits into a frame of the session's protocol."""
REFUSED = 'raise PermissionError("the user did not allow this code to run")'
"""What runs in place of code that was not allowed."""
MAX_VARIABLES = 200

_VARIABLES = """\
def _listed():
    import reprlib, types
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 100
    hidden = (types.ModuleType, types.BuiltinFunctionType)
    found = []
    for name, value in list(globals().items()):
        if name.startswith("_") or name in TOOLS or isinstance(value, hidden):
            continue
        try:
            text = shown.repr(value)
        except Exception as error:
            text = f"<{type(error).__name__} in its repr>"
        found.append([name, type(value).__name__, text[:200]])
    return found[-MOST:]
_listed()
"""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the session: the name of its type, and its repr, cut."""

    name: str
    type: str
    text: str


class ChatSandbox:
    """`tools` are stubs of all tools that any turn may have. Used by one thread but for `end_code`."""

    def __init__(
        self, open_session: OpenChatSession, tools: Sequence[SandboxTool], listener: Listener
    ) -> None:
        self.approve = False
        self.generation = 0
        self._open = open_session
        self._stubs = [self._stub(tool) for tool in tools]
        self._tell = listener
        self._session: Session | None = None
        self._tools: dict[str, SandboxTool] = {}
        self._states = 0  # of the turn that goes on

    @property
    def is_open(self) -> bool:
        return self._session is not None

    def warm(self) -> None:
        """Open the session now if it is not. SandboxError."""
        with self._guarded():
            pass

    def begin(self, stop: Stop) -> _Turn:
        """A turn begins: the Sandbox it runs in."""
        self._states = 0
        return _Turn(self, stop)

    def accept(self) -> int:
        """The turn is over: how many states it is to `undo`, 0 or 1."""
        states = self._states
        if self._session is not None and states > 1:
            with self._guarded() as session:
                session.merge(states)
        self._states = 0
        return min(1, states)

    def take_back(self) -> None:
        """The turn is not to have been: go back to before it, or give the session up."""
        states, self._states = self._states, 0
        if states and self._session is not None:
            try:
                with self._guarded() as session:
                    session.undo(states)
            except (SandboxError, ValueError):
                self._give_up()

    def undo(self, states: int) -> None:
        """Go back over accepted turns. UsageError if that state is not held any more."""
        try:
            with self._guarded() as session:
                session.undo(states)
        except ValueError:
            raise UsageError("the sandbox's state before that turn is not held any more") from None

    def put_file(self, name: str, data: bytes) -> None:
        """Write a file into the session's folder, as part of the turn. UsageError if it does not fit."""
        if len(data) > FILE_BYTES:
            raise UsageError(
                f"{name} has {len(data):,} bytes, the sandbox takes files of up to {FILE_BYTES:,}",
                "cut it, or give the part that matters",
            )
        text = base64.b64encode(data).decode()
        write = f"with open({name!r}, 'wb') as _file: _file.write(_base64.b64decode('{text}'))"
        code = f"import base64 as _base64\n{write}\ndel _base64, _file"
        with self._guarded() as session:
            [done] = session.run([code])
            self._states += 1
        if done.error is not None:
            last = done.error.strip().splitlines()[-1]
            raise UsageError(f"{name} cannot be written into the sandbox: {last}")

    def variables(self) -> list[Variable]:
        """What is defined. The session is what it was; what they say of themselves is the code's word."""
        names = json.dumps(["final_answer", *(tool.name for tool in self._stubs)])
        code = _VARIABLES.replace("TOOLS", names).replace("MOST", str(MAX_VARIABLES))
        with self._guarded() as session:
            [found] = session.run([code])
            session.undo(1)
        if found.error is not None or not isinstance(found.value, list):
            raise UsageError(f"the variables cannot be listed: {found.error or 'no list came'}")
        return [Variable(*map(str, row)) for row in found.value if isinstance(row, list) and len(row) == 3]

    def end_code(self) -> None:
        """End the code that runs, from another thread."""
        session = self._session
        if session is not None:
            session.stop()

    def close(self) -> None:
        if self._session is not None:
            self._give_up()

    def _give_up(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            self.generation += 1
            session.close()

    @contextmanager
    def _guarded(self) -> Iterator[Session]:
        """The session, opened if need be; one that is lost meanwhile is given up."""
        if self._session is None:
            self._session = self._open(self._stubs)
        try:
            yield self._session
        except SandboxError:
            self._give_up()
            raise

    def _stub(self, tool: SandboxTool) -> SandboxTool:
        def call(**arguments: Any) -> Any:
            given = self._tools.get(tool.name)
            if given is None:
                raise ValueError(f"there is no {tool.name} here")
            return given.call(**arguments)

        return replace(tool, call=call)


class _Turn:
    """The Sandbox of one turn. Closing it leaves the session open."""

    def __init__(self, room: ChatSandbox, stop: Stop) -> None:
        self._room = room
        self._stop = stop

    def open(self, tools: Sequence[SandboxTool]) -> Sandbox:
        self._room._tools = {tool.name: tool for tool in tools}
        return self

    def run(
        self, codes: Sequence[str] | Iterator[str | None], enough: Enough | None = None
    ) -> list[Execution]:
        self._stop.check()
        if not isinstance(codes, Sequence):
            return self._race(codes, enough)
        allowed = [self._allowed(code) for code in codes]
        with self._room._guarded() as session:
            results = session.run(allowed, enough)
            self._room._states += len(codes) == 1
        self._stop.check()
        return results

    def keep(self, index: int) -> None:
        self._stop.check()
        with self._room._guarded() as session:
            session.keep(index)
            self._room._states += 1

    def undo(self, steps: int) -> None:
        raise NotImplementedError("an attempt goes on, never back")

    def put(self, name: str, data: Json) -> None:
        with self._room._guarded() as session:
            session.put(name, data)

    def close(self) -> None:
        self._room._tools = {}

    def _race(self, codes: Iterator[str | None], enough: Enough | None) -> list[Execution]:
        def watched() -> Iterator[str | None]:
            for code in codes:
                if code is None:
                    yield None
                else:
                    yield from self._asked(code)

        with self._room._guarded() as session:
            results = session.run(
                watched(), lambda found: self._stop.asked or (enough is not None and enough(found))
            )
        self._stop.check()
        return results

    def _asked(self, code: str) -> Iterator[str | None]:
        """None while the person has not answered, then the code to run; nothing if the turn is stopped."""
        if self._room.approve:
            reply: Future[bool] = Future()
            self._room._tell(ApprovalAsked(code, reply))
            while not wait([reply], POLL_SECONDS).done:
                if self._stop.asked:
                    return
                yield None
            if not reply.result():
                yield REFUSED
                return
        self._room._tell(CodeRuns(code))
        yield code

    def _allowed(self, code: str) -> str:
        """The code to run. TurnStopped if the turn is stopped before that is known."""
        answer = [allowed for allowed in self._asked(code) if allowed is not None]
        self._stop.check()
        return answer[0]
