"""The chat on a terminal: a screen over stages/chat.

Guaranteed: the screen answers keys whatever the model, its code or a download does: they work in one other
thread, and what they say is drawn ten times a second at most. Ctrl-C stops the turn, never the program. Text
that was typed is not lost when its turn is stopped, fails or cannot begin. Nothing that a model, its code or
a corpus wrote reaches the terminal as a control code (visible.py).

Not guaranteed: that leaving is immediate while a model is being opened.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from agentdistill.errors import AgentDistillError, UsageError
from agentdistill.stages.chat import events as told
from agentdistill.tui.chat_approval import Approval
from agentdistill.tui.chat_history import History
from agentdistill.tui.chat_input import HistorySearch, Prompt
from agentdistill.tui.chat_parts import Parts
from agentdistill.tui.chat_run import Commands, short
from agentdistill.tui.chat_status import Figures, Status
from agentdistill.tui.chat_step import TurnView, recorded, replay
from agentdistill.types import Trajectory
from agentdistill.visible import visible, visible_line

if TYPE_CHECKING:  # it takes seconds to import, which the other thread does
    from agentdistill.stages.chat.conversation import Conversation

TICK = 0.1
"""Seconds between two drawings of what is on its way."""

DRAWN_SECONDS = 2.0
"""What the opening waits at most for the first drawing."""

T = TypeVar("T")


class Call(Message):
    """Something to do in the screen's thread, sent from another one."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.work = work


class ChatApp(App[None]):
    """One conversation on a screen. `error` is what kept it from being opened."""

    TITLE = "agentdistill chat"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #heading { height: 1; background: $panel; padding: 0 1; text-wrap: nowrap; text-style: bold; }
    #talk { padding: 1 1 0 1; scrollbar-size-vertical: 1; }
    .notice { color: $text-muted; margin: 0 0 1 0; }
    .trouble { color: $text-warning; margin: 0 0 1 0; }
    .card { border: none; padding: 0; background: transparent; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "stop", "Stop", priority=True),
        Binding("ctrl+q", "leave", "Leave", priority=True),
        Binding("ctrl+r", "search", "History"),
        Binding("ctrl+t", "theme", "Theme"),
        Binding("escape", "type", "Type"),
        Binding("pageup", "scroll_talk(-1)", priority=True, show=False),
        Binding("pagedown", "scroll_talk(1)", priority=True, show=False),
    ]

    def __init__(
        self, parts: Parts, out: Path | None, *, approve: bool = False, history: History | None = None
    ) -> None:
        super().__init__()
        self.parts = parts
        self.model_name = parts.model_name
        self.figures = Figures(retriever=short(parts.retriever_name), kb=short(parts.kb_name))
        self.conversation: Conversation | None = None
        self.error: BaseException | None = None
        self.in_turn = False
        self._out = out
        self._approve = approve
        self._past = history or History()
        self._commands = Commands(self)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="chat")
        self.heading = Static(id="heading")
        self.talk = VerticalScroll(id="talk", can_focus=False)
        self.prompt = Prompt(self._past)
        self.status = Status()
        self._welcome = Static(classes="notice")
        self._approvals: list[Approval] = []
        self._views: list[TurnView] = []
        self._view: TurnView | None = None  # of the turn that goes on
        self._live: dict[int, str] = {}
        self._live_seen: dict[int, str] = {}
        self._began = 0.0
        self._mounted = time.monotonic()
        self._drawn = threading.Event()

    def compose(self) -> ComposeResult:
        yield self.heading
        yield self.talk
        yield self.prompt
        yield self.status

    def on_mount(self) -> None:
        self.talk.anchor()
        self.prompt.focus()
        self._draw_title()
        self.talk.mount(self._welcome)
        self.begin_capture_print(self)
        self.set_interval(TICK, self._tick)
        self._worker.submit(self._open)
        self.call_after_refresh(self._drawn.set)

    # ------------------------------------------------------------------ the other thread

    def _open(self) -> None:
        # Imports take the interpreter for themselves: first the person sees where to type.
        self._drawn.wait(DRAWN_SECONDS)
        try:
            self.conversation = conversation = self.parts.conversation(self._listen, self._out)
        except BaseException as error:
            self.error = error
            self._call(self.exit)
            return
        conversation.approve = self._approve
        self._call(lambda: self._opened(conversation))
        try:
            conversation.warm()
        except AgentDistillError as error:
            line = str(error)
            self._call(lambda: self.notice(line, trouble=True))

    def _opened(self, conversation: Conversation) -> None:
        self.figures.candidates = conversation.settings.candidates
        self.figures.usd = None if conversation.price is None else 0.0
        stored = f"\nTurns are stored in {conversation.folder}" if conversation.folder is not None else ""
        self._welcome.update(Content(f"Ready. /help lists commands and keys.{visible(stored)}"))
        if conversation.turns:
            self.show_loaded([turn.trajectory for turn in conversation.turns], str(conversation.folder))

    def job(
        self,
        work: Callable[[Conversation], T],
        done: Callable[[T], None],
        failed: Callable[[str], None] | None = None,
    ) -> None:
        """Do something with the conversation in its thread, then something on the screen: `done`, or if it
        cannot be done `failed`, which is told why."""

        def run() -> None:
            conversation = self.conversation
            if conversation is None:
                return
            try:
                found = work(conversation)
            except AgentDistillError as error:
                line = str(error)
                self._call(lambda: (failed or self._trouble)(line))
            except BaseException as error:
                self.error = error
                self._call(self.exit)
            else:
                self._call(lambda: done(found))

        self._worker.submit(run)

    def ask_now(self, work: Callable[[Conversation], T], done: Callable[[T], None]) -> None:
        """The same at once, for what takes no time and may be done while a turn goes on."""
        if self.conversation is None:
            raise UsageError("the model is still being opened")
        done(work(self.conversation))

    def _call(self, work: Callable[[], None]) -> None:
        self.post_message(Call(work))

    @on(Call)
    def _called(self, message: Call) -> None:
        message.work()

    def _listen(self, event: told.Event) -> None:
        """Told by the conversation, in any thread. Live text is picked up by the clock."""
        if isinstance(event, told.TextGrew):
            self._live[event.candidate] = event.text
        else:
            if isinstance(event, told.StepTaken):
                self._live = {}  # here: what the next step says may come before this one is drawn
            self._call(lambda: self._heard(event))

    # ------------------------------------------------------------------ turns

    @on(Prompt.Sent)
    def _sent(self, message: Prompt.Sent) -> None:
        text = message.text
        try:
            if text.lstrip().startswith("/"):
                self._commands.run(text)
            elif self.in_turn:
                raise UsageError("one question at a time", "Ctrl-C stops the turn that goes on")
            else:
                self._begin(text, lambda conversation: conversation.ask(text))
        except UsageError as error:
            self._trouble(str(error))
            self._give_back(text)

    @on(Prompt.Refused)
    def _paste_refused(self, message: Prompt.Refused) -> None:
        self.notice(
            f"{message.characters:,} characters are too many to paste: put them in a file and name it, @FILE",
            trouble=True,
        )

    def begin_retry(self) -> None:
        """The last turn once more."""
        if not self._views:
            raise UsageError("there is no turn yet")
        self._begin(self._views[-1].question, lambda conversation: conversation.retry())

    def _begin(self, question: str, work: Callable[[Conversation], Trajectory | None]) -> None:
        self.in_turn = True
        self._live, self._live_seen = {}, {}
        self._began = time.monotonic()
        self._view = TurnView(question, self.figures.candidates)
        self.talk.mount(self._view)
        self.talk.anchor()
        self.job(work, lambda _: None, self._not_begun)

    def _heard(self, event: told.Event) -> None:
        view = self._view
        match event:
            case told.TurnBegan():
                while len(self._views) >= event.number:  # a retry has undone them
                    self._views.pop().remove()
            case told.Noticed():
                self.notice(visible_line(event.text))
            case told.Drew():
                self.figures.speed = (
                    event.tokens / event.seconds if event.tokens and event.seconds > 0 else None
                )
            case told.TurnEnded() if view is not None:
                self._draw_live()
                view.end(event.trajectory)
                self._views.append(view)
                self._over()
            case told.TurnFailed() if view is not None:
                view.fail(event.message)
                self._give_back(view.question)
                self._over()
            case told.StepTaken() if view is not None:
                self._live_seen = {}
                view.take(event.step)
            case told.CodeRuns() if view is not None:
                self._draw_live()
                view.step.run(event.code)
            case told.ApprovalAsked():
                self._draw_live()
                approval = Approval(event.code, event.reply)
                self._approvals.append(approval)
                self.screen_stack[0].mount(approval, before=self.prompt)
                approval.focus()
            case told.PassagesFound() | told.EntriesRecalled() if view is not None:
                view.step.add_found(event)

    def _over(self) -> None:
        """The turn has ended, somehow."""
        conversation = self.conversation
        if conversation is not None:
            self.figures.add(conversation.meter.usage())
        self._view = None
        self.in_turn = False
        self._close_approvals()

    def _not_begun(self, line: str) -> None:
        """The turn could not begin: say so, and give the text back."""
        view, self._view, self.in_turn = self._view, None, False
        self._trouble(line)
        if view is not None:
            view.remove()
            self._give_back(view.question)

    def _trouble(self, line: str) -> None:
        self.notice(visible_line(line), trouble=True)

    def _give_back(self, text: str) -> None:
        prompt = self.prompt
        if text and not prompt.text.strip():
            prompt.put(text)

    # ------------------------------------------------------------------ what is drawn

    def notice(self, text: str, trouble: bool = False) -> None:
        """One line for the person."""
        self.show(text, "trouble" if trouble else "notice")

    def show(self, text: str, classes: str = "notice") -> None:
        """Text for the person, below what is there."""
        self.talk.mount(Static(Content(visible(text)), classes=classes))

    def show_loaded(self, turns: list[Trajectory], name: str) -> None:
        """A stored conversation in place of what is on the screen."""
        self.talk.remove_children()
        self._views = [recorded(turn) for turn in turns]
        self.talk.mount_all(self._views)
        for view, turn in zip(self._views, turns, strict=True):
            replay(view, turn)
        self.notice(f"{len(turns)} turns of {name}; their variables are not there any more")

    def drop_last_turn(self) -> None:
        """The last turn was undone."""
        if self._views:
            self._views.pop().remove()

    def _draw_title(self) -> None:
        self.heading.update(Content(f"agentdistill chat · {visible_line(self.model_name, 50)}"))

    def set_model_name(self, name: str) -> None:
        """Another model from now on."""
        self.model_name = name
        self._draw_title()

    def _tick(self) -> None:
        """Draw what has changed since the last time."""
        conversation = self.conversation
        if self.in_turn and self._view is not None and conversation is not None:
            self._draw_live()
            if conversation.busy:
                self._view.step.tick()
        if conversation is None:
            since = time.monotonic() - self._mounted
            self._welcome.update(Content(f"Opening {visible_line(self.model_name, 50)} ... {since:.0f} s"))
            return
        figures = self.figures
        if self._view is None:
            figures.sandbox = conversation.sandbox_state
            self.status.draw(figures.line(figures.seconds))
            return
        usage = conversation.meter.usage()
        figures.sandbox = "running" if self._view.step.runs_code else conversation.sandbox_state
        self.status.draw(figures.line(time.monotonic() - self._began, usage.tokens_in + usage.tokens_out))

    def _draw_live(self) -> None:
        if self._view is not None and self._live != self._live_seen:
            self._live_seen = dict(self._live)
            self._view.grow(self._live_seen)

    # ------------------------------------------------------------------ keys

    def action_stop(self) -> None:
        selected = self.screen.get_selected_text() or self.prompt.selected_text
        if isinstance(self.screen, HistorySearch):
            self.screen.action_leave()
        elif self.in_turn and self.conversation is not None:
            self.conversation.stop()
            self._close_approvals()
        elif selected:
            self.copy_to_clipboard(selected)
        else:
            self.notify("Ctrl-Q leaves; Ctrl-C stops a turn")

    def action_leave(self) -> None:
        if self.conversation is not None:
            self.conversation.stop()
        self.exit()

    def action_search(self) -> None:
        def chosen(text: str | None) -> None:
            if text is not None:
                self.prompt.put(text)

        self.push_screen(HistorySearch(self._past), chosen)

    def action_theme(self) -> None:
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"

    def action_type(self) -> None:
        self.prompt.focus()

    def action_scroll_talk(self, pages: int) -> None:
        (self.talk.scroll_page_down if pages > 0 else self.talk.scroll_page_up)(animate=False)

    @on(Approval.Answered)
    def _close_approvals(self) -> None:
        for approval in self._approvals:
            approval.remove()
        if self._approvals:
            self.prompt.focus()
        self._approvals = []

    def on_print(self, event: events.Print) -> None:
        """What a warning or a library wrote to stdout or stderr, without its colours."""
        text = Text.from_ansi(event.text).plain
        if text.strip():
            self._trouble(text)

    def end(self) -> None:
        """After the screen is gone: close what is open, in the thread that uses it."""

        def close() -> None:
            if self.conversation is not None:
                self.conversation.close()
                self.conversation.model.close()

        self._worker.submit(close)
        self._worker.shutdown(wait=True)


def run_chat(parts: Parts, out: Path, *, approve: bool, history: History) -> None:
    """Talk until the person leaves. Raises what kept the conversation from being opened, and bugs."""
    app = ChatApp(parts, out, approve=approve, history=history)
    try:
        app.run()
    finally:
        app.end()
    if app.error is not None:
        raise app.error
