"""A sandbox session over one stream: the client's half, shared by every backend.

The other end is the jail's supervisor. It forks, kills and relays; everything that takes a decision is here:
deadlines, which interpreter is the session, which are candidates, which are parked twins, what a tool call
gets for an answer. Only the thread inside `run` reads the stream; tools run in threads of their own.

Guaranteed: `run` returns within its deadline (plus the kill, and the time that tools take) whatever the code
does; a tool call is answered by us and to the interpreter that asked; after a failed step the session is
what it was before it, unless an error text says otherwise. Not guaranteed: that two runs see equal timing.
A session may be used from any thread, by one at a time; `stop` is for another one.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from agentdistill.clients import protocol
from agentdistill.clients.link import Link, Stream
from agentdistill.clients.protocol import ProtocolError
from agentdistill.clients.steps import Step
from agentdistill.clients.tool_calls import MAX_CALLS, Answer, Call, Desk
from agentdistill.errors import SandboxError, UsageError
from agentdistill.types import CANCELLED, Enough, ErrorKind, Execution, Json, Limits, SandboxTool

MAX_TWINS = 16
NO_TWIN = 0  # in the list of parked states: this one could not be kept
NO_FORK = 0  # in the list of candidates: this one has none, or it is killed
START_SECONDS = 30.0
FORK_SECONDS = 10.0
WAKE_SECONDS = 2.0  # for all parked states together: code can make them sleep for ever
KILL_SECONDS = 5.0
TOOL_POLL = 0.02  # seconds; how soon a clock that a tool's answer has restarted is looked at
_NO_ROOM = Execution(
    error="OSError: no room for copies of the session's folder: delete files first",
    error_kind=ErrorKind.EXCEPTION,
)


class Session:
    """A Sandbox (agentdistill.types) over the stream to a supervisor."""

    def __init__(self, stream: Stream, tools: Sequence[SandboxTool], limits: Limits) -> None:
        self._desk = Desk(tools)
        self._limits = limits
        self._link = Link(stream, self._event, self._hear)
        self._clock = threading.Lock()
        self._numbers = 0
        self._steps: dict[int, Step] = {}  # by interpreter
        self._ready: set[int] = set()
        self._dead: dict[int, dict[str, Json]] = {}
        self._condemned: set[int] = set()  # their end has been ordered: no word of theirs counts any more
        self._forked: dict[int, dict[str, Json]] = {}
        self._hello: dict[str, Json] | None = None
        self._first = 0  # never runs code: the state no failure can take away
        self._live = 0
        self._parked: list[int] = []  # the states after each step, newest last; entries may repeat
        self._parking: int | None = None  # the order for a twin that is not answered yet
        self._dropped = 0  # how many of the oldest of them are gone
        self._candidates: list[int] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------ the Sandbox protocol

    def run(
        self, codes: Sequence[str] | Iterator[str | None], enough: Enough | None = None
    ) -> list[Execution]:
        """Run one code in the session, or several each in a fork of it. See types.Sandbox.

        While an iterator is waited for, nothing is heard: one that takes long had better give None meanwhile.
        """
        if isinstance(codes, str) or not codes:
            raise UsageError("run takes a list of one or more codes")
        if not isinstance(codes, Sequence) or len(codes) > 1:
            for tool in self._desk.tools.values():
                if not tool.repeatable:
                    raise UsageError(f"tool {tool.name!r} is not repeatable: no step with several candidates")
        if not isinstance(codes, Sequence):
            self._begin()
            return self._race(codes, enough)
        if len(codes) == 1:
            return [self._single(codes[0])]
        self._begin()
        ids = self._fork_candidates(len(codes))
        if not ids:
            self._candidates = [NO_FORK for _ in codes]
            return [_NO_ROOM for _ in codes]
        self._candidates = ids
        return self._execute([Step(code, node) for code, node in zip(codes, ids, strict=True)])

    def keep(self, index: int) -> None:
        """Make candidate `index` of the last run the session. One that died, was cancelled or could not be
        forked keeps the old state."""
        self._settle()
        if not 0 <= index < len(self._candidates):
            raise ValueError(f"no candidate {index} to keep")
        node = self._candidates.pop(index)
        if node == NO_FORK or node in self._dead:
            self._drop_candidates()
            self._push(self._parked[-1] if self._parked else self._first)
            return
        self._drop([self._live])
        self._live = node
        self._drop_candidates()
        self._park()

    def undo(self, steps: int) -> None:
        """Go back `steps` steps. ValueError if fewer were taken or the state is no longer held."""
        self._settle()
        held = len(self._parked) - (1 if self._dropped else 0)
        if not 0 <= steps <= held:
            raise ValueError(f"{steps} steps cannot be undone: {held} are held")
        if steps == 0:
            return
        self._drop_candidates()
        gone, self._parked = self._parked[-steps:], self._parked[:-steps]
        self._drop([self._live, *(node for node in set(gone) if node not in (self._first, *self._parked))])
        self._link.send(0, {"op": "sweep"})
        self._revive()

    def merge(self, steps: int) -> None:
        """Make the last steps one, as far as `undo` goes: the states between them are given up."""
        self._settle()
        between = self._parked[-steps:-1]
        if steps < 2 or not between:
            return
        self._parked[-steps:-1] = []
        self._drop([node for node in set(between) if node not in (self._first, NO_TWIN, *self._parked)])

    def stop(self) -> None:
        """End the code that is running, from any thread: for `run` it has died.

        To be called again while `run` has not returned: a code may have been about to start.
        """
        running = [step.node for step in list(self._steps.values()) if step.running and step.result is None]
        with suppress(SandboxError):  # whoever is in `run` is told
            self._kill(running)

    def put(self, name: str, data: Json) -> None:
        """Set a variable from plain data, in the session and in every state it may go back to."""
        if not name.isidentifier():
            raise UsageError(f"{name!r} is no variable name")
        self._begin()
        message = {"op": "put", "name": name, "value": protocol.encode(data)}
        for node in dict.fromkeys([self._live, *filter(None, self._parked), self._first]):
            self._link.send(node, message)

    @property
    def facts(self) -> Mapping[str, Json]:
        """What the jail says of itself: `jail`, `python` (version), `cgroup` (v1, v2, or None)."""
        return dict(self._hello or {})

    def close(self) -> None:
        """Kill everything. May be called again."""
        self._desk.close()
        self._link.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ states

    def _open(self) -> None:
        self._link.wait(lambda: self._hello is not None, START_SECONDS, "the jail did not start")
        hello = self._hello or {}
        if hello.get("protocol") != protocol.PROTOCOL:
            raise SandboxError("the jail speaks another protocol version", "reinstall agentdistill")
        self._first = hello["first"]
        tools = [
            {"name": tool.name, "parameters": list(tool.parameters)} for tool in self._desk.tools.values()
        ]
        self._link.send(
            self._first, {"op": "setup", "tools": tools, "output_chars": self._limits.output_chars}
        )
        tag = self._order("revive", self._first, 1)  # already now: it forks as soon as it can
        self._link.wait(
            lambda: self._first in self._ready or self._first in self._dead,
            START_SECONDS,
            "the interpreter did not start",
        )
        if self._first in self._dead:
            words = str(self._dead[self._first].get("logs", "")).strip()
            raise self._link.lose(f"the interpreter did not start: {words[-300:] or 'it says nothing'}")
        ids = self._forks(tag)["ids"]
        if not (ids and self._await_ready(ids[0], FORK_SECONDS)):
            raise self._link.lose("the first interpreter does not fork")
        self._live = ids[0]

    def _begin(self) -> None:
        """Before forks: drop what was not kept, hear of deaths since, have a live interpreter."""
        self._settle()
        self._drop_candidates()
        self._link.pump(0)
        if self._live in self._dead:
            self._revive()

    def _revive(self) -> str:
        """A new live interpreter from the newest state that can fork; a note if that is not the last."""
        until = time.monotonic() + WAKE_SECONDS
        for index in range(len(self._parked) - 1, -2, -1):
            node = self._parked[index] if index >= 0 else self._first
            patience = until - time.monotonic() if index >= 0 else FORK_SECONDS
            if node == NO_TWIN or node in self._dead or patience <= 0:
                continue
            ids = self._fork("revive", node, 1)
            if ids and self._await_ready(ids[0], patience):
                self._live = ids[0]
                lost = len(self._parked) - 1 - index
                if lost and self._parked:
                    for place in range(index + 1, len(self._parked)):
                        self._parked[place] = node
                    if index < 0 or self._dropped:
                        return "\nThe session's state was lost: it starts again from the beginning."
                    return f"\nThe session's state was lost: it is what it was {lost} steps earlier."
                return ""
        raise self._link.lose("no interpreter of the session answers any more")

    def _await_ready(self, node: int, seconds: float) -> bool:
        try:
            self._link.wait(lambda: node in self._ready or node in self._dead, seconds, "")
        except TimeoutError:
            self._kill([node])
            return False
        return node not in self._dead

    def _park(self) -> None:
        """Order a twin of the live interpreter. The answer is taken up by the next call, not waited for."""
        old = []
        while len(self._parked) >= MAX_TWINS:  # here, not when it has answered: then a step may be waiting
            old += self._forget_oldest()
        newest_first = dict.fromkeys(reversed(self._parked))
        room = [node for node in reversed(newest_first) if node not in (self._first, NO_TWIN)]
        self._parking = self._order("park", self._live, 1, drop=old, room=room)

    def _settle(self) -> None:
        """Take up the answer to the last `_park`."""
        self._link.check()
        if self._parking is None:
            return
        answer = self._forks(self._parking)
        self._parking = None
        for node in answer["dropped"]:
            while node in self._parked:
                self._parked.pop(0)
                self._dropped += 1
        self._push(answer["ids"][0] if answer["ids"] else NO_TWIN)

    def _push(self, node: int) -> None:
        """The state after this step; one that repeats an older one may be the 17th in the list."""
        self._parked.append(node)
        if len(self._parked) > MAX_TWINS:
            self._drop(self._forget_oldest())

    def _forget_oldest(self) -> list[int]:
        """The interpreter that is of no use any more, if that is one."""
        node = self._parked.pop(0)
        self._dropped += 1
        return [] if node in (self._first, NO_TWIN, *self._parked) else [node]

    def _drop_candidates(self) -> None:
        if self._candidates:
            self._drop([node for node in self._candidates if node != NO_FORK])
            self._candidates = []
            self._link.send(0, {"op": "sweep"})

    def _fork(self, op: str, node: int, count: int) -> list[int]:
        """New forks of an interpreter; none if it is gone or there is no room for copies of its folder."""
        ids: list[int] = self._forks(self._order(op, node, count))["ids"]
        return ids

    def _fork_candidates(self, count: int) -> list[int]:
        """Forks of the session; none if there is no room for copies of its folder."""
        ids = self._fork("try", self._live, count)
        if not ids and self._live in self._dead:  # since just now
            self._revive()
            ids = self._fork("try", self._live, count)
        return ids

    def _order(self, op: str, node: int, count: int, **more: Json) -> int:
        """Order forks: "revive" one, "try" candidates, or "park": drop some, sweep up after the step and fork
        a twin. If there is no room for a copy of its folder, those in `room` go too, the first first."""
        self._numbers += 1
        self._link.send(0, {"op": op, "from": node, "count": count, "tag": self._numbers, "room": [], **more})
        return self._numbers

    def _forks(self, tag: int) -> dict[str, Json]:
        """The supervisor's answer to an order: the forks' numbers (`ids`), and what it dropped for them."""
        self._link.wait(lambda: tag in self._forked, FORK_SECONDS, "the supervisor does not answer")
        return self._forked.pop(tag)

    def _drop(self, nodes: Sequence[int]) -> None:
        """Kill what is of no interest any more."""
        self._link.send(0, {"op": "drop", "ids": list(nodes)})

    def _kill(self, nodes: Sequence[int]) -> None:
        ids = [node for node in nodes if node not in self._condemned]
        if ids:
            self._condemned.update(ids)
            self._link.send(0, {"op": "kill", "ids": ids})

    # ------------------------------------------------------------------ steps

    def _single(self, code: str) -> Execution:
        """The step is sent before we hear what has happened since the last one: nearly always nothing."""
        self._link.check()
        self._drop_candidates()
        if self._live in self._dead:
            self._settle()
            self._revive()
        step = Step(code, self._live)
        [result] = self._execute([step])
        if step.missed:
            self._revive()
            [result] = self._execute([Step(code, self._live)])
        if self._live not in self._dead:
            self._park()
            return result
        self._link.send(0, {"op": "sweep"})
        note = self._revive()
        self._push(self._parked[-1] if self._parked else self._first)
        if not note:
            return result
        return replace(result, error=(result.error or "") + note)

    def _execute(self, steps: list[Step]) -> list[Execution]:
        """Run steps side by side, as many as there are cores, until every one has a result."""
        self._steps = {step.node: step for step in steps}
        self._desk.begin(len(steps))
        try:
            while any(step.result is None for step in steps):
                self._round(steps)
        finally:
            self._steps = {}
        return [step.result for step in steps if step.result is not None]

    def _race(self, codes: Iterator[str | None], enough: Enough | None) -> list[Execution]:
        """Run codes as they come until those that have ended will do; cancel the others."""
        steps: list[Step] = []
        self._steps = {}
        self._desk.begin(2)  # or more, for all we know

        def over() -> bool:
            ended = {number: step.result for number, step in enumerate(steps) if step.result is not None}
            return enough is not None and enough(ended)

        try:
            for code in codes:
                if code is not None:
                    steps.append(Step(code, NO_FORK))
                self._round(steps, 0)
                if over():
                    break
            while any(step.result is None for step in steps) and not over():
                self._round(steps)
        finally:
            self._steps = {}
            self._drop([step.node for step in steps if step.result is None and step.node != NO_FORK])
            self._candidates = [NO_FORK if step.result is None else step.node for step in steps]
        return [step.result or CANCELLED for step in steps]

    def _round(self, steps: list[Step], seconds: float | None = None) -> None:
        """Start what there is a core for, hear what comes within the time, end what is overdue."""
        running = [step for step in steps if step.running and step.result is None]
        for step in steps:
            if len(running) >= max(1, self._limits.cores):
                break
            if not step.running and step.result is None:
                self._start(step)
                running += [step] if step.result is None else []
        if self._parking is not None:  # the supervisor does that first, and no step's clock ticks yet
            self._settle()
            for step in running:
                step.restart()
            return  # a result may have come with the answer
        if running:
            self._link.pump(self._patience(running) if seconds is None else seconds)
        for step in running:
            self._enforce(step)

    def _start(self, step: Step) -> None:
        if step.node == NO_FORK:
            forks = self._fork_candidates(1)
            if not forks:
                step.result = _NO_ROOM
                return
            [step.node] = forks
            self._steps[step.node] = step
        step.name = secrets.token_hex(8)
        step.started = step.ticking = time.monotonic()
        step.left = self._limits.seconds
        step.running = True
        if step.node in self._dead:
            step.bury(self._dead[step.node], self._limits)
            return
        step.place = self._link.send(step.node, {"op": "run", "run": step.name, "code": step.code})

    def _patience(self, running: list[Step]) -> float:
        now = time.monotonic()
        until = [max(0.0, step.left - (now - step.ticking)) for step in running if step.ticking is not None]
        if any(step.ticking is None for step in running):
            until.append(TOOL_POLL)
        return min(until, default=KILL_SECONDS)

    def _enforce(self, step: Step) -> None:
        if step.result is not None:
            return
        if step.ticking is None:
            self._give_up(step)
            return
        if time.monotonic() - step.ticking < step.left:
            return
        if step.timed_out:  # killed KILL_SECONDS ago, and no word of its death
            raise self._link.lose("the supervisor does not kill")
        step.timed_out = True
        step.left, step.ticking = KILL_SECONDS, time.monotonic()
        self._kill([step.node])

    # ------------------------------------------------------------------ tools

    def _call(self, step: Step | None, node: int, message: dict[str, Json]) -> None:
        number = message.get("id")
        if not isinstance(number, int):
            raise ProtocolError("a call without a number")
        if step is None or step.result is not None or message.get("run") != step.name:
            if step is not None:
                step.late += 1
                if step.late > MAX_CALLS:
                    raise ProtocolError("a flood of calls")
            self._link.send(node, {"op": "answer", "id": number, "error": "the step is over"})
            return
        call = self._desk.call(message, len(step.calls))
        step.calls.append(call)
        with self._clock:
            step.pending += 1
            if step.ticking is not None:
                step.left -= time.monotonic() - step.ticking
                step.ticking = None

        def answered(done: Future[Answer]) -> None:
            if not done.cancelled():
                self._answer(step, call, number, done.result())

        step.waiting[number] = call
        call.answer.add_done_callback(answered)

    def _give_up(self, step: Step) -> None:
        """Tools that have not answered in their time: the code is told, and goes on."""
        now = time.monotonic()
        for number, call in list(step.waiting.items()):
            if now - call.started > call.seconds:
                text = f"TimeoutError: {call.name} did not answer within {call.seconds:g} s"
                self._answer(step, call, number, Answer(error=text))

    def _answer(self, step: Step, call: Call, number: int, answer: Answer) -> None:
        """Send a tool's answer; runs in the tool's thread, or in ours if there was nothing to wait for."""
        with self._clock:
            if call.replied:
                return
            call.replied = True
            step.waiting.pop(number, None)
        message: dict[str, Json] = {"op": "answer", "id": number}
        if answer.error is not None:
            message["error"] = answer.error
        else:
            message["value"] = protocol.encode(answer.value)
        try:
            self._link.send(step.node, message)
        except SandboxError:
            return  # the session is gone: whoever is in `run` is told
        with self._clock:
            step.pending -= 1
            if step.pending == 0:
                step.ticking = time.monotonic()

    # ------------------------------------------------------------------ what comes in

    def _event(self, message: dict[str, Json]) -> None:
        """The supervisor's word; it runs no model code."""
        kind = message.get("op")
        if kind == "hello":
            self._hello = message
        elif kind == "ready":
            self._ready.add(message["id"])
        elif kind == "forked":
            self._forked[message["tag"]] = message
        elif kind == "died":
            node = message["id"]
            self._ready.discard(node)
            self._condemned.discard(node)
            self._dead[node] = message
            step = self._steps.get(node)
            if step is not None and step.running and step.result is None:
                step.bury(message, self._limits)

    def _hear(self, node: int, body: bytes) -> None:
        """An interpreter's word: hostile. What makes no sense costs it its life, nothing else."""
        if node in self._condemned:
            return
        step = self._steps.get(node)
        if step is not None and not step.running:
            step = None
        try:
            message = protocol.parse(body)
            kind = message.get("op")
            if kind == "result":
                if step is not None and step.result is None and message.get("run") == step.name:
                    step.finish(message, self._limits)
            elif kind == "call":
                self._call(step, node, message)
            else:
                raise ProtocolError("an unknown message")
        except ProtocolError:
            self._kill([node])
