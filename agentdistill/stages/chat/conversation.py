"""The conversation: turns with one agent over one sandbox session, each an ordinary attempt of a RUN.

Guaranteed: a turn is an attempt by the loop that generate and evaluate use (stages/attempt.py), with the
turns before in its user turn (earlier.py has the text and why); it either becomes part of the conversation,
or leaves no trace in it: a turn that was stopped, or ended by broken machinery, takes the sandbox back to
before it, and the conversation goes on. `undo` takes the sandbox back too. `retry` is another sample of the
same task, so that one that went wrong and one that went right can be paired for training.

Not guaranteed: variables across a sandbox that died, or a conversation that was loaded; the prompt says so to
the model. One thread uses a conversation; `stop` is for another one.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agentdistill.agent.build import sandbox_tools
from agentdistill.agent.knowledge import Knowledge, RecallTool
from agentdistill.agent.tools import SearchTool
from agentdistill.clients.sandbox import open_sandbox, resolve
from agentdistill.clients.session import Session
from agentdistill.errors import AgentDistillError, InfrastructureError, RunDirectoryError, UsageError
from agentdistill.grading import Grader
from agentdistill.models.base import BaseModel
from agentdistill.runs import attempt_id
from agentdistill.stages.attempt import AttemptSettings, run_attempt
from agentdistill.stages.chat import record as records
from agentdistill.stages.chat.earlier import CHARACTERS, earlier
from agentdistill.stages.chat.events import Listener, Noticed, StepTaken, TurnBegan, TurnEnded, TurnFailed
from agentdistill.stages.chat.files import File, attached
from agentdistill.stages.chat.heard import (
    POLL_SECONDS,
    HeardKnowledge,
    HeardModel,
    HeardRetriever,
    Stop,
    TurnStopped,
)
from agentdistill.stages.chat.record import Record, Turn
from agentdistill.stages.chat.sandbox import ChatSandbox, Variable
from agentdistill.stages.export import ExportFormat, ExportSummary, export
from agentdistill.stages.spending import Meter, Price
from agentdistill.stages.thoughts import FirstThoughts
from agentdistill.types import Json, Retriever, SandboxTool, Step, Task, TaskKind, Trajectory


class Conversation:
    """`listener` is told what goes on (events.py). With `out` the turns are stored there; an `out` that holds
    a conversation is gone on with.

    Raises UsageError and RunDirectoryError where it is to go on with something else.
    """

    def __init__(
        self,
        model: BaseModel,
        settings: AttemptSettings,
        listener: Listener,
        *,
        out: Path | None = None,
        price: Price | None = None,
        files_from: Path | None = None,
        asked: Mapping[str, Json] | None = None,
    ) -> None:
        self.model = model
        self.price = price
        self.settings = replace(settings, first_thought="off", given_thoughts={})
        self.turns: list[Turn] = []
        self.meter = Meter(price)
        self._tell = listener
        self._asked = dict(asked or {})
        self._files_from = files_from or Path.cwd()
        self._record = Record(out, self._asked)
        self._sandbox = ChatSandbox(self._open_session, _all_tools(settings), listener)
        self._stop = Stop()
        self._idle = threading.Event()
        self._idle.set()
        self._steps = 0
        self._samples: dict[str, int] = {}
        if out is not None and (out / "run.json").exists():
            self.turns, self._record.next_number = records.load(out)

    # ------------------------------------------------------------------ turns

    def ask(self, text: str) -> Trajectory | None:
        """One turn; None if it was stopped or has failed, which the listener is told. UsageError if the text
        is none that can be asked."""
        if not text.strip():
            raise UsageError("there is no question")
        question, files = attached(text.strip(), self._files_from)
        number = self._record.next_number
        self._record.next_number += 1
        meta: dict[str, Json] = {"text": text} if files else {}
        before = earlier([(turn.trajectory, self._is_alive(turn)) for turn in self.turns])
        if before:
            meta["earlier"] = before
        task = Task(f"turn-{number}", question, "", TaskKind.QA, source="chat", meta=meta)
        return self._turn(task, 0, files)

    def retry(self) -> Trajectory | None:
        """The last turn once more, as another sample; the old one is undone."""
        last = self._last()
        if self.settings.sampling.temperature == 0:
            raise UsageError(
                "at temperature 0 a retry says the same again", "start chat with --temperature 0.4"
            )
        task = last.trajectory.task
        _, files = attached(str(task.meta.get("text", "")), self._files_from)
        self.undo()
        return self._turn(task, self._samples.get(task.id, last.trajectory.sample) + 1, files)

    def undo(self) -> Turn:
        """Take the last turn back, and with it what its code did in the sandbox. UsageError if there is none,
        or the sandbox's state before it is not held any more."""
        last = self._last()
        if last.states and self._is_alive(last):
            self._sandbox.undo(last.states)
        self.turns.pop()
        self._note()
        return last

    def stop(self) -> None:
        """Stop the turn that goes on, from another thread: its code, its model's call, its waiting."""
        if self._idle.is_set():
            return
        self._stop.ask()
        threading.Thread(target=self._end_code, name="chat-stop", daemon=True).start()

    def right(self, answer: str | None = None) -> Turn:
        """Say that the last turn's answer is right, or what would have been: its gold answer, when the
        conversation is saved."""
        last = self._last()
        gold = last.trajectory.answer if answer is None else answer
        if not gold or not gold.strip():
            raise UsageError("the last turn has no answer", "/right ANSWER says what it should have been")
        self.turns[-1] = replace(last, right=gold.strip())
        self._note()
        return self.turns[-1]

    # ------------------------------------------------------------------ what shapes the turns to come

    def use(
        self,
        *,
        model: BaseModel | None = None,
        price: Price | None = None,
        candidates: int | None = None,
    ) -> None:
        """Go on with another model (and its price), or another number of candidates. UsageError."""
        if candidates is not None:
            self.settings = replace(self.settings, candidates=candidates)
        if model is not None:
            self.model, self.price = model, price

    def use_retriever(self, retriever: Retriever | None) -> None:
        """Go on with another retriever, or without one."""
        self.settings = replace(self.settings, retriever=retriever)

    def use_knowledge(self, knowledge: Knowledge | None) -> None:
        """Go on with another knowledge base, or without one."""
        self.settings = replace(self.settings, knowledge=knowledge)

    @property
    def approve(self) -> bool:
        """Whether the listener is asked before code runs."""
        return self._sandbox.approve

    @approve.setter
    def approve(self, value: bool) -> None:
        self._sandbox.approve = value

    # ------------------------------------------------------------------ what there is

    @property
    def folder(self) -> Path | None:
        """Where the turns are stored."""
        return self._record.folder

    @property
    def busy(self) -> bool:
        """Whether a turn goes on."""
        return not self._idle.is_set()

    @property
    def sandbox_state(self) -> str:
        """The sandbox in one word, for a status line."""
        if self._sandbox.is_open:
            return "ready"
        return "lost" if self._sandbox.generation else "closed"

    def tools(self) -> list[tuple[str, str]]:
        """Name and description of the tools of a turn."""
        return [(tool.name, tool.description) for tool in self.settings.attempt_tools()]

    def variables(self) -> list[Variable]:
        """The sandbox's variables. SandboxError or UsageError."""
        return self._sandbox.variables()

    def warm(self) -> None:
        """Open the sandbox and hash the model now, not in the first turn. InfrastructureError."""
        self._sandbox.warm()
        if self.folder is not None:
            self.model.fingerprint()

    # ------------------------------------------------------------------ files

    def save(self, folder: Path) -> list[Path]:
        """Write the conversation as it is now as new RUNs (record.py); their folders."""
        return records.save(self.turns, folder, self._asked)

    def load(self, folder: Path) -> list[Trajectory]:
        """Go on with a stored conversation, and in its folder. Variables are not stored."""
        turns, number = records.load(folder)
        self._record.close()
        self._record = Record(folder, self._asked)
        self._record.next_number = number
        self.turns, self._samples = turns, {}
        self._sandbox.close()
        return [turn.trajectory for turn in turns]

    def export(self, format: str, out: Path) -> ExportSummary:
        """Write the conversation in a format of `agentdistill export`."""
        if not self.turns:
            raise UsageError("there is nothing to export yet")
        if format not in tuple(ExportFormat):
            raise UsageError(f"format {format!r} is not known: give one of {', '.join(ExportFormat)}")
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / (self.folder.name if self.folder is not None else "chat")
            records.save_as_one(self.turns, run)
            return export(run, out, format)

    def close(self) -> None:
        """End the sandbox session. The model stays open."""
        self._stop.ask()
        self._sandbox.close()
        self._record.close()

    # ------------------------------------------------------------------ one turn

    def _turn(self, task: Task, sample: int, files: Sequence[File]) -> Trajectory | None:
        self._stop = stop = Stop()
        self._steps = 0
        self.meter = Meter(self.price)
        self._idle.clear()
        try:
            self._tell(TurnBegan(len(self.turns) + 1, task.question))
            turn = self._attempt(task, sample, files, stop)
        except TurnStopped:
            self._sandbox.take_back()
            self._tell(TurnFailed("stopped: it is as if you had not asked", stopped=True))
            return None
        except AgentDistillError as error:
            self._sandbox.take_back()
            self._tell(TurnFailed(str(error)))
            return None
        except (
            BaseException
        ):  # Ctrl-C in our own thread, or a bug: the session may be in the middle of a step
            self._sandbox.close()
            raise
        finally:
            self._idle.set()
        self.turns.append(turn)
        self._note()
        self._tell(TurnEnded(turn.trajectory))
        return turn.trajectory

    def _attempt(self, task: Task, sample: int, files: Sequence[File], stop: Stop) -> Turn:
        shape = self._shape()
        self._record.open(shape)
        while self._record.known(key := attempt_id(task, sample, shape)):
            sample += 1
        self._samples[task.id] = sample
        if not self._sandbox.is_open and self._sandbox.generation and self.turns:
            self._tell(Noticed("a new sandbox: the variables of the turns before are gone"))
        room = self._sandbox.begin(stop)
        settings = self._heard_settings()
        try:
            for file in files:
                self._sandbox.put_file(file.name, file.data)
            with Grader() as grader:
                trajectory = run_attempt(
                    task,
                    sample,
                    key,
                    HeardModel(self.model, stop, self._tell),
                    settings,
                    FirstThoughts(settings, grader),
                    room.open,
                    self.meter,
                    self._step_taken,
                )
            stop.check()
        except InfrastructureError as error:
            self._record.failed(shape, key, task, error, self.meter.usage())
            raise
        turn = Turn(trajectory, shape, states=self._sandbox.accept(), generation=self._sandbox.generation)
        try:
            return self._record.append(turn)
        except RunDirectoryError as error:
            self._tell(Noticed(f"this turn is not stored: {error}"))
            return turn

    def _step_taken(self, step: Step) -> None:
        self._steps += 1
        self._tell(StepTaken(self._steps, step))

    def _heard_settings(self) -> AttemptSettings:
        settings = self.settings
        if settings.retriever is not None:
            settings = replace(settings, retriever=HeardRetriever(settings.retriever, self._tell))
        if settings.knowledge is not None:
            base = HeardKnowledge(settings.knowledge.base, self._tell)
            settings = replace(settings, knowledge=replace(settings.knowledge, base=base))
        return settings

    def _shape(self) -> dict[str, Json]:
        """What shapes a turn. Without a record nobody asks, and the model's file is not hashed for it."""
        model = self.model.fingerprint() if self.folder is not None else {"model": self.model.model_id}
        return {"model": model, **self.settings.shape(), "earlier": CHARACTERS}

    def _open_session(self, tools: Sequence[SandboxTool]) -> Session:
        return open_sandbox(resolve(self.settings.sandbox), tools=tools, limits=self.settings.limits)

    def _end_code(self) -> None:
        """Again and again: a code may have been about to start."""
        stop = self._stop
        while stop is self._stop and not self._idle.wait(POLL_SECONDS):
            self._sandbox.end_code()

    def _is_alive(self, turn: Turn) -> bool:
        return turn.generation == self._sandbox.generation

    def _last(self) -> Turn:
        if not self.turns:
            raise UsageError("there is no turn yet")
        return self.turns[-1]

    def _note(self) -> None:
        try:
            self._record.note(self.turns)
        except RunDirectoryError as error:
            self._tell(Noticed(str(error)))


def _all_tools(settings: AttemptSettings) -> list[SandboxTool]:
    """All that a turn may ever have: a retriever or a knowledge base may be given later."""
    return sandbox_tools([*settings.tools, SearchTool(), RecallTool()])
