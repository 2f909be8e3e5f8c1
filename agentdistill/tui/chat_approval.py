"""The question whether code may run."""

from __future__ import annotations

from concurrent.futures import Future
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from agentdistill.tui.chat_step import code


class Approval(Vertical, can_focus=True):
    """Shows code and waits for y or n. A turn that is stopped meanwhile does not wait any more."""

    DEFAULT_CSS = """
    Approval { height: auto; max-height: 14; border: round $warning; padding: 0 1; overflow-y: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Run it"),
        Binding("n,escape", "answer(False)", "Do not"),
    ]

    class Answered(Message):
        """It was."""

    def __init__(self, text: str, reply: Future[bool]) -> None:
        super().__init__()
        self._text = text
        self._reply = reply

    def compose(self) -> ComposeResult:
        yield Static(Content("Run this code?  y  n"))
        yield Static(code(self._text))

    def action_answer(self, yes: bool) -> None:
        if not self._reply.done():
            self._reply.set_result(yes)
        self.post_message(self.Answered())
